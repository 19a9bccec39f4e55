"""What the page says of a guest's picture: its size, its rate and its age; and what of it is in view."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.real.pages import shot
from tests.real.screenpages import HEIGHT, STATE, WIDTH, begin, in_chromium

from .browser import Chromium, Page
from .screenserver import RAW, Rect, ScreenServer, painted, part

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
FACTS = "document.querySelector('#screen-facts').textContent"
SPOT = Rect(0, 0, 8, 8)
BOX = "(({ width, height }) => [width, height])(document.querySelector('#stage').getBoundingClientRect())"


AGES = """import('/page/ages.js').then(({ Ages }) => {
  const S = 1e9, out = [], ages = new Ages();
  const pong = (at, ahead = 0) => ages.pong(at * S, (at + ahead) * S, at * S);
  const drawn = (painted, at, skew) => ages.drawn(painted * S, ages.remote(at * S, at * S), skew);
  const take = () => { const { pictures, latency, skew } = ages.take(); out.push([pictures, latency, skew]); };
  // The clocks are alike. A picture that was painted long before the page came is not measured.
  pong(100); drawn(3, 100.1, null); take();
  // What is painted now is; the same paint again says nothing, nor does what was painted while the page was hidden.
  drawn(100.2, 100.24, 7e6); take();
  drawn(100.2, 101, 800e6); ages.anew(); drawn(100.5, 101.5, 1e9); take();
  drawn(101.6, 101.63, 5e6); take();
  // The page's machine slept for 29 s. What was painted meanwhile comes before a ping is answered, and after that.
  drawn(103, 131, 28e9); take();
  pong(131.1); drawn(104, 131.1, 27e9); take();
  drawn(131.2, 131.22, 9e6); take();
  // The daemon's machine slept for 29 s, and its clock stood still.
  pong(162, -29); drawn(132.9, 162, 1e6); take();
  drawn(133.1, 162.11, 2e6); take();
  // A clock was set.
  pong(163); drawn(162.9, 163, 3e6); take();
  drawn(163.1, 163.15, 4e6); take();
  return out;
})"""


AGED = [
    [0, None, None], [1, 40, 7], [0, 40, 7], [1, 30, 5], [1, None, None], [0, None, None], [1, 20, 9], [0, 20, 9],
    [1, 10, 2], [0, 10, 2], [1, 50, 4],
]  # fmt: skip


def aged(told: list[list[float | None]]) -> list[list[int | None]]:
    """How many pictures were measured, and in ms how old the newest was and how far from its sound."""
    return [[one and round(one / by) for one, by in zip(each, (1, 1e6, 1e6), strict=True)] for each in told]


def test_age_is_that_of_paint_and_neither_of_what_stood_still_nor_of_sleep(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        assert aged(await page.run(AGES)) == AGED

    in_chromium(chromium, test)


def test_what_shadows_and_colours_show_is_shown_by_lines_in_the_users_own_colours(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        await server.tell("keyboard", mine=True, who="somebody")
        await page.click("#stage")
        await page.until("document.querySelector('.captured') !== null")
        of = "((at, what) => getComputedStyle(document.querySelector(at))[what])"
        looks = (
            f"[{of}('#listen', 'borderTopStyle'), {of}('.captured #screen-room', 'outlineStyle'),"
            f" {of}('#screen-room', 'boxShadow') === 'none']"
        )
        assert await page.run(looks) == ["none", "none", False]
        own = [{"name": "forced-colors", "value": "active"}]
        await page.send("Emulation.setEmulatedMedia", features=own)
        await page.until("matchMedia('(forced-colors: active)').matches")
        assert await page.run(looks) == ["solid", "solid", True]
        await page.run("document.querySelector('#listen').setAttribute('aria-pressed', 'true')")
        assert await page.run(f"{of}('#listen', 'borderTopStyle')") == "double"

    in_chromium(chromium, test)


def test_age_is_told_above_the_picture_of_what_was_painted_since(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        # The clock counts from the start of the machine, which may be less than 500 s ago.
        old = max(time.monotonic_ns() - 500 * 10**9, 1)
        await page.open(server.url)
        await server.until("watch")
        await server.welcome(WIDTH, HEIGHT)
        await server.whole(painted(WIDTH, HEIGHT), painted_ns=old)
        await page.until(f"{STATE} === 'on' && {FACTS}.includes('still')")
        assert "after painting" not in await page.run(FACTS)
        await server.send(part(RAW, SPOT, bytes(8 * 8 * 4)))
        await page.until(f"{FACTS}.includes(' ms after painting') && {FACTS}.includes('1 picture a second')")
        await page.until(f"{FACTS}.includes('still')")
        # However long the machine takes for it, this is of the newest paint, and not of the first picture.
        assert float((await page.run(FACTS)).split(" ms after painting")[0].rpartition(" ")[2]) < 100_000

    in_chromium(chromium, test)


def test_scaled_picture_is_shown_at_the_screens_size(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        await begin(page, server, painted(640, 384))
        assert await page.run(BOX) == [640, 384]
        await server.tell("settings", settings={"picture": "auto", "scale": "0.5"})
        await server.tell("mode", width=320, height=192, generation=2)
        await server.whole(painted(320, 192), generation=2)
        await page.until(f"{FACTS}.startsWith('640 × 384') && millrace.viewer.mode.width === 320")
        assert await page.run(BOX) == [640, 384]
        await server.tell("keyboard", mine=True, who="somebody")
        await page.click("#stage")
        pressed = await server.until("pointer", buttons=1)
        assert abs(pressed["x"] - 160) <= 1 and abs(pressed["y"] - 96) <= 1, "places are those of the picture"

    in_chromium(chromium, test)


@pytest.mark.parametrize("form", [(1920, 1080), (1024, 768), (800, 1200), (3440, 1440)])
def test_picture_and_its_controls_are_in_view_together(chromium: Chromium, form: tuple[int, int]) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 800)
        await begin(page, server, painted(*form))
        await page.until("document.querySelector('#screen-who').textContent === 'Click the picture to type.'")
        for selector in ("#stage", "#screen-who", "#screen-keyboard", "#screen-full", "#screen-sound"):
            box = await page.run(
                f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
                " return [r.left, r.top, r.right, r.bottom] })()"
            )
            assert box[0] >= 0 and box[1] >= 0 and box[2] <= 1280 and box[3] <= 800, (selector, box)
        wide, tall = await page.run(BOX)
        assert abs(wide / tall - form[0] / form[1]) < 0.01

    in_chromium(chromium, test)


def test_long_name_widens_nothing(chromium: Chromium) -> None:
    name = "marketing-and-communications-desktop-0042"

    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        select = "document.querySelector('#guest')"
        await page.run(f"{select}.replaceChildren(new Option({name!r}))")
        for width in (1280, 420):
            await page.size(width, 800)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth")
            assert await page.run(f"{select}.getBoundingClientRect().width <= 260")
            assert await page.run(
                "document.querySelector('header').getBoundingClientRect().height < (innerWidth < 600 ? 220 : 70)"
            )

    in_chromium(chromium, test)


def test_viewers_of_one_name_are_told_apart(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        viewer = {"by": "token/5", "hidden": False, "fps": 1.2, "latency_ms": None}
        both = [
            viewer | {"id": f"viewer/{n}", "name": name, "keyboard": name == "pad"}
            for n, name in enumerate(("Alice Smith", "pad", "Alice Smith"))
        ]
        made = (
            f"import('/page/viewers.js').then((all) => all.viewerList({json.dumps(both)}, 'viewer/2', () => {{}}, %s)"
            ".map((one) => one.textContent))"
        )
        listed = await page.run(made % "true")
        assert listed[0].startswith("padtoken/5, 1 picture a second") and listed[0].endswith(
            "has the keyboardTake over"
        )
        assert listed[1].startswith("Alice Smith (2)this page") and listed[2].startswith("Alice Smith (1)token/5")
        assert "keyboard" not in "".join(await page.run(made % "false")), (
            "without a screen there is nothing to type into"
        )
        who = "document.querySelector('#screen-who').textContent"
        await server.tell("keyboard", mine=False, who="Bob")
        await page.until(f"{who} === 'Bob has the keyboard.'")
        await server.tell("keyboard", mine=False, who="Alice Smith")
        await page.until(f"{who} === 'Another browser of Alice Smith has the keyboard.'")

    in_chromium(chromium, test)


def test_size_that_was_asked_of_one_guest_is_not_asked_of_the_next(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        scale = "document.querySelector('#screen-scale')"
        await page.run(f"{scale}.value = 'guest'")
        await page.run("millrace.viewer.choose('other', [])")
        assert await page.run(f"{scale}.value") == "fit"

    in_chromium(chromium, test)


def test_size_that_the_guest_does_not_take_is_said_and_so_is_what_resizing_needs(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        scale, facts = "document.querySelector('#screen-scale')", "document.querySelector('#screen-facts').textContent"
        chosen = f"({scale}.value = 'guest', {scale}.dispatchEvent(new Event('change')))"
        await page.run(chosen)
        await page.until(f"{facts}.includes('take the keyboard')")
        await server.tell("keyboard", mine=True, who="")
        wish = await server.until("size")
        await page.until(f"{facts}.includes('keeps its screen of {WIDTH} × {HEIGHT}')")
        assert await page.run(f"{facts}.includes('{wish['width']} × {wish['height']}')")
        # One that it takes is not remarked on.
        await page.run("millrace.viewer.remark('')")
        await page.run(chosen)
        await server.until("size", 2)
        await server.tell("mode", width=WIDTH + 8, height=HEIGHT, generation=2)
        await server.whole(painted(WIDTH + 8, HEIGHT), generation=2)
        await page.until(f"{facts}.startsWith('{WIDTH + 8}')")
        await asyncio.sleep(4.5)
        assert "keeps" not in await page.run(facts)

    in_chromium(chromium, test)


@pytest.mark.parametrize(("width", "height"), [(844, 390), (667, 375)])
def test_phone_held_sideways_shows_the_desktop_and_its_controls_from_a_tab(
    chromium: Chromium, width: int, height: int
) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(width, height)
        await begin(page, server, painted(1280, 800))
        high = "document.querySelector('%s').getBoundingClientRect().height"
        assert await page.run(high % "header") < 60
        bottom = await page.run("document.querySelector('#stage').getBoundingClientRect().bottom")
        assert bottom <= height and await page.run(high % "#stage") > 0.6 * height
        tools = "document.querySelector('#screen-tools').getBoundingClientRect()"
        frame = "document.querySelector('#screen-frame').getBoundingClientRect()"
        assert await page.run(f"{tools}.bottom <= {frame}.top + 1"), "they are out of sight"
        await shot(page, f"sideways-{width}")
        await page.click("#screen-tab")
        await page.until(f"{tools}.top >= {frame}.top - 1")
        assert await page.run("getComputedStyle(document.querySelector('#screen-tools')).opacity") == "1"
        assert not await page.run("document.querySelector('#screen-hide').checkVisibility()"), "it could not be undone"
        await shot(page, f"sideways-tools-{width}")
        await page.size(420, 800)
        await page.until("!document.body.classList.contains('short')")
        assert await page.run(high % "header") < 150
        await shot(page, "upright")

    in_chromium(chromium, test)
