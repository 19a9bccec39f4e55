"""Keyboard, pointer and fingers on a guest's screen, in real browsers: what arrives in the guest."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from millrace.wire.keys import BY_NAME
from tests.real.screenpages import HEIGHT, WIDTH, begin, held_keys, in_chromium, press

from .browser import Chromium, Page
from .conftest import need
from .firefox import Firefox
from .screenserver import (
    SHAPE,
    Rect,
    ScreenServer,
    painted,
    part,
    piece,
)  # fmt: skip

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]


def test_keys_arrive_as_scan_codes_and_none_stays_down(chromium: Chromium) -> None:
    in_chromium(chromium, held_keys)


def test_page_and_daemon_number_keys_alike(chromium: Chromium) -> None:
    codes = {name: key.code for name, key in BY_NAME.items()}
    table = f"import('/page/keys.js').then(({{ scanCode }}) => {json.dumps(list(codes))}.map(scanCode))"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        assert dict(zip(codes, await page.run(table), strict=True)) == codes

    in_chromium(chromium, test)


async def typing(page: Page, server: ScreenServer) -> None:
    """A page that has the keyboard, and whose keys go to the guest."""
    await begin(page, server, painted(WIDTH, HEIGHT))
    await page.click("#stage")
    await server.tell("keyboard", mine=True, who="somebody")
    await page.until("document.querySelector('#screen-who').textContent.includes('You are typing')")


def sent(server: ScreenServer, since: int = 0) -> list[tuple[Any, ...]]:
    """The keys that arrived: code, whether down, and what it means if that was told."""
    got = [one for one in server.got[since:] if one["type"] == "key"]
    return [tuple(one[name] for name in ("code", "down", "key") if name in one) for one in got]


def test_what_a_key_means_is_told_and_a_dead_key_is_released(chromium: Chromium) -> None:
    layout = "navigator.keyboard.getLayoutMap = async () => new Map([['Equal', \"'\"], ['Quote', \"'\"]])"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.send("Page.addScriptToEvaluateOnNewDocument", source=layout)
        await typing(page, server)
        for code, key in (("KeyY", "z"), ("AltRight", "AltGraph"), ("KeyQ", "@")):
            await press(page, code, key, True)
            await press(page, code, key, False)
        # Chromium does not tell when a dead key is released.
        await press(page, "Equal", "Dead", True)
        await press(page, "Digit6", "Dead", True)
        await press(page, "KeyE", "e", True)
        await server.until("key", code=0x12, down=True)
        assert sent(server) == [
            (0x15, True, "z"), (0x15, False), (0xB8, True, "AltGraph"), (0xB8, False), (0x10, True, "@"), (0x10, False),
            (0x0D, True, "\u0301"), (0x0D, False), (0x07, True, "Dead"), (0x07, False), (0x12, True, "e"),
        ]  # fmt: skip
        shifted = "{ code, shiftKey: true, getModifierState: () => false }"
        accents = (
            "import('/page/keys.js').then(async ({ Keys }) => { const keys = new Keys(() => {}, () => {});"
            f" await keys.learn(); return ['Equal', 'Quote', 'KeyA'].map((code) => keys.dead({shifted})); }})"
        )
        assert await page.run(accents) == ["\u0300", "\u0308", "Dead"]

    in_chromium(chromium, test)


def test_keys_that_windows_never_releases_do_not_stay_down(chromium: Chromium) -> None:
    platform = "Object.defineProperty(navigator, 'platform', { get: () => 'Win32' })"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.send("Page.addScriptToEvaluateOnNewDocument", source=platform)
        await typing(page, server)
        for code, key in (("ShiftLeft", "Shift"), ("ShiftRight", "Shift")):
            await press(page, code, key, True)
        # It tells of one of both.
        await press(page, "ShiftRight", "Shift", False)
        await press(page, "KanaMode", "Hiragana", True)
        await press(page, "CapsLock", "Alphanumeric", True)
        await press(page, "KeyA", "a", True)
        await server.until("key", code=0x1E, down=True)
        assert sent(server) == [
            (0x2A, True, "Shift"), (0x36, True, "Shift"), (0x2A, False), (0x36, False), (0x70, True, "Hiragana"),
            (0x70, False), (0x3A, True, "Alphanumeric"), (0x3A, False), (0x1E, True, "a"),
        ]  # fmt: skip

    in_chromium(chromium, test)


def test_shift_that_was_released_elsewhere_is_released_with_the_next_event(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await typing(page, server)
        await press(page, "ShiftLeft", "Shift", True)
        await press(page, "KeyA", "a", True)
        await server.until("key", code=0x1E, down=True)
        assert sent(server) == [(0x2A, True, "Shift"), (0x2A, False), (0x1E, True, "a")]
        await press(page, "ShiftRight", "Shift", True)
        await server.until("key", code=0x36, down=True)
        await page.click("#stage")
        await server.until("key", code=0x36, down=False)

    in_chromium(chromium, test)


def test_keyboard_is_taken_over_and_given_up(chromium: Chromium) -> None:
    who = "document.querySelector('#screen-who').textContent"

    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        await server.tell("keyboard", mine=False, who="alice")
        await page.until(f"{who} === 'alice has the keyboard.'")
        await page.click("#stage")
        await press(page, "KeyB", "b", True)
        await page.click("#screen-keyboard")
        await server.until("keyboard", take=True)
        assert len([one for one in server.got if one["type"] == "keyboard"]) == 1, "a click does not take it from alice"
        assert not [one for one in server.got if one["type"] in ("key", "pointer")]
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until(f"{who}.includes('You are typing')")
        await press(page, "KeyB", "b", True)
        await server.until("key", code=0x30, down=True)
        # Somebody else takes it while a key is down.
        await server.tell("keyboard", mine=False, who="bob")
        await page.until(f"{who} === 'bob has the keyboard.'")
        count = len(server.got)
        await press(page, "KeyC", "c", True)
        await page.click("#screen-keyboard")
        await server.until("keyboard", 2, take=True)
        assert not [one for one in server.got[count:] if one["type"] == "key" and one["code"] == 0x2E]
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until(f"{who}.includes('You are typing')")
        for code, key in (("ControlLeft", "Control"), ("AltLeft", "Alt"), ("ShiftLeft", "Shift")):
            await press(page, code, key, True)
        await page.until("document.activeElement.id === 'screen-keyboard'")
        for number in (0x1D, 0x38, 0x2A):
            await server.until("key", code=number, down=False)
        await page.click("#screen-keyboard")
        await server.until("keyboard", take=False)

    in_chromium(chromium, test)


def test_click_that_takes_the_keyboard_is_passed_on_once_it_is_granted(chromium: Chromium) -> None:
    def done(server: ScreenServer) -> list[tuple[str, int, bool]]:
        """What was pressed, in its order: (kind, button or code, down)."""
        acts = [one for one in server.got if one["type"] in ("key", "pointer")]
        return [
            (one["type"], one.get("buttons", one.get("code", 0)), one.get("down", bool(one.get("buttons"))))
            for one in acts
        ]

    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 800)
        await begin(page, server, painted(WIDTH, HEIGHT))
        x, y = await page.middle("#stage")
        await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x - 50, y=y)
        await page.click("#stage")
        await press(page, "KeyA", "a", True)
        await press(page, "KeyA", "a", False)
        await server.until("keyboard", take=True)
        await asyncio.sleep(0.2)
        assert not done(server), "not before the keyboard is granted"
        await server.tell("keyboard", mine=True, who="somebody")
        await server.until("key", code=0x1E, down=False)
        pressed = [("pointer", 1, True), ("pointer", 0, False), ("key", 0x1E, True), ("key", 0x1E, False)]
        assert [one for one in done(server) if one != ("pointer", 0, False)] == [pressed[0], *pressed[2:]]
        assert done(server)[-4:] == pressed
        at = next(one for one in server.got if one["type"] == "pointer" and one["buttons"] == 1)
        assert (abs(at["x"] - WIDTH // 2), abs(at["y"] - HEIGHT // 2)) <= (1, 1)

    async def refused(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        await page.click("#stage")
        await server.until("keyboard", take=True)
        await server.tell("keyboard", mine=False, who="alice")
        await page.until("document.querySelector('#screen-who').textContent === 'alice has the keyboard.'")
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("millrace.viewer.mine")
        await asyncio.sleep(0.2)
        assert not done(server), "a click at somebody else's keyboard is not kept"

    async def relative(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT), relative=True)
        await page.click("#stage")
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("millrace.viewer.mine")
        await asyncio.sleep(0.2)
        assert not done(server), "the guest's pointer is elsewhere"

    in_chromium(chromium, test)
    in_chromium(chromium, refused)
    in_chromium(chromium, relative)


def test_pointer_and_wheel_arrive_in_the_guests_pixels(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        # Twice as wide as the window.
        await page.size(1000, 800)
        await begin(page, server, painted(2000, 1000))
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("document.querySelector('#screen-who').textContent.includes('You have')")
        x, y = await page.middle("#stage")
        box = await page.run(
            "(() => { const r = document.querySelector('#stage').getBoundingClientRect();"
            " return [r.left, r.top, r.width, r.height]; })()"
        )
        mouse = {"x": x, "y": y}
        await page.send(
            "Input.dispatchMouseEvent", type="mousePressed", button="right", buttons=2, clickCount=1, **mouse
        )
        pressed = await server.until("pointer", buttons=4, relative=False)
        await page.send(
            "Input.dispatchMouseEvent", type="mouseReleased", button="right", buttons=0, clickCount=1, **mouse
        )
        assert abs(pressed["x"] - 1000) <= 2 and abs(pressed["y"] - 500) <= 2, (pressed, box)
        corner = {"x": box[0] + box[2] - 2, "y": box[1] + box[3] - 2}
        await page.send("Input.dispatchMouseEvent", type="mouseMoved", **corner)
        await server.until("pointer", 3)
        moved = [one for one in server.got if one["type"] == "pointer"][-1]
        assert 1990 < moved["x"] < 2000 and 990 < moved["y"] < 1000 and moved["buttons"] == 0
        count = len(server.got)
        before = sum(one["type"] == "pointer" for one in server.got)
        for _ in range(2):
            await page.send("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=120, **mouse)
        await server.until("pointer", before + 4)
        seen = [one["buttons"] for one in server.got[count:] if one["type"] == "pointer"]
        assert seen == [16, 0, 16, 0]
        # With Shift, browsers tell of a wheel that turns up and down as of one that turns sideways.
        for turned in ({"deltaX": 120, "deltaY": 0}, {"deltaX": -120, "deltaY": 0, "modifiers": 8}):
            count = len(server.got)
            before = sum(one["type"] == "pointer" for one in server.got)
            await page.send("Input.dispatchMouseEvent", type="mouseWheel", **turned, **mouse)
            await server.until("pointer", before + 2)
            seen += [one["buttons"] for one in server.got[count:] if one["type"] == "pointer"]
        assert seen[4:] == [256, 0, 8, 0]

    in_chromium(chromium, test)


def test_buttons_back_and_forward_are_the_guests(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url + "?before")
        await typing(page, server)
        x, y = await page.middle("#stage")
        await page.run("(window.kept = [], ['mousedown', 'mouseup', 'auxclick'].forEach((kind) =>"
                       " addEventListener(kind, (event) => kept.push(event.defaultPrevented))), 0)")  # fmt: skip
        for button, bits, theirs in (("back", 8, 32), ("forward", 16, 64)):
            for kind, down in (("mousePressed", bits), ("mouseReleased", 0)):
                await page.send(
                    "Input.dispatchMouseEvent", type=kind, button=button, buttons=down, clickCount=1, x=x, y=y
                )
            await server.until("pointer", buttons=theirs)
        assert (await page.run("kept")) == [True] * 6

    in_chromium(chromium, test)


def test_finger_taps_drags_and_text_is_typed_on_a_phone(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(360, 740)
        await page.send("Emulation.setTouchEmulationEnabled", enabled=True)
        await begin(page, server, painted(WIDTH, HEIGHT))
        assert await page.run("document.documentElement.scrollWidth <= innerWidth")
        x, y = await page.middle("#stage")

        async def touch(kind: str, *points: tuple[float, float]) -> None:
            given = [{"x": a, "y": b, "id": n} for n, (a, b) in enumerate(points)]
            await page.send("Input.dispatchTouchEvent", type=kind, touchPoints=given)

        await touch("touchStart", (x, y))
        await touch("touchEnd")
        await server.until("keyboard", take=True)
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("document.querySelector('#screen-who').textContent.includes('You are typing')")
        await touch("touchStart", (x, y))
        await touch("touchEnd")
        await server.until("pointer", buttons=1)
        await server.until("pointer", 2, buttons=0)
        count = len(server.got)
        await touch("touchStart", (x, y))
        await touch("touchMove", (x + 40, y))
        await touch("touchMove", (x + 60, y))
        await touch("touchEnd")
        await server.until("pointer", 2, buttons=1)
        await asyncio.sleep(0.2)
        drag = [one for one in server.got[count:] if one["type"] == "pointer"]
        assert drag[-1]["buttons"] == 0 and drag[-1]["x"] - drag[0]["x"] > 30, drag
        await page.click("#screen-type")
        await page.until("document.activeElement.id === 'screen-text'")
        await page.send("Input.insertText", text="é日本")
        await server.until("text", text="é日本")

    in_chromium(chromium, test)


def test_cursor_is_the_browsers_own_or_drawn_for_who_only_watches(chromium: Chromium) -> None:
    style, drawn = "document.querySelector('#stage').style.cursor", "document.querySelector('#guest-cursor')"

    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        shape = np.full((12, 10, 4), 255, np.uint8)
        assert server.line is not None
        await server.line.send_bytes(piece([part(SHAPE, Rect(2, 3, 10, 12), shape.tobytes(), dx=5)], 0))
        await server.tell("cursor", shape=5, x=100, y=50, hot_x=2, hot_y=3, shown=True)
        await page.until(f"!{drawn}.hidden && {drawn}.naturalWidth === 10")
        assert await page.run(style) == ""
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until(f"{style}.startsWith('url(\"data:image/png;base64,') && {style}.endsWith('2 3, default')")
        assert await page.run(f"{drawn}.hidden")
        await server.tell("cursor", shape=5, x=100, y=50, shown=False)
        await page.until(f"{style} === 'none'")
        assert not page.errors

    in_chromium(chromium, test)


def test_cursor_that_is_too_large_for_browsers_is_made_smaller(chromium: Chromium) -> None:
    style = "document.querySelector('#stage').style.cursor"
    read = f"""(async () => {{ const image = new Image(); image.src = {style}.match(/url\\("([^"]*)/)[1];
      await image.decode(); return [image.width, image.height]; }})()"""

    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        shape = np.full((100, 160, 4), 255, np.uint8)
        assert server.line is not None
        await server.line.send_bytes(piece([part(SHAPE, Rect(80, 50, 160, 100), shape.tobytes(), dx=5)], 0))
        await server.tell("cursor", shape=5, x=100, y=50, hot_x=80, hot_y=50, shown=True)
        await page.until("document.querySelector('#guest-cursor').naturalWidth === 160")
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until(f"{style}.endsWith('64 40, default')")
        assert await page.run(read) == [128, 80]

    in_chromium(chromium, test)


def cursor_of(address: str) -> np.ndarray:
    """The pixels of a cursor in CSS: R, G, B and alpha."""
    data = address.split("base64,")[1].split('"')[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_firefox_that_resists_fingerprinting_shows_the_cursor_and_types_other_letters(tmp_path: Path) -> None:
    """It falsifies what is read back of a canvas, and hides which keys are pressed that a US keyboard lacks."""
    need("firefox-esr")
    style = "document.querySelector('#stage').style.cursor"
    prefs = 'user_pref("privacy.resistFingerprinting", true);\n'

    async def main() -> None:
        firefox = Firefox(tmp_path / "profile", dict(os.environ), prefs=prefs)
        async with ScreenServer() as server, firefox as page:
            await begin(page, server, painted(WIDTH, HEIGHT))
            await page.click("#stage")
            await server.tell("keyboard", mine=True, who="somebody")
            shape = np.dstack([painted(100, 60, 3)[..., :3], np.full((60, 100, 1), 200, np.uint8)])
            large = np.full((200, 256, 4), (10, 20, 30, 255), np.uint8)
            assert server.line is not None
            for number, pixels in ((5, shape), (6, large)):
                at = Rect(2, 3, pixels.shape[1], pixels.shape[0])
                await server.line.send_bytes(piece([part(SHAPE, at, pixels.tobytes(), dx=number)], 0))
            await server.tell("cursor", shape=5, x=100, y=50, hot_x=2, hot_y=3, shown=True)
            await page.until(f"{style}.endsWith('2 3, default')")
            assert np.array_equal(cursor_of(await page.run(style)), shape[..., [2, 1, 0, 3]])
            await server.tell("cursor", shape=6, x=100, y=50, hot_x=8, hot_y=8, shown=True)
            await page.until(f"{style}.endsWith('4 4, default')")
            small = cursor_of(await page.run(style))
            assert small.shape == (100, 128, 4) and (small == (30, 20, 10, 255)).all()
            for key in ("a", "ö"):
                for down in (True, False):
                    await press(page, "", key, down)
            await server.until("text", text="ö")
            assert sent(server) == [(0x1E, True, "a"), (0x1E, False)]
            assert len([one for one in server.got if one["type"] == "text"]) == 1

    asyncio.run(main())


def test_size_that_was_chosen_before_is_wished_with_the_keyboard_and_again(chromium: Chromium) -> None:
    chosen = "document.querySelector('#screen-scale')"

    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        await page.run(f"({chosen}.value = 'guest', {chosen}.dispatchEvent(new Event('change')))")
        for count in (1, 2):
            await server.tell("keyboard", mine=True, who="somebody")
            wish = await server.until("size", count)
            # The guest has it, and then takes another one.
            await server.tell("mode", width=wish["width"], height=wish["height"], generation=2 * count)
            await server.tell("mode", width=WIDTH, height=HEIGHT, generation=2 * count + 1)
            await server.tell("keyboard", mine=False, who="alice")
            await page.until("document.querySelector('#screen-who').textContent.includes('alice')")
        await page.send("Page.reload")
        await page.until(f"document.readyState === 'complete' && {chosen}.value === 'guest'")

    in_chromium(chromium, test)
