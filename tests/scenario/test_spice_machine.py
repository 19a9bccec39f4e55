"""A SPICE machine with sound and picture: each goes on without the other, and one wrong channel costs that alone."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from millrace.budget import PROGRAMS
from millrace.daemon.app import Daemon
from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Screen
from millrace.guest.machines import refit, spice
from millrace.guest.machines.address import parse_door
from millrace.pixels.rects import Point, Rect
from millrace.wire.spice.channel import ChannelKind
from tests.bus import daemon_in
from tests.fuzz import seeds
from tests.fuzz import spiceserver as server
from tests.gops import WATCHER

KEY = rsa.generate_private_key(65537, 1024).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
WHOLE = Rect(0, 0, 64, 48)
PICTURE = np.random.default_rng(3).integers(0, 256, (48, 64, 4), np.uint8)
SHOWN = [server.surface(64, 48), server.draw_copy(WHOLE, server.bitmap(PICTURE))]
START = server.message(103, struct.pack("<IHII", 2, 1, 48_000, 0))
ALL = (ChannelKind.DISPLAY, ChannelKind.INPUTS, ChannelKind.CURSOR, ChannelKind.PLAYBACK)


class Server:
    """A SPICE server with some channels, each of which says something once it is linked."""

    def __init__(self, channels: tuple[int, ...] = ALL, mouse: int = 1) -> None:
        self.channels, self.mouse = channels, mouse
        self.says: dict[int, list[bytes]] = {ChannelKind.DISPLAY: SHOWN, ChannelKind.PLAYBACK: [START]}
        self.heard: dict[int, bytearray] = {}
        self.links: list[int] = []
        self.writers: dict[int, asyncio.StreamWriter] = {}

    # From Python 3.12 on, a server is only closed once its connections are.
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one channel."""
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readexactly(16)
            link = await reader.readexactly(struct.unpack_from("<I", head, 12)[0])
            kind = link[4]
            self.links.append(kind)
            self.writers[kind] = writer
            writer.write(seeds.spice_reply(KEY))
            await reader.readexactly(4 + 128)
            writer.write(bytes(4) + b"".join(self.said(kind)))
            await self.hear(kind, reader)

    async def hear(self, kind: int, reader: asyncio.StreamReader) -> None:
        """Read what the client says on a channel, to its end."""
        heard = self.heard.setdefault(kind, bytearray())
        while data := await reader.read(65_536):
            heard += data

    def said(self, kind: int) -> list[bytes]:
        if kind != ChannelKind.MAIN:
            return self.says.get(kind, [])
        init = server.message(103, struct.pack("<8I", 7, 1, 3, self.mouse, 0, 0, 5, 6))
        listed = b"".join(struct.pack("<BB", channel, 0) for channel in self.channels)
        return [init, server.message(104, struct.pack("<I", len(self.channels)) + listed)]


class Attached:
    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.guest = daemon.worker.guests["alice"]
        self.machine = daemon.worker.attach(self.guest, parse_door(f"spice+unix://{path}"))

    async def until(self, told: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(20):
                while not told():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"{what}: {self.machine.view()}") from None

    @property
    def screen(self) -> Screen | None:
        listed = self.guest.screens.first
        return None if listed is None or listed.screen.memory is None else listed.screen

    @property
    def picture(self) -> server.Pixels | None:
        return None if self.screen is None or self.screen.memory is None else self.screen.memory.picture


def attached(folder: Path, made: Server, test: Callable[[Attached], object]) -> None:
    async def main() -> None:
        async with await asyncio.start_unix_server(made.serve, folder / "spice"), daemon_in(folder) as daemon:
            one = Attached(daemon, folder / "spice")
            await one.until(lambda: one.machine.sessions, "it is attached")
            await test(one)  # type: ignore[misc]
            await one.machine.stop("the test ends")

    asyncio.run(main())


def test_sound_and_picture_come_from_one_door(tmp_path: Path) -> None:
    made = Server()

    async def test(one: Attached) -> None:
        await one.until(lambda: one.machine.streams() and one.screen, "both are there")
        await one.until(lambda: np.array_equal(one.picture, PICTURE), "it is the picture")
        (listed,) = one.guest.screens
        assert (listed.label, listed.door) == ("SPICE", one.machine.key)
        reader = listed.screen.read(WATCHER)
        one.guest.screens.seat.take(WATCHER)
        await one.until(lambda: ChannelKind.INPUTS in made.heard, "the keyboard is there")
        reader.key(KeyPress(0x1E, True))
        reader.pointer(Point(2, 3), 0, True)
        wanted = server.message(101, b"\x1e\0\0\0") + server.message(111, struct.pack("<iiH", 2, 3, 0))
        await one.until(lambda: wanted in made.heard[ChannelKind.INPUTS], "key and movement arrive")
        made.writers[ChannelKind.MAIN].write(server.message(105, struct.pack("<HH", 3, 2)))
        await one.until(lambda: not listed.screen.relative, "it takes places now")
        await one.machine.stop("the test ends")
        assert not len(one.guest.screens) and not one.guest.graph.streams

    attached(tmp_path, made, test)


