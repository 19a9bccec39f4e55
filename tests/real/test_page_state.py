"""What the page shows of the daemon's state, in real browsers, and how it looks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.real.pages import SHOTS, audited, in_browser, listening, playing, shot

from .browser import Chromium, Page
from .conftest import Bus, wait_for

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]


EMPTY = """[...document.querySelectorAll("main section")].filter((card) => card.offsetHeight).map((card) =>
[card.querySelector("h2").textContent, card.getBoundingClientRect().bottom
 - Math.max(...[...card.children].map((child) => child.getBoundingClientRect().bottom))])"""


@pytest.mark.beside
def test_cards_are_no_larger_than_their_content(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.until("document.querySelector('#listeners').textContent")
        for width in (390, 900, 1000, 1280, 1700):
            await page.size(width, 800)
            cards = dict(await page.run(EMPTY))
            assert len(cards) >= 5 and max(cards.values()) < 40, (width, cards)

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_list_without_incidents_shows_no_numbers(chromium: Chromium, bus: Bus) -> None:
    none = """import("/page/objects.js").then(({ Objects: { prototype } }) => { const all = prototype.of;
prototype.of = function (kind, guest) { return kind === "incident" ? [] : all.call(this, kind, guest); };
return true; })"""
    marks = "[...document.querySelectorAll('#incidents li')].map((li) => getComputedStyle(li).listStyleType)"

    async def test(page: Page) -> None:
        await page.until("document.querySelector('#guest').value")
        await page.run(none)
        await page.click("#mix button")  # Any change redraws the page.
        await page.until("document.querySelector('#incidents').textContent === 'None.'")
        assert await page.run(marks) == ["none"]

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_volumes_mutes_and_incidents_are_on_the_page(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await page.until("document.querySelectorAll('#mix .thing').length >= 3")
        await page.click("#mix .thing button")
        await asyncio.to_thread(wait_for, lambda: bus.guest()["streams"][0]["mute"])
        await page.until("document.querySelector('#mix .thing button').textContent === 'Muted'")
        bus.cli("set", "sink/default", "volume=50%")
        await page.until("[...document.querySelectorAll('#mix .thing')].some(t => t.textContent.includes('50 %'))")
        bus.cli("sink", "add", "music")
        await page.until("document.querySelectorAll('#graph rect').length >= 4")
        bus.cli("prompt", "microphone")
        bus.spawn("parec", "-d", "microphone", "--raw", str(tmp_path / "raw"))
        await page.until("document.querySelector('#requests').textContent.includes('pacat')")
        await page.click("#requests button")
        await asyncio.to_thread(wait_for, lambda: bus.guest()["recorders"])
        assert not page.errors

    in_browser(chromium, bus, test)


ASKED_FOR = "performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('/api/')).join(' ')"


@pytest.mark.beside
def test_changes_are_shown_without_requesting_the_state_again(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        mix = "[...document.querySelectorAll('#mix .thing')].map(t => t.textContent).join()"
        await page.until(f"{mix}.includes('RMS -9 dB') && !document.querySelector('#rights').hidden")
        asked = await page.run(ASKED_FOR)
        assert asked.count("/state") == 1 and asked.count("/incidents") == 1, asked
        for percent in (50, 70):
            bus.cli("set", "sink/default", f"volume={percent}%")
            await page.until(f"{mix}.includes('{percent} %')")
        # Levels are measurements, not changes of an object, but arrive too: 70 % is 9.3 dB less.
        await page.until(f"{mix}.includes('RMS -18 dB')")
        bus.cli("token", "new", "--may", "see", "--name", "one that is new")
        await page.until("document.querySelector('#tokens').textContent.includes('one that is new')")
        bus.cli("revoke", "monitor", "--program", "ear")
        await page.until("document.querySelector('#grants').textContent.includes('ear may not')")
        bus.cli("token", "revoke", "token/1")
        await page.until("!document.querySelector('#tokens').textContent.includes('one that is new')")
        bus.cli("guest", "add", "alice")
        await page.until("[...document.querySelector('#guest').options].length === 2")
        assert await page.run(ASKED_FOR) == asked
        await shot(page, "deltas")
        await page.click("#mix .thing button")
        await page.until("document.querySelector('#mix .thing button').textContent === 'Muted'")
        assert (await page.run(ASKED_FOR)).removeprefix(asked).split("/")[-1] == "set"
        assert not page.errors

    in_browser(chromium, bus, test)


GRAPH_FITS = """(() => {
  const box = document.getElementById("graph"), found = [...box.querySelectorAll("g")];
  return found.length >= 4 && box.scrollWidth <= box.clientWidth && found.every((one) => {
    const edge = one.querySelector("rect").getBoundingClientRect();
    return [...one.querySelectorAll("text")].every((text) => {
      const ink = text.getBoundingClientRect();
      return ink.height >= 12 && ink.right <= edge.right && ink.left >= edge.left;
    });
  });
})()"""
"""Checks that the whole graph is visible, in legible letters, and that each label fits its box."""


@pytest.mark.beside
def test_page_is_accessible_small_and_fits_a_phone(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await listening(page)
        # A picture for the manual should show the page after it has run for a while.
        await asyncio.sleep(40 if SHOTS else 1.5)
        sizes = (1280, 900, False), (390, 844, True), (390, 844, False), (360, 740, False), (1280, 900, True)
        async for width, _, dark in audited(page, *sizes):
            await page.until(GRAPH_FITS)
            if width != 360:
                await shot(page, f"page-{'wide' if width > 600 else 'narrow'}{'-dark' * dark}")
        size = await page.run(
            "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
            ".filter(e => !e.name.includes('/api/')).reduce((s, e) => s + e.encodedBodySize, 0)"
        )
        assert 5_000 < size < 200_000

    in_browser(chromium, bus, test)
