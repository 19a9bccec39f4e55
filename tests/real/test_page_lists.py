"""The page with many streams and sinks, and its sign-in where the server refuses the page itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

import millrace
from tests.real.pages import in_browser, shot

from .browser import Chromium, Page
from .conftest import Bus

MANY, FOLD = 40, 12
COUNT = "document.querySelectorAll('#mix .thing').length"
HEIGHT = "document.documentElement.scrollHeight"
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"
MIX = "document.querySelector('#mix').textContent"
GRAPH = "document.querySelector('#graph svg').getAttribute('aria-label')"
BESIDE = """[...document.querySelectorAll('#mix select')].every((one) => {
const [a, b] = [one, one.parentElement.querySelector('button')].map((each) => each.getBoundingClientRect());
return a.top < b.bottom && b.top < a.bottom; })"""


@asynccontextmanager
async def busy(bus: Bus, count: int) -> AsyncIterator[None]:
    """So many streams of one program, and so many sinks that nobody uses."""
    async with AsyncExitStack() as stack:
        path = bus.runtime / "millrace" / "native.sock"
        line = await stack.enter_async_context(millrace.connect(path, name="many.py"))
        for number in range(count):
            await line.call("sink.add", guest="default", name=f"sink-{number:02}")
            song = line.play(name=f"Song {number:02}", props={"application.name": "many.py"})
            await stack.enter_async_context(song)
        yield


def typed(text: str) -> str:
    """Type into the filter."""
    filter_ = "document.querySelector('#filter')"
    return f"{filter_}.value = {text!r}; {filter_}.dispatchEvent(new Event('input'))"


@pytest.mark.beside
def test_long_lists_are_folded_and_can_be_filtered(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        async with busy(bus, MANY):
            await page.size(1280, 800)
            await page.until(f"{MIX}.includes('Show all {MANY} streams')")
            assert await page.run(COUNT) == 2 * FOLD
            assert "many.py: Song 03" in await page.run(MIX) and "unused" in await page.run(MIX)
            assert await page.run("document.querySelectorAll('#graph rect').length") == 2 * FOLD
            assert await page.run(GRAPH) == ("Graph of guest default: 12 streams, 12 sinks; 58 more are not shown")
            assert await page.run(HEIGHT) < 4000
            await shot(page, "many-1280")
            await page.click("#mix .more")
            await page.until(f"{COUNT} === {MANY + FOLD}")
            await page.click("#mix .more")
            await page.until(f"{COUNT} === {2 * FOLD}")
            await page.run(typed("song 3"))
            await page.until(f"{COUNT} === 10")
            await page.run(typed("nothing like it"))
            await page.until(f"{MIX} === 'Nothing matches the filter.'")
            await page.run(typed(""))
            await page.size(360, 780)
            await page.until(f"{COUNT} === {2 * FOLD}")
            assert not await page.run(TOO_WIDE)
            await shot(page, "many-360")
            assert not page.errors

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_short_lists_are_shown_completely_without_filter(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        async with busy(bus, 5):
            for width in (1280, 360):
                await page.size(width, 800)
                await page.until(f"{COUNT} >= 11")
                assert await page.run("document.querySelector('#filtered').hidden && !document.querySelector('.more')")
                assert not await page.run(TOO_WIDE)
                assert await page.run(BESIDE), "the choice of a stream's sink has its own line"
                assert await page.run("document.querySelectorAll('#mix meter').length") == 1, (
                    "unused sinks have no level"
                )
                assert await page.run(GRAPH) == "Graph of guest default: 5 streams, 6 sinks, 1 source"
                await asyncio.sleep(0.6)
                await shot(page, f"few-{width}")

    in_browser(chromium, bus, test)


REFUSED = """(() => { const real = fetch; globalThis.fetch = (url, how) => String(url).endsWith("/session")
? Promise.resolve(new Response("the page's origin does not match this host; set public_url\\n",
{ status: 403, headers: { "Content-Type": "text/plain; charset=utf-8" } })) : real(url, how); })()"""


@pytest.mark.beside
def test_refused_sign_in_shows_the_servers_reason(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.until("!document.querySelector('#login').hidden")
        await page.run(REFUSED)
        await page.run("document.querySelector('#token').value = 'mr_x'")
        await page.run("document.querySelector('#login').requestSubmit()")
        await page.until("document.querySelector('#wrong').textContent")
        said = await page.run("document.querySelector('#wrong').textContent")
        assert "does not match this host; set public_url" in said and "not valid" not in said

    in_browser(chromium, bus, test, bus.link().partition("#")[0])


@pytest.mark.beside
def test_page_signed_in_with_a_token_knows_its_rights(chromium: Chromium, bus: Bus) -> None:
    token = bus.cli("token", "new", "--may", "all").stdout.strip()

    async def test(page: Page) -> None:
        await page.until("!document.querySelector('#login').hidden")
        await page.run(f"document.querySelector('#token').value = {token!r}")
        await page.run("document.querySelector('#login').requestSubmit()")
        await page.until("!document.querySelector('#rights').hidden")
        assert (await page.run("millrace.state.you")).startswith("token/")

    in_browser(chromium, bus, test, bus.link().partition("#")[0])


FAULTS_AT = """import("/page/lines.js").then(({ listener }) =>
[[0, 0], [1, 218], [2, 218], [60, 218], [61, 219]].map(([seconds, skipped]) => {
  const settings = { codec: "s16", bitrate: 1 }, one = { id: "listener/999", name: "x", settings, bitrate: 1, skipped, underruns: 1 };
  return listener(one, () => {}, {}, seconds * 1000).querySelector(".bad") ? "bad" : "soft";
}).join())"""  # noqa: E501
IN_VIEW = """[...document.querySelectorAll("nav a")].filter((a) => a.checkVisibility()).map((a) => {
  const at = a.getBoundingClientRect(), nav = a.parentElement.getBoundingClientRect();
  return at.left >= nav.left && at.right <= Math.min(nav.right, innerWidth);
})"""


@pytest.mark.beside
def test_faults_of_a_listener_are_red_only_while_they_grow(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        assert await page.run(FAULTS_AT) == "soft,bad,bad,soft,bad"

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_all_of_the_navigation_is_in_view_on_a_phone(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.size(390, 844)
        await page.until(f"{IN_VIEW}.length >= 5")
        await shot(page, "nav-390")
        inside = await page.run(f"document.querySelector('#to-wall').hidden = false; {IN_VIEW}")
        assert inside == [True] * 6

    in_browser(chromium, bus, test)