@pytest.mark.parametrize("channels", [(ChannelKind.PLAYBACK,), (ChannelKind.DISPLAY,), (ChannelKind.CURSOR,)])
def test_each_works_without_the_other(tmp_path: Path, channels: tuple[int, ...]) -> None:
    async def test(one: Attached) -> None:
        if ChannelKind.PLAYBACK in channels:
            await one.until(one.machine.streams, "there is sound")
        if ChannelKind.DISPLAY in channels:
            await one.until(lambda: np.array_equal(one.picture, PICTURE), "there is a picture")
        view = one.machine.view()
        assert (view.state, view.hint) == ("attached", "")

    attached(tmp_path, Server(channels), test)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([server.surface(1 << 16, 1 << 16)], "pixels at most"),
        ([server.surface(4096, 4096), *(server.surface(4096, 4000, n) for n in (1, 2, 3, 4))], "no room for this"),
        ([SHOWN[0], server.draw_copy(WHOLE, server.image(1, 64, 48, bytes(9)))], "compressed as QUIC"),
        ([server.surface(64, 48), server.message(302, b"abc")], "truncated"),
    ],
)
def test_wrong_picture_leaves_the_sound_alone_and_is_asked_for_again(
    tmp_path: Path, wrong: list[bytes], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "AGAIN_FIRST_S", 0.2)
    made = Server()
    made.says[ChannelKind.DISPLAY] = wrong

    async def test(one: Attached) -> None:
        await one.until(lambda: why in one.machine.view().hint, "it says what is wrong")
        await one.until(one.machine.streams, "there is sound")
        made.says[ChannelKind.DISPLAY] = SHOWN
        await one.until(lambda: np.array_equal(one.picture, PICTURE), "the picture is right now")
        assert one.machine.view().hint == "" and one.machine.sessions == 1 and len(one.guest.screens) == 1
        assert made.links.count(ChannelKind.DISPLAY) == 2 and made.links.count(ChannelKind.PLAYBACK) == 1
        assert one.machine.streams()

    attached(tmp_path, made, test)


def test_picture_without_room_costs_no_connection_and_is_shown_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "AGAIN_FIRST_S", 0.05)

    async def test(one: Attached) -> None:
        await one.until(lambda: np.array_equal(one.picture, PICTURE), "there is a picture")
        await one.until(one.machine.streams, "there is sound")
        budget = one.guest.admission.budget
        other = budget.open("other", {"all": int(budget.limit * PROGRAMS) - budget.held - 1_000_000})
        made.writers[ChannelKind.DISPLAY].write(server.surface(1024, 1024) + server.draw_fill(WHOLE, 1))
        await one.until(lambda: "no room for its 1024 × 1024" in one.machine.view().hint, "it says why")
        await asyncio.sleep(0.3)
        assert made.links.count(ChannelKind.DISPLAY) == 1 and np.array_equal(one.picture, PICTURE)
        other.close()
        await one.until(lambda: not one.machine.view().hint, "there is room")
        await one.until(lambda: made.links.count(ChannelKind.DISPLAY) == 2, "all is asked for again")
        assert one.machine.sessions == 1

    made = Server()
    attached(tmp_path, made, test)


def test_sound_without_room_costs_no_picture_and_no_session_and_is_heard_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "AGAIN_S", 0.02)
    made = Server()
    made.says[ChannelKind.PLAYBACK] = []

    async def test(one: Attached) -> None:
        await one.until(lambda: np.array_equal(one.picture, PICTURE), "there is a picture")
        await one.until(lambda: ChannelKind.PLAYBACK in made.heard, "the sound's channel is there")
        budget = one.guest.admission.budget
        other = budget.open("other", {"all": int(budget.limit * PROGRAMS) - budget.held - 10_000})
        made.writers[ChannelKind.PLAYBACK].write(START)
        await one.until(lambda: "no room for its sound: guest alice holds" in one.machine.view().hint, "it says why")
        refusals = budget.refusals
        await asyncio.sleep(0.3)
        assert one.machine.sessions == 1 and budget.refusals == refusals and not one.machine.streams()
        made.writers[ChannelKind.DISPLAY].write(server.draw_fill(WHOLE, 0x010203))
        await one.until(lambda: one.picture is not None and (one.picture[:, :, 0] == 3).all(), "the picture goes on")
        other.close()
        await one.until(lambda: one.machine.streams() and not one.machine.view().hint, "there is sound")
        assert one.machine.sessions == 1 and len(made.links) == 1 + len(ALL)

    attached(tmp_path, made, test)


@pytest.mark.parametrize("kind", [ChannelKind.CURSOR, ChannelKind.INPUTS])
def test_wrong_cursor_or_keyboard_leaves_the_picture_alone_and_is_opened_again(
    tmp_path: Path, kind: ChannelKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "AGAIN_FIRST_S", 0.2)
    made = Server()
    made.says[kind] = [server.message(103 if kind is ChannelKind.CURSOR else 101)]

    async def test(one: Attached) -> None:
        await one.until(lambda: "truncated" in one.machine.view().hint, "it says what is wrong")
        await one.until(lambda: np.array_equal(one.picture, PICTURE), "there is a picture")
        made.says[kind] = []
        await one.until(lambda: not one.machine.view().hint, "it is right now")
        assert one.machine.sessions == 1 and made.links.count(ChannelKind.DISPLAY) == 1
        assert one.screen is not None
        if kind is ChannelKind.INPUTS:
            reader = one.screen.read(WATCHER)
            one.guest.screens.seat.take(WATCHER)

            def typed() -> bool:
                reader.key(KeyPress(0x1E, True))
                return made.links.count(kind) == 2 and server.message(101, b"\x1e\0\0\0") in made.heard[kind]

            await one.until(typed, "keys arrive")
        assert one.machine.sessions == 1

    attached(tmp_path, made, test)


def test_lost_display_ends_the_session_and_the_next_has_a_screen_again(tmp_path: Path) -> None:
    made = Server()

    async def test(one: Attached) -> None:
        await one.until(lambda: one.screen, "there is a screen")
        before = one.screen
        made.writers[ChannelKind.DISPLAY].close()
        await one.until(lambda: one.machine.sessions == 2 and one.screen, "there is another")
        assert one.screen is not before and len(one.guest.screens) == 1

    attached(tmp_path, made, test)
