"""What the page says of a guest's picture: its size, its rate and its age; and what of it is in view."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.real.screenpages import HEIGHT, STATE, WIDTH, begin, in_chromium

from .browser import Chromium, Page
from .screenserver import RAW, Rect, ScreenServer, painted, part

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
FACTS = "document.querySelector('#screen-facts').textContent"
SPOT = Rect(0, 0, 8, 8)
BOX = "(({ width, height }) => [width, height])(document.querySelector('#stage').getBoundingClientRect())"


def test_age_is_that_of_paint_and_not_of_what_stood_still(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        old = time.monotonic_ns() - 500 * 10**9
        await page.open(server.url)
        await server.until("watch")
        await server.welcome(WIDTH, HEIGHT)
        await server.whole(painted(WIDTH, HEIGHT), painted_ns=old)
        await page.until(f"{STATE} === 'on' && {FACTS}.includes('still')")
        await asyncio.sleep(1.2)
        assert "after painting" not in await page.run(FACTS)
        await server.send(part(RAW, SPOT, bytes(8 * 8 * 4)))
        await page.until(f"{FACTS}.includes(' ms after painting') && {FACTS}.includes('1 picture a second')")
        # The same paint again, sharper; and a browser tab that was hidden meanwhile is sent what is old.
        newest = time.monotonic_ns()
        await server.send(part(RAW, SPOT, bytes(8 * 8 * 4)), painted_ns=newest)
        await asyncio.sleep(1.5)
        await server.send(part(RAW, SPOT, bytes(8 * 8 * 4)), painted_ns=newest)
        await page.run("millrace.viewer.say({ type: 'hidden', hidden: false })")
        await server.until("hidden")
        await server.whole(painted(WIDTH, HEIGHT), painted_ns=newest + 1)
        await server.until("shown", serial=server.serial)
        await asyncio.sleep(1.2)
        shown = await page.run(FACTS)
        assert float(shown.split(" ms after painting")[0].rpartition(" ")[2]) < 400, shown
        await page.until(f"{FACTS}.includes('still')")

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
        viewer = {"by": "owner", "hidden": False, "fps": 1.2, "latency_ms": None}
        both = [
            viewer | {"id": f"viewer/{n}", "name": name, "keyboard": name == "pad"}
            for n, name in enumerate(("browser of owner", "pad", "browser of owner"))
        ]
        made = (
            f"import('/page/viewers.js').then((all) => all.viewerList({json.dumps(both)}, 'viewer/2', () => {{}}, %s)"
            ".map((one) => one.textContent))"
        )
        listed = await page.run(made % "true")
        assert listed[0].startswith("padowner, 1 picture a second") and listed[0].endswith("has the keyboardTake over")
        assert listed[1].startswith("browser of owner (2)this page") and listed[2].startswith(
            "browser of owner (1)owner"
        )
        assert "keyboard" not in "".join(await page.run(made % "false")), (
            "without a screen there is nothing to type into"
        )
        await server.tell("keyboard", mine=False, who="browser of somebody")
        who = "document.querySelector('#screen-who').textContent"
        await page.until(f"{who} === 'Another browser of somebody has the keyboard.'")

    in_chromium(chromium, test)


def test_size_that_was_asked_of_one_guest_is_not_asked_of_the_next(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        scale = "document.querySelector('#screen-scale')"
        await page.run(f"{scale}.value = 'guest'")
        await page.run("millrace.viewer.choose('other', [])")
        assert await page.run(f"{scale}.value") == "fit"

    in_chromium(chromium, test)
