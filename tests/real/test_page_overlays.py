"""Videos that a machine sends itself: the page draws them over the picture, and goes on when one is damaged."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest

from millrace.pixels.rects import Rect as Area
from millrace.wire.peer.overlays import Place, pack_overlays
from tests.real.pages import Browser
from tests.real.screenpages import HEIGHT, WIDTH, begin, canvas, in_chromium, over, shows

from .browser import Chromium, Page
from .screenserver import (
    FRAME,
    KEY,
    LAST,
    MOVE,
    OVERLAYS,
    RAW,
    STARTS,
    Picture,
    Rect,
    ScreenServer,
    encoded,
    painted,
    part,
)  # fmt: skip

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
NOWHERE = Rect(0, 0, 0, 0)
FILM = (128, 64)
SCREEN = Area(0, 0, WIDTH, HEIGHT)


class Shown(NamedTuple):
    """A frame of video `number` lies at `at`, of which `visible` is seen. Its place is on the grid of blocks."""

    number: int
    at: Rect
    visible: tuple[Rect, ...]
    frame: Picture


def frame(number: int, unit: bytes, starts: bool = False) -> bytes:
    """A part with a frame."""
    return part(FRAME, NOWHERE, unit, number, flags=STARTS if starts else 0)


def listed(*shown: Shown) -> bytes:
    """A part with the list of overlays."""
    places = (Place(number, Area(*at), tuple(Area(*one) for one in visible)) for number, at, visible, _ in shown)
    return part(OVERLAYS, NOWHERE, pack_overlays(places))


def raw(picture: Picture, at: Rect) -> bytes:
    """A part with the pixels of a picture."""
    return part(RAW, at, np.ascontiguousarray(at.of(picture)).tobytes())


# Colours are coded at half resolution, so of films only the middles of the blocks are compared; all else is exact.
MIDDLES = (np.indices((HEIGHT, WIDTH)) % 16 // 4 % 3 > 0).all(0)


def laid(below: Picture, films: Iterable[Shown]) -> tuple[Picture, np.ndarray]:
    """The picture with films over it, and how far each pixel may be off."""
    out, off = below[..., :3].astype(int), np.zeros((HEIGHT, WIDTH), int)
    for _, at, visible, film in films:
        times = at.h // film.shape[0]
        large = film.repeat(times, 0).repeat(times, 1)
        for x, y, w, h in visible:
            out[y : y + h, x : x + w] = large[y - at.y : y - at.y + h, x - at.x : x - at.x + w, :3]
            off[y : y + h, x : x + w] = np.where(MIDDLES[y : y + h, x : x + w], 24, 255)
    return out, off


async def lies(page: Browser, below: Picture, *films: Shown) -> None:
    """Wait until the canvas shows the picture with these films over it."""
    expected, off = laid(below, films)
    end, worst = time.monotonic() + 30, 255
    while time.monotonic() < end:
        seen = (await canvas(page)).astype(int)
        worst = int((np.abs(seen - expected).max(2) - off).max()) if seen.shape == expected.shape else 255
        if worst <= 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the canvas shows something else: off by {worst}; {page.errors}")


def film(seed: int, count: int, size: tuple[int, int] = FILM) -> tuple[list[Picture], list[bytes]]:
    """Pictures, and VP8 of them; only the first is a key frame."""
    pictures = [painted(*size, seed + n) for n in range(count)]
    return pictures, encoded(pictures, "vp8")


async def overlays(page: Browser, server: ScreenServer) -> None:
    """Films lie over the picture where the list says, whatever is painted below, and leave nothing behind."""
    below = painted(WIDTH, HEIGHT, 1)
    await begin(page, server, below)
    watch = await server.until("watch")
    assert watch["overlays"] == ["vp8"]
    pictures, units = film(20, 6)
    others, second = film(40, 2, (64, 64))
    one = Shown(7, Rect(96, 48, 128, 64), (Rect(97, 48, 60, 64), Rect(176, 67, 48, 30)), pictures[0])
    # A frame without a place is not drawn, and a place without a frame neither.
    await server.send(frame(7, units[0], starts=True), listed(one._replace(number=9)))
    await shows(page, below)
    await server.send(listed(one))
    await lies(page, below, one)
    # Two frames in one picture, of which the first is hidden and the second needs it, and what is painted below, before
    # them and later.
    at = Rect(80, 40, 160, 40)
    below, _ = over(below, at, 2)
    hidden = bytes([units[1][0] & ~16]) + units[1][1:]
    await server.send(raw(below, at), frame(7, hidden), frame(7, units[2]))
    one = one._replace(frame=pictures[2])
    await lies(page, below, one)
    below, _ = over(below, at, 3)
    await server.send(raw(below, at))
    await lies(page, below, one)
    # Another one over it stays there when the lower one goes on.
    two = Shown(8, Rect(128, 80, 64, 64), (Rect(128, 80, 64, 64),), others[0])
    await server.send(frame(8, second[0], starts=True), listed(one, two))
    await lies(page, below, one, two)
    await server.send(frame(7, units[3]))
    one = one._replace(frame=pictures[3])
    await lies(page, below, one, two)
    # Elsewhere: the one over the edge of the picture, the other twice as large.
    one = one._replace(at=Rect(-32, 144, 128, 64), visible=(Rect(0, 144, 96, 48),))
    two = two._replace(at=Rect(160, 32, 128, 128), visible=(Rect(163, 32, 100, 101),))
    await server.send(raw(below, Rect(96, 48, 128, 96)), listed(one, two))
    await lies(page, below, one, two)
    # The list is empty: what is not painted stays, and can be moved; then nothing is left.
    await server.send(listed())
    seen = (await canvas(page)).copy()
    await server.send(part(MOVE, Rect(8, 140, 80, 48), dx=8, dy=-4))
    seen[140:188, 8:88] = seen[144:192, 0:80].copy()
    await shows(page, seen)
    await server.send(frame(7, units[4]), raw(below, Rect(0, 0, WIDTH, HEIGHT)))
    await shows(page, below)
    # A mode ends the list, and no video.
    one = one._replace(frame=pictures[4])
    await server.send(raw(below, Rect(0, 0, WIDTH, HEIGHT)), listed(one))
    await lies(page, below, one)
    await server.tell("mode", width=WIDTH, height=HEIGHT, generation=2)
    await server.whole(below, generation=2)
    await shows(page, below)
    await server.send(listed(one), generation=2)
    await lies(page, below, one)
    await server.send(frame(7, units[5]), generation=2)
    await lies(page, below, one._replace(frame=pictures[5]))
    await server.until("shown", serial=server.serial)
    serials = [told["serial"] for told in server.got if told["type"] == "shown"]
    assert serials == list(range(1, server.serial + 1))
    assert not [told for told in server.got if told["type"] == "refresh"] and server.joins == 1


def test_films_lie_over_the_picture(chromium: Chromium) -> None:
    in_chromium(chromium, overlays)


def test_damaged_frame_asks_once_and_the_film_goes_on_with_a_key_frame(chromium: Chromium) -> None:
    below, at = painted(WIDTH, HEIGHT, 1), Rect(96, 48, 128, 64)
    pictures, units = film(20, 4)
    later, again = film(60, 2)
    one = Shown(7, at, (at,), pictures[0])
    patch = Rect(0, 0, 32, 32)

    async def test(page: Page, server: ScreenServer) -> None:
        nonlocal below
        await begin(page, server, below)
        ways = (
            ("overlay", frame(7, units[2][:5])), ("overlay", frame(7, b"")), ("overlay", frame(7, again[0][:20], True)),
            ("overlay", frame(7, b"\x00\x00\x00\x01\x65" + bytes(20), True)), ("overlay", frame(5, units[0])),
            ("damaged", part(OVERLAYS, NOWHERE, b"\x01")), ("missing", b""),
            ("damaged", part(OVERLAYS, NOWHERE, pack_overlays([Place(7, Area(0, 0, 4096, 2049), ())] * 2))),
            ("damaged", part(OVERLAYS, NOWHERE, pack_overlays([Place(7, SCREEN, (SCREEN,) * 1000)]))),
        )  # fmt: skip
        for n, (why, damage) in enumerate(ways):
            await server.send(frame(7, units[0], starts=True), frame(7, units[1]), listed(one))
            shown = one._replace(frame=pictures[1])
            await lies(page, below, shown)
            server.got.clear()
            server.serial += why == "missing"
            # All else in the picture is drawn, and what follows on from the damage is not.
            below, _ = over(below, patch, 100 + n)
            await server.send(damage, raw(below, patch))
            await server.until("refresh", why=why)
            if why == "missing":
                await server.send(frame(7, units[2]))
            elif b"\x07" in damage[10:11]:
                await server.send(frame(7, units[2]), frame(7, units[3]))
            await server.until("shown", serial=server.serial)
            await lies(page, below, shown)
            await server.whole(below)
            await server.send(frame(7, again[0], starts=True), frame(7, again[1]))
            await lies(page, below, one._replace(frame=later[1]))
        server.got.clear()
        await asyncio.sleep(1.2)
        assert not [told for told in server.got if told["type"] == "refresh"]
        assert server.joins == 1 and not page.errors

    in_chromium(chromium, test)


def test_browser_that_refuses_key_frames_again_and_again_is_sent_no_films(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT, 1))
        bad = b"\x10\x02\x00\x9d\x01\x2a\x40\x00\x40\x00" + bytes(20)
        for n in range(5):
            await server.send(frame(n + 1, bad, starts=True))
        watch = await server.until("watch", 2)
        assert watch["overlays"] == [] and "vp8" in watch["codecs"]

    in_chromium(chromium, test)


LIMITS = """import('/page/overlays.js').then(async ({ Overlays }) => {
  const { Surface, release } = await import('/page/surface.js'), surface = new Surface(new OffscreenCanvas(64, 48));
  const [small, delta, large, huge] = UNITS.map((text) => Uint8Array.from(atob(text), (one) => one.charCodeAt()));
  const real = VideoDecoder, made = [], out = {}, videos = new Overlays();
  globalThis.VideoDecoder = class extends real { constructor(how) { super(how); made.push(this); } };
  const frames = () => [...videos.videos.values()].map((one) => one.newest), held = [];
  const take = async (dx, bytes, flags = 1) => {
    const good = await videos.frame({ dx, flags, bytes });
    held.push(...frames().filter((one) => one && !held.includes(one)));
    return good;
  };
  const running = () => made.filter((one) => one.state !== "closed").length;
  const open = () => [running(), held.filter((one) => one.format !== null).length];
  videos.begin({ width: 640, height: 480 });
  for (let dx = 1; dx <= 64; dx++) await take(dx, small);
  await take(1, delta, 0);
  out.full = open();
  const hidden = delta.slice();
  hidden[0] &= ~16;
  out.hidden = await Promise.all(Array.from({ length: 40 }, () => videos.frame({ dx: 1, flags: 0, bytes: hidden })));
  out.hidden = [out.hidden.filter((one) => one).length, await take(1, small), await take(1, delta, 0)];
  await take(65, small);
  out.over = [...open(), videos.videos.has(1), videos.videos.has(2), await take(2, delta, 0)];
  videos.begin({ width: 64, height: 48 });
  out.large = [await take(66, large), await take(67, large), [...videos.videos.keys()].join()];
  out.large.push(await take(68, huge), ...open());
  const place = { x: 0, y: 0, w: 64, h: 48 };
  videos.list = [{ number: 67, at: place, visible: [place] }];
  videos.touch(place);
  const ahead = [...videos.parts(), ...videos.parts()];
  held.push(...ahead.map((one) => one.frame));
  videos.close();
  out.ended = open();
  surface.size(64, 48);
  surface.apply(ahead[0]);
  out.drawn = open();
  release(ahead);
  out.closed = open();
  return out;
})"""


def test_decoders_and_frames_are_few_and_all_are_given_back(chromium: Chromium) -> None:
    (small, delta), (large, huge) = film(1, 2, (16, 16))[1], (film(3, 1, size)[1][0] for size in ((96, 80), (128, 112)))
    units = json.dumps([base64.b64encode(unit).decode() for unit in (small, delta, large, huge)])

    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        assert await page.run(LIMITS.replace("UNITS", units)) == {
            # 64 videos of one frame each; one more ends that whose last frame is the oldest.
            "full": [64, 64], "hidden": [16, True, True], "over": [64, 64, True, False, False],
            # Four pictures of 64 × 48 hold one frame of 96 × 80 and none of 128 × 112.
            "large": [True, True, "67", False, 1, 1],
            "ended": [0, 2], "drawn": [0, 1], "closed": [0, 0],
        }  # fmt: skip

    in_chromium(chromium, test)


def test_only_a_whole_key_picture_ends_the_asking_after_damage(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        below = painted(WIDTH, HEIGHT, 1)
        await begin(page, server, below)
        await server.send(frame(3, b"damage"))
        await server.until("refresh", why="overlay")
        # It asks again until there is a key picture; one in which a frame is damaged does not do.
        await server.send(frame(3, b"damage"), raw(below, Rect(0, 0, WIDTH, HEIGHT)), flags=LAST | KEY)
        await server.until("refresh", 2, why="overlay")
        await server.whole(below)
        await server.until("shown", serial=server.serial)
        server.got.clear()
        await asyncio.sleep(1.6)
        assert not [told for told in server.got if told["type"] == "refresh"]
        # A frame in a picture of which a mode cuts off the end is lost, and so is the film until the next key frame.
        at = Rect(96, 48, 128, 64)
        pictures, units = film(20, 4)
        one = Shown(7, at, (at,), pictures[0])
        await server.send(frame(7, units[0], starts=True), listed(one))
        await server.send(frame(7, units[1]), flags=0)
        await server.tell("mode", width=WIDTH, height=HEIGHT, generation=2)
        await server.whole(below, generation=2)
        await server.send(frame(7, units[2]), listed(one), generation=2)
        await server.until("refresh", why="overlay")
        await lies(page, below, one)

    in_chromium(chromium, test)
