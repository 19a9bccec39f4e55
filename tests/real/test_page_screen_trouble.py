"""A guest's screen on the page when something is wrong: what is shown, said and asked for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.real.pages import shot
from tests.real.screenpages import HEIGHT, SAYS, STATE, WIDTH, begin, in_chromium, press, shows

from .browser import Chromium, Page
from .screenserver import (
    JPEG,
    MOVE,
    PALETTE,
    PNG,
    RAW,
    VIDEO,
    ZSTD,
    Picture,
    Rect,
    ScreenServer,
    encoded,
    painted,
    part,
    piece,
    still,
    zstd,
)  # fmt: skip

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]


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
        await page.until(f"{STATE} === 'gone' && ({SAYS}).startsWith('the machine was switched off. It is')")
        await server.list([])
        await page.until("!millrace.viewer.screens.length")
        assert await page.run(SAYS) == "the machine was switched off. It is shown again as soon as it is back."
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


def test_server_that_fills_the_memory_with_parts_of_no_bytes_is_left(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT, 1))
        moves = piece([part(MOVE, Rect(0, 0, 1, 1))] * 1024, server.serial + 1, flags=0)
        assert server.line is not None
        with contextlib.suppress(ConnectionResetError):
            for _ in range(200):
                await server.line.send_bytes(moves)
        await page.until(f"{STATE} === 'ended' && ({SAYS}).includes('faster than this page can show them')")

    in_chromium(chromium, test)


def test_server_whose_pictures_take_minutes_to_draw_is_left(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT, 1))
        await server.send(*[part(MOVE, Rect(0, 0, WIDTH, HEIGHT))] * 65)
        await page.until(f"{STATE} === 'ended' && ({SAYS}).includes('too long to draw')")

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


STREAMS = """import('/page/video.js').then(async ({ Video, unitOf }) => {
  const units = UNITS.map((text) => Uint8Array.from(atob(text), (one) => one.charCodeAt()));
  const real = VideoDecoder, video = new Video(), made = [];
  globalThis.VideoDecoder = class extends real { constructor(how) { super(how); made.push(this); } };
  const sizes = [];
  for (const unit of units) {
    const frame = await video.decode(unit);
    sizes.push(frame && [frame.displayWidth, frame.displayHeight, made.length]);
    frame?.close();
  }
  video.lose();
  return [sizes, units.map(unitOf).map((one) => [one.key, one.codec]), made.map((one) => one.state)];
})"""


@pytest.mark.parametrize("codec", ["avc1", "vp8"])
def test_stream_of_another_size_gets_a_decoder_of_its_own_and_one_of_the_same_size_none(
    chromium: Chromium, codec: str
) -> None:
    # Of the same codec, so that its name does not tell them apart: 64 × 48 and 48 × 64.
    wide = [encoded([painted(64, 48, seed), painted(64, 48, 9)], codec) for seed in (1, 2)]
    tall = encoded([painted(48, 64, 3)], codec)
    units = json.dumps([base64.b64encode(unit).decode() for unit in (*wide[0], wide[1][0], *tall, wide[0][0])])

    async def test(page: Page, server: ScreenServer) -> None:
        await page.open(server.url)
        sizes, told, states = await page.run(STREAMS.replace("UNITS", units))
        assert sizes == [[64, 48, 1], [64, 48, 1], [64, 48, 1], [48, 64, 2], [64, 48, 3]]
        assert [key for key, _ in told] == [True, False, True, True, True]
        assert len({name for key, name in told if key}) == 1
        assert states == ["closed"] * 3

    in_chromium(chromium, test)


def test_what_was_typed_before_the_connection_was_lost_is_not_typed_into_the_next(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await begin(page, server, painted(WIDTH, HEIGHT))
        await page.click("#stage")
        await server.until("keyboard", take=True)
        for down in (True, False):
            await press(page, "KeyA", "a", down)
        await page.until("millrace.viewer.acts.length > 2")
        await server.drop()
        await server.until("watch", 2)
        await server.welcome(WIDTH, HEIGHT)
        await server.whole(painted(WIDTH, HEIGHT))
        await page.until(f"{STATE} === 'on'")
        await server.tell("keyboard", mine=True, who="somebody")
        await page.until("millrace.viewer.mine")
        await page.click("#screen-delete")
        await server.until("key", code=0xD3, down=False)
        assert not [one for one in server.got if one["type"] == "key" and one["code"] == 0x1E]
        assert not [one for one in server.got if one["type"] == "pointer" and one["buttons"]]

    in_chromium(chromium, test)


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
        # Once repaired, it asks no more.
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
