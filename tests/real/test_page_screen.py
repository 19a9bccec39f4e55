"""A guest's screen on the page, in real browsers: what is painted is what is shown, and what is typed arrives."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.real.pages import Browser, audited, shot
from tests.real.screenpages import HEIGHT, WIDTH, begin, canvas, in_chromium, keys, over, press, shows

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
    VIDEO,
    ZSTD,
    Rect,
    ScreenServer,
    encoded,
    few,
    painted,
    part,
    still,
    zstd,
)  # fmt: skip
from .test_page_overlays import overlays
from .xscreen import XScreen

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]


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
    # Firefox without a GPU stands still for 10 s now and then. After 5 s it does not know the daemon's clock any more.
    if max(later - one for one, later in pairwise([*server.pinged, time.monotonic()])) < 4:
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
    # A video of another size, of a part of the screen.
    area, inner, corner = Rect(96, 48, 128, 64), Rect(112, 64, 64, 32), Rect(208, 96, 16, 16)
    small = [painted(128, 64, seed) for seed in (5, 6)]
    for unit, frame in zip(encoded(small, codec), small, strict=True):
        await server.send(part(VIDEO, inner, unit, area.x, area.y), part(DRAW, corner, b"", area.x, area.y))
        shown = np.zeros_like(expected)
        area.of(shown)[:] = frame
        for one in (inner, corner):
            one.of(expected)[:] = one.of(shown)
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


def test_firefox_shows_stills_video_and_films_too(tmp_path: Path) -> None:
    need("firefox-esr")

    async def avc1(page: Browser, server: ScreenServer) -> None:
        await video(page, server, "avc1")

    async def vp8(page: Browser, server: ScreenServer) -> None:
        await video(page, server, "vp8")

    async def main() -> None:
        async with Firefox(tmp_path / "profile", dict(os.environ)) as page:
            for scene in (stills, avc1, vp8, overlays, keys):
                async with ScreenServer() as server:
                    await scene(page, server)
                    # Otherwise the page may look for this server when it is gone, which is an error.
                    await page.open("about:blank")
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
    box = "JSON.parse(JSON.stringify(document.querySelector('#stage').getBoundingClientRect()))"

    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        await begin(page, server, painted(1920, 1080, 1))
        await server.tell("keyboard", mine=True, who="somebody")
        await page.click("#stage")
        sizes = ((1280, 900, False), (390, 844, True), (360, 740, False), (1280, 900, True))
        async for width, height, dark in audited(page, *sizes):
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
        at = "((x, y) => document.elementFromPoint(x, y).id)"
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
        # Nothing lies over the guest's edge but a short tab, which shows the controls for a pointer that rests there.
        await page.run("document.querySelector('#stage').focus()")
        await asyncio.sleep(0.6)
        seen = [await page.run(f"{at}({x}, 1)") for x in (300, 590, 640, 690, 1000)]
        assert [one == "screen-tab" for one in seen] == [False, False, True, False, False], seen
        await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=640, y=2)
        await page.until("document.querySelector('#screen-tools').getBoundingClientRect().top >= 0")
        assert await page.run("document.querySelector('#screen-tools').getBoundingClientRect().height < 80")
        await page.click("#screen-hide")
        await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=640, y=300)
        await asyncio.sleep(0.6)
        assert await page.run(f"{at}(640, 1)") != "screen-tab"
        for code, key in (("ControlLeft", "Control"), ("AltLeft", "Alt"), ("ShiftLeft", "Shift")):
            await press(page, code, key, True)
        await page.until("document.querySelector('#screen-tools').getBoundingClientRect().top >= 0")
        await page.click("#screen-full")
        await page.until("!document.fullscreenElement")
        assert not page.errors

    in_chromium(chromium, test)
    in_chromium(chromium, full)
