"""A guest's screen on the page, in real browsers: what is painted is what is shown, and what is typed arrives."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.wire.keys import BY_NAME

from .browser import Chromium, Page
from .conftest import need
from .firefox import Firefox
from .screenserver import (
    DRAW,
    JPEG,
    MOVE,
    PALETTE,
    PNG,
    RAW,
    SHAPE,
    VIDEO,
    ZSTD,
    Picture,
    Rect,
    ScreenServer,
    encoded,
    few,
    painted,
    part,
    piece,
    still,
    zstd,
)  # fmt: skip
from .test_page import Browser, shot
from .xscreen import XScreen

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
WIDTH, HEIGHT = 320, 192
READ = """(() => {
  const from = document.querySelector("#picture"), to = document.createElement("canvas");
  to.width = from.width; to.height = from.height;
  const context = to.getContext("2d", { willReadFrequently: true });
  context.drawImage(from, 0, 0);
  const { data } = context.getImageData(0, 0, to.width, to.height);
  let text = "";
  for (let at = 0; at < data.length; at += 30000) text += String.fromCharCode(...data.subarray(at, at + 30000));
  return [to.width, to.height, btoa(text)];
})()"""
STATE = "document.querySelector('#screen-frame').dataset.state"
SAYS = "document.querySelector('#veil').hidden ? '' : document.querySelector('#veil-text').textContent"


async def canvas(page: Browser) -> Picture:
    """The canvas as (height, width, 3): B, G, R."""
    width, height, text = await page.run(READ)
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    return pixels[..., 2::-1]


async def shows(page: Browser, picture: Picture, off: int = 0, at: Rect | None = None) -> None:
    """Wait until the canvas shows the picture, or that part of it; each value may be `off`."""
    end, worst = asyncio.get_running_loop().time() + 15, -1
    while asyncio.get_running_loop().time() < end:
        seen = await canvas(page)
        if seen.shape[:2] == picture.shape[:2]:
            one, other = (seen, picture[..., :3]) if at is None else (at.of(seen), at.of(picture)[..., :3])
            worst = int(np.abs(one.astype(int) - other).max())
            if worst <= off:
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the canvas shows something else: off by {worst}, of {seen.shape}; {page.errors}")


def over(picture: Picture, at: Rect, seed: int) -> tuple[Picture, Picture]:
    """The picture with other content in a rectangle, and that content."""
    new = painted(at.w, at.h, seed)
    out = picture.copy()
    out[at.y : at.y + at.h, at.x : at.x + at.w] = new
    return out, new


async def begin(page: Browser, server: ScreenServer, picture: Picture, **fields: Any) -> None:
    """Open the page and show a first picture."""
    await page.open(server.url)
    await server.until("watch")
    await server.welcome(picture.shape[1], picture.shape[0], **fields)
    await server.whole(picture)
    await page.until(f"{STATE} === 'on'")


def in_chromium(chromium: Chromium, test: Callable[[Page, ScreenServer], Awaitable[None]], **options: Any) -> None:
    """Run `test` with a page and a server."""

    async def main() -> None:
        async with ScreenServer(**options) as server, Page(chromium) as page:
            await test(page, server)

    asyncio.run(main())


# -- pictures ---------------------------------------------------------------------------------------


async def stills(page: Browser, server: ScreenServer) -> None:
    """Every kind of rectangle, each on what the ones before it have left."""
    picture = painted(WIDTH, HEIGHT, 1)
    await begin(page, server, picture)
    watch = await server.until("watch")
    assert {"raw", "zstd", "palette", "jpeg", "png"} <= set(watch["formats"]) and watch["version"] == 1
    await shows(page, picture)
    for kind, at in ((RAW, Rect(3, 5, 33, 21)), (ZSTD, Rect(100, 7, 64, 50)), (PNG, Rect(17, 100, 48, 48))):
        picture, new = over(picture, at, kind)
        plain = np.ascontiguousarray(new).tobytes()
        data = {RAW: plain, ZSTD: zstd(plain), PNG: still(new, "png")}[kind]
        await server.send(part(kind, at, data))
    # Of 1, 2, 4, 16 and more colours, with rows that end within a byte.
    for n, count in enumerate((1, 2, 3, 16, 40)):
        at = Rect(5 + 50 * n, 150, 45, 33)
        colours = np.random.default_rng(n).integers(0, 256, (count, 4), np.uint8)
        new = colours[np.random.default_rng(n).integers(0, count, (at.h, at.w))]
        at.of(picture)[:] = new
        await server.send(part(PALETTE, at, few(new, plain=n % 2 == 0)))
    await shows(page, picture)
    # Two moves that overlap themselves, the second of what the first has moved; then a JPEG, and a move of that.
    for to, dx, dy in ((Rect(40, 30, 200, 100), 8, 10), (Rect(30, 24, 200, 100), -10, -6)):
        moved = Rect(to.x - dx, to.y - dy, to.w, to.h).of(picture).copy()
        to.of(picture)[:] = moved
        await server.send(part(MOVE, to, dx=dx, dy=dy))
    await shows(page, picture)
    at = Rect(208, 64, 64, 64)
    picture, new = over(picture, at, 9)
    await server.send(part(JPEG, at, still(new, "jpeg")))
    await shows(page, picture, 40)
    seen = (await canvas(page)).copy()
    await server.send(part(MOVE, Rect(200, 56, 80, 80), dx=-8, dy=-8))
    seen[56:136, 200:280] = seen[64:144, 208:288].copy()
    await shows(page, seen)
    shown = await server.until("shown", serial=server.serial)
    assert shown["skew_ns"] is None and shown["queue"] == 0
    times = [shown[name] for name in ("arrived_ns", "decoded_ns", "drawing_ns", "drawn_ns")]
    assert times == sorted(times) and 0 < times[0] <= times[-1] <= time.monotonic_ns() + 50_000_000
    serials = [one["serial"] for one in server.got if one["type"] == "shown"]
    assert serials == sorted(serials) and len(serials) == server.serial
    assert not [one for one in server.got if one["type"] in ("refresh", "taken")]


async def video(page: Browser, server: ScreenServer, codec: str) -> None:
    """Video draws its rectangles only, and what was there before it can be moved."""
    before = painted(WIDTH, HEIGHT, 1)
    await begin(page, server, before)
    assert codec in (await server.until("watch"))["codecs"]
    frames = [painted(WIDTH, HEIGHT, seed) for seed in (2, 3, 4)]
    units = encoded(frames, codec)
    expected = before.copy()
    for unit, frame, at, more in (
        (units[0], frames[0], Rect(16, 16, 64, 32), Rect(160, 96, 48, 48)),
        (units[1], frames[1], Rect(16, 16, 64, 32), Rect(161, 97, 31, 31)),
        (units[2], frames[2], Rect(0, 0, WIDTH, 112), Rect(16, 144, 16, 16)),
    ):
        await server.send(part(VIDEO, at, unit), part(DRAW, more))
        for one in (at, more):
            one.of(expected)[:] = one.of(frame)
    late = Rect(288, 160, 32, 32)
    await server.send(part(DRAW, late))
    late.of(expected)[:] = late.of(frames[2])
    # Colours are coded at half resolution: only the middles of the blocks are compared.
    inner = (np.indices((HEIGHT, WIDTH)) % 16 // 4 % 3 > 0).all(0)
    await server.until("shown", serial=server.serial)
    end, off = time.monotonic() + 10, 255
    while off > 24 and time.monotonic() < end:
        await asyncio.sleep(0.1)
        off = int(np.abs((await canvas(page)).astype(int) - expected[..., :3])[inner].max())
    assert off <= 24, off
    assert not [one for one in server.got if one["type"] == "refresh"]


def test_every_kind_of_rectangle_is_shown_as_painted(chromium: Chromium) -> None:
    in_chromium(chromium, stills)


@pytest.mark.parametrize("codec", ["avc1", "vp8"])
def test_video_is_drawn_where_it_belongs(chromium: Chromium, codec: str) -> None:
    in_chromium(chromium, lambda page, server: video(page, server, codec))


def test_firefox_shows_stills_and_video_too(tmp_path: Path) -> None:
    need("firefox-esr")

    async def main() -> None:
        async with Firefox(tmp_path / "profile", dict(os.environ)) as page:
            async with ScreenServer() as server:
                await stills(page, server)
            for codec in ("avc1", "vp8"):
                async with ScreenServer() as server:
                    await video(page, server, codec)
            async with ScreenServer() as server:
                await keys(page, server)
            assert not page.errors

    asyncio.run(main())


async def on_x(page: Browser, server: ScreenServer, screen: XScreen) -> None:
    """The X server shows what was painted, also after a change on a page that is otherwise still."""
    picture = painted(WIDTH, HEIGHT, 1)
    await begin(page, server, picture)
    x, y = await asyncio.to_thread(screen.find, picture[..., :3])
    picture, new = over(picture, Rect(32, 32, 64, 64), 2)
    await server.send(part(RAW, Rect(32, 32, 64, 64), np.ascontiguousarray(new).tobytes()))
    assert await asyncio.to_thread(screen.find, picture[..., :3]) == (x, y)


def test_x_screen_shows_what_chromium_draws(tmp_path: Path) -> None:
    need("chromium", "Xvfb")

    async def main(screen: XScreen) -> None:
        with Chromium(tmp_path / "profile", "--window-size=1024,760", display=screen.display) as browser:
            async with ScreenServer() as server, Page(browser) as page:
                await on_x(page, server, screen)

    with XScreen(tmp_path / "x") as screen:
        asyncio.run(main(screen))


def test_x_screen_shows_what_firefox_draws(tmp_path: Path) -> None:
    need("firefox-esr", "Xvfb")

    async def main(screen: XScreen) -> None:
        async with Firefox(tmp_path / "profile", dict(os.environ), display=screen.display) as page:
            async with ScreenServer() as server:
                await on_x(page, server, screen)

    with XScreen(tmp_path / "x", 1366, 900) as screen:
        asyncio.run(main(screen))


# -- keyboard and pointer ---------------------------------------------------------------------------


async def press(page: Browser, code: str, key: str, down: bool) -> None:
    """A real key event."""
    if isinstance(page, Page):
        await page.send("Input.dispatchKeyEvent", type="rawKeyDown" if down else "keyUp", code=code, key=key)
        return
    value = {"Shift": "\ue008", "ArrowUp": "\ue013", "Tab": "\ue004"}.get(key, key)
    action = {"type": "keyDown" if down else "keyUp", "value": value}
    keyboard = {"type": "key", "id": "keyboard", "actions": [action]}
    await page.send("input.performActions", context=page._context, actions=[keyboard])


async def keys(page: Browser, server: ScreenServer) -> None:
    """A click takes the keyboard; keys arrive as scan codes, Tab too."""
    await begin(page, server, painted(WIDTH, HEIGHT))
    await page.until("document.querySelector('#screen-who').textContent.includes('Click the picture')")
    await press(page, "KeyA", "a", True)
    await press(page, "KeyA", "a", False)
    await page.click("#stage")
    await server.until("keyboard", take=True)
    assert not [one for one in server.got if one["type"] in ("key", "pointer")], "not before the keyboard is granted"
    await server.tell("keyboard", mine=True, who="somebody")
    await page.until("document.querySelector('.captured') !== null && document.activeElement.id === 'stage'")
    for code, key, number in (("KeyA", "a", 0x1E), ("ArrowUp", "ArrowUp", 0xC8), ("Tab", "Tab", 0x0F)):
        await press(page, code, key, True)
        await server.until("key", code=number, down=True)
        await press(page, code, key, False)
        await server.until("key", code=number, down=False)
    assert await page.run("document.activeElement.id") == "stage"


async def held_keys(page: Page, server: ScreenServer) -> None:
    """What is held is released when the page loses the focus; headless Firefox never has it."""
    await keys(page, server)
    await press(page, "ShiftLeft", "Shift", True)
    await server.until("key", code=0x2A, down=True)
    await page.click("h1")
    await server.until("key", code=0x2A, down=False)
    await press(page, "ShiftLeft", "Shift", False)
    before = len(server.got)
    await page.click("#screen-delete")
    await server.until("key", code=0xD3, down=False)
    sent = [(one["code"], one["down"]) for one in server.got[before:] if one["type"] == "key"]
    assert sent == [(0x1D, True), (0x38, True), (0xD3, True), (0xD3, False), (0x38, False), (0x1D, False)]


def test_keys_arrive_as_scan_codes_and_none_stays_down(chromium: Chromium) -> None:
    in_chromium(chromium, held_keys)


def test_page_and_daemon_number_keys_alike(chromium: Chromium) -> None:
    codes = {name: key.code for name, key in BY_NAME.items()}
    table = f"import('/page/keys.js').then(({{ scanCode }}) => {json.dumps(list(codes))}.map(scanCode))"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        assert dict(zip(codes, await page.run(table), strict=True)) == codes

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


# -- trouble ----------------------------------------------------------------------------------------


def test_lost_connection_leaves_the_picture_greyed_and_returns(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        picture = painted(WIDTH, HEIGHT, 1)
        await begin(page, server, picture)
        assert server.offered == ["millrace-screen.1"]
        await server.tell("keyboard", mine=True, who="somebody")
        await server.drop()
        await page.until(f"{STATE} === 'lost' && ({SAYS}).includes('Reconnecting')")
        await shows(page, picture)
        assert "grayscale" in await page.run("getComputedStyle(document.querySelector('#picture')).filter")
        await shot(page, "screen-lost")
        await server.until("watch", 2)
        other = painted(WIDTH + 32, HEIGHT, 2)
        await server.welcome(WIDTH + 32, HEIGHT)
        await server.whole(other)
        await page.until(f"{STATE} === 'on' && ({SAYS}) === ''")
        await shows(page, other)
        assert "Click the picture" in await page.run("document.querySelector('#screen-who').textContent")
        await server.tell("gone", why="the machine was switched off")
        await page.until(f"{STATE} === 'gone' && ({SAYS}) === 'the machine was switched off'")
        await server.list([])
        await page.until("!millrace.viewer.screens.length")
        assert await page.run(SAYS) == "the machine was switched off"
        # The screen's connection may be faster than the list of screens, or slower.
        await server.tell("mode", width=WIDTH, height=HEIGHT, generation=2)
        await server.whole(picture, generation=2)
        await page.until(f"{STATE} === 'on'")
        await server.list([{"id": "screen/9", "name": "Head 0"}])
        await page.until("millrace.viewer.screens.length === 1")
        assert await page.run(STATE) == "on"
        await server.tell("gone", why="the machine was switched off")
        await page.until(f"{STATE} === 'gone'")
        await server.list([])
        await page.until("!millrace.viewer.screens.length")
        await server.list([{"id": "screen/10", "name": "Head 0"}])
        await page.until("millrace.viewer.screens.length === 1")
        assert await page.run(STATE) == "gone"
        await server.tell("mode", width=WIDTH, height=HEIGHT, generation=3)
        await server.whole(other[:, :WIDTH], generation=3)
        await page.until(f"{STATE} === 'on'")
        await shows(page, other[:, :WIDTH])
        assert server.joins == 2

    in_chromium(chromium, test)


def test_no_screen_and_no_right_are_said(chromium: Chromium) -> None:
    async def none(page: Page, server: ScreenServer) -> None:
        server.screens = []
        await page.open(server.url)
        await page.until("document.querySelector('#screen-none').checkVisibility()")
        await asyncio.sleep(0.3)
        assert server.joins == 0 and not await page.run("document.querySelector('#screen-frame').checkVisibility()")
        await server.list([{"id": "screen/7", "name": "Head 0"}])
        await server.until("watch")
        await server.welcome(WIDTH, HEIGHT, may_type=False)
        await server.whole(painted(WIDTH, HEIGHT))
        await page.until("document.querySelector('#screen-who').textContent === 'You can watch, but not type.'")
        await page.click("#stage")
        assert not await page.run("document.querySelector('#screen-keyboard').checkVisibility()")
        await asyncio.sleep(0.2)
        assert not [one for one in server.got if one["type"] in ("keyboard", "pointer")]

    async def forbidden(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        await page.until(f"({SAYS}).startsWith('You may not watch this guest.')")

    in_chromium(chromium, none)
    in_chromium(chromium, forbidden, status=403)


def test_page_under_a_path_watches_with_its_session(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(f"{server.url}page/style.css")
        await page.run("localStorage.setItem('millrace /deep/er/', 'ms_secret')")
        await begin(page, server, painted(WIDTH, HEIGHT))
        assert server.offered == ["millrace-screen.1", "millrace", "millrace.bearer.ms_secret"]

    in_chromium(chromium, test, prefix="/deep/er")


def damages() -> list[tuple[str, Callable[[ScreenServer, Picture], Awaitable[Any]]]]:
    """Pieces that can't be applied, each in its own way."""
    at = Rect(16, 16, 32, 32)

    def sent(*parts: bytes, **changes: Any) -> Callable[[ScreenServer, Picture], Awaitable[Any]]:
        return lambda server, picture: server.send(*parts, **changes)

    async def skipped(server: ScreenServer, picture: Picture) -> None:
        server.serial += 1
        await server.send(part(RAW, at, bytes(4096)))

    async def cut(server: ScreenServer, picture: Picture) -> None:
        server.serial += 1
        assert server.line is not None
        await server.line.send_bytes(piece([part(RAW, at, bytes(4096))], server.serial)[:-7])

    async def video_damaged(server: ScreenServer, picture: Picture) -> None:
        units = encoded([picture, painted(WIDTH, HEIGHT, 5)], "avc1")
        await server.send(part(VIDEO, at, units[0]))
        await server.send(part(VIDEO, at, units[1][:5] + bytes(200)))

    return [
        ("missing", skipped), ("damaged", cut), ("decoder", video_damaged),
        ("damaged", sent(part(ZSTD, at, b"not zstd at all"))),
        ("damaged", sent(part(ZSTD, at, zstd(bytes(32 * 32 * 4 + 4))))),
        ("damaged", sent(part(ZSTD, at, zstd(bytes(16))))),
        ("damaged", sent(part(PALETTE, at, bytes((3, *range(11)))))),
        ("damaged", sent(part(PALETTE, at, bytes((3, *range(12))) + zstd(bytes(32 * 8 + 1))))),
        ("damaged", sent(part(PALETTE, at, bytes((2, *range(9))) + b"\xff" * 32 * 8))),
        ("damaged", sent(part(RAW, at, bytes(4095)))),
        ("damaged", sent(part(RAW, Rect(300, 180, 32, 32), bytes(4096)))),
        ("damaged", sent(part(MOVE, at, dx=40))),
        ("damaged", sent(part(JPEG, at, b"\xff\xd8\xff"))),
        ("damaged", sent(part(PNG, at, still(painted(31, 32), "png")))),
        ("decoder", sent(part(VIDEO, at, b"\x00\x00\x00\x01\x41\x9a\x00"))),
        ("decoder", sent(part(VIDEO, at, b"\x10\x02\x00\x9d\x01\x2a" + bytes(20)))),
    ]  # fmt: skip


def test_damage_asks_for_a_key_picture_which_mends_it(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        picture = painted(WIDTH, HEIGHT, 1)
        await begin(page, server, picture)
        for n, (why, damage) in enumerate(damages()):
            server.got.clear()
            await damage(server, picture)
            await server.until("refresh", why=why)
            picture = painted(WIDTH, HEIGHT, 10 + n)
            await server.whole(picture)
            await server.until("shown", serial=server.serial)
            await shows(page, picture)
        # Once mended, it asks no more.
        server.got.clear()
        await asyncio.sleep(1.2)
        assert not [one for one in server.got if one["type"] == "refresh"]
        assert server.joins == 1 and not page.errors

    in_chromium(chromium, test)


def test_bad_server_ends_in_a_sentence(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        for n, (send, words) in enumerate((
            (lambda: server.tell("nonsense"), "does not understand"),
            (lambda: server.tell("mode", width=0, height=1, generation=1), "does not understand"),
            (lambda: server.tell("mode", width=16384, height=16384, generation=1), "does not understand"),
            (lambda: server.tell("error", message="x" * 70_000), "characters"),
            (lambda: server.line and server.line.send_bytes(bytes([16]) * (4 << 20) + b"\0"), "bytes"),
            (lambda: server.tell("bye", reason="the daemon ends", again=False), "the daemon ends"),
        )):  # fmt: skip
            await server.until("watch", n + 1)
            await send()  # type: ignore[misc]
            await page.until(f"{STATE} === 'ended' && ({SAYS}).includes({words!r})")
            await page.click("#screen-again")
        await server.until("watch", 7)
        await server.welcome(WIDTH, HEIGHT)
        picture = painted(WIDTH, HEIGHT, 3)
        assert server.line is not None
        await server.line.send_bytes(b"\x63 of a later version")
        await server.whole(picture)
        await shows(page, picture)

    in_chromium(chromium, test)


# -- time -------------------------------------------------------------------------------------------

PACING = """import("/page/pacing.js").then(({ Pacing }) => {
  const pacing = new Pacing(), out = [pacing.due(5e9, 1e9) === 1e9, pacing.skew(5e9, 1e9) === null];
  pacing.sound(100e6, 1e9);
  // Painted now, heard in 100 ms: drawn 9 ms before that. Painted 100 ms ago: now. A clock that is a second off: now.
  out.push(pacing.due(1e9, 1e9) === 1e9 + 91e6, pacing.due(0.9e9, 1e9) === 1e9, pacing.due(2e9, 1e9) === 1e9);
  out.push(pacing.skew(1e9, 1.1e9) === 0, pacing.skew(1e9, 1.15e9) === 50e6, pacing.skew(1e9, 2.2e9) === null);
  // With the picture first it is not held, but how early it is stays known.
  pacing.sound(100e6, 1e9, true);
  out.push(pacing.due(1e9, 1e9) === 1e9, pacing.skew(1e9, 1e9) === -100e6);
  pacing.sound(null, 1e9);
  out.push(pacing.due(1e9, 1e9) === 1e9);
  return out;
})"""


def test_picture_waits_for_the_sound_captured_with_it(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        picture = painted(WIDTH, HEIGHT, 1)
        await begin(page, server, picture)
        assert all(await page.run(PACING)), await page.run(PACING)
        offset = await page.run("performance.now() * 1e6") - time.monotonic_ns()
        await page.run(
            "void (globalThis.timer = setInterval(() => millrace.viewer.sound(3,"
            f" {{ state: 'playing', age: {offset} + 400e6, device: 0 }}), 100))"
        )
        await server.until("set", listener=3)
        for seed in range(2, 8):
            picture = painted(WIDTH, HEIGHT, seed)
            await server.whole(picture)
            await asyncio.sleep(0.05)
        shown = await server.until("shown", serial=server.serial)
        await shows(page, picture)
        kinds = [(one["type"], one["serial"]) for one in server.got if one["type"] in ("taken", "shown")]
        assert ("taken", server.serial) in kinds
        assert kinds.index(("taken", server.serial)) < kinds.index(("shown", server.serial))
        assert [serial for kind, serial in kinds if kind == "shown"] == list(range(1, server.serial + 1))
        assert shown["skew_ns"] > -60e6, shown
        await page.run("clearInterval(timer); millrace.viewer.sound(null, null)")
        await server.until("set", listener=None)
        server.got.clear()
        await server.whole(painted(WIDTH, HEIGHT, 9))
        assert (await server.until("shown", serial=server.serial))["skew_ns"] is None
        assert not [one for one in server.got if one["type"] == "taken"]

    in_chromium(chromium, test)


def test_another_screen_of_the_guest_can_be_chosen(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        assert await page.run("document.querySelector('#screen-chosen').hidden")
        await server.list([{"id": "screen/7", "name": "Head 0"}, {"id": "screen/8", "name": "Head 1"}])
        await page.until("!document.querySelector('#screen-chosen').hidden")
        choice = "document.querySelector('#screen-choice')"
        assert await page.run(f"[...{choice}.options].map((one) => one.label).join()") == "Head 0,Head 1"
        await page.run(f"{choice}.value = 'screen/8'; {choice}.dispatchEvent(new Event('change'))")
        await server.until("watch", screen="screen/8")
        other = painted(WIDTH + 64, HEIGHT, 3)
        await server.welcome(WIDTH + 64, HEIGHT)
        await server.whole(other)
        await shows(page, other)
        # It is the one that is shown again after the connection was lost.
        await server.drop()
        await server.until("watch", 2, screen="screen/8")

    in_chromium(chromium, test)


def test_hidden_page_says_so(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        hide = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true })"
        for hidden in ("true", "false"):
            await page.run(f"{hide % hidden}; document.dispatchEvent(new Event('visibilitychange'))")
            await server.until("hidden", hidden=hidden == "true")

    in_chromium(chromium, test)


# -- looks ------------------------------------------------------------------------------------------


def test_screen_is_accessible_and_fits_any_window(chromium: Chromium) -> None:
    axe = (files("axe_core_python") / "axe.min.js").read_text()
    box = "JSON.parse(JSON.stringify(document.querySelector('#stage').getBoundingClientRect()))"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        await begin(page, server, painted(1920, 1080, 1))
        await server.tell("keyboard", mine=True, who="somebody")
        await page.click("#stage")
        await page.send("Page.setBypassCSP", enabled=True)
        await page.run(axe + "; true")
        for width, height, dark in ((1280, 900, False), (390, 844, True), (360, 740, False), (1280, 900, True)):
            await page.size(width, height, dark)
            await asyncio.sleep(0.3)
            found = json.loads(
                await page.run(
                    "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html)])))"
                )
            )
            assert not found, (width, dark, found)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing overflows"
            stage = await page.run(box)
            assert abs(stage["width"] / stage["height"] - 16 / 9) < 0.01 and stage["width"] > 0.8 * width - 40
            assert stage["height"] <= height
            await shot(page, f"screen-{width}{'-dark' * dark}")
        await page.run("document.querySelector('#screen-scale').value = 'guest'")
        await page.run("document.querySelector('#screen-scale').dispatchEvent(new Event('change'))")
        wish = await server.until("size")
        assert wish["width"] > 800 and 500 < wish["height"] < 900
        assert not page.errors

    async def full(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        await begin(page, server, painted(1920, 1080, 1))
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("document.querySelector('#screen-who').textContent.includes('You have')")
        await page.click("#screen-full")
        await page.until("document.fullscreenElement !== null && document.querySelector('.captured') !== null")
        await asyncio.sleep(0.3)
        stage = await page.run(box)
        assert stage["width"] == 1280 and stage["height"] == 720
        await press(page, "KeyA", "a", True)
        await server.until("key", code=0x1E, down=True)
        await shot(page, "screen-full")
        await page.run("document.querySelector('#screen-delete').focus()")
        await server.until("key", code=0x1E, down=False)
        await asyncio.sleep(0.3)
        await shot(page, "screen-full-tools")
        await page.click("#screen-full")
        await page.until("!document.fullscreenElement")
        assert not page.errors

    in_chromium(chromium, test)
    in_chromium(chromium, full)
