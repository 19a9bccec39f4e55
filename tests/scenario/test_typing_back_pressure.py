"""What is typed into a machine that does not read for a while waits with the viewer; the session goes on."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from millrace.daemon.app import Daemon
from millrace.doors import inputroom
from millrace.errors import ConfigError
from millrace.graph.screen import Screen
from millrace.guest.guest import Guest
from millrace.guest.hands import CHARS_MAX, Hands
from millrace.guest.machines.address import DoorSpec, parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.paced import PACE_S
from millrace.guest.machines.spice import SpiceMachine
from millrace.pixels.rects import Size
from millrace.wire.peer.pictures import TEXT_MAX, Pointer, Text
from millrace.wire.spice.channel import ChannelKind
from tests.bus import daemon_in
from tests.fuzz import xserver
from tests.gops import WATCHER
from tests.scenario.qemuvm import until
from tests.scenario.test_spice_machine import Server as SpiceServer

SIZE = Size(64, 48)
LONG = Text("A" * TEXT_MAX)
TEXTS_MAX, REFUSED_MAX = 100, 300
"""Texts that one types, and refusals one after another, by which it is plain that nothing more is taken."""


class Deaf:
    """A server that says `greeting` to its client and reads nothing until it is told to, then all."""

    def __init__(self, greeting: list[bytes]) -> None:
        self._greeting, self.reads, self.got = greeting, asyncio.Event(), bytearray()

    def linked(self, machine: AttachedMachine) -> bool:
        """Whether it can be typed into."""
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        self.got.clear()
        for said in self._greeting:
            writer.write(said)
        await writer.drain()
        await self.greet(reader, writer)
        await self.reads.wait()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                self.got += data
        writer.close()

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the client has to know before it types."""


class DeafX(Deaf):
    """An X server that has no keyboard extension, and is deaf from then on."""

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Deaf`."""
        while not (asked := requests_of(self.got)) or b"XKEYBOARD" not in asked[-1]:
            data = await reader.read(1 << 16)
            if not data:
                return
            self.got += data
        writer.write(xserver.reply(len(asked), bytes(4)))


class DeafSpice(SpiceServer):
    """A SPICE server that reads nothing on its inputs channel until it is told to, then all."""

    def __init__(self) -> None:
        super().__init__(mouse=2)
        self.reads = asyncio.Event()

    @property
    def got(self) -> bytearray:
        """What its inputs channel was sent."""
        return self.heard[ChannelKind.INPUTS]

    async def hear(self, kind: int, reader: asyncio.StreamReader) -> None:
        """See `Server`."""
        if kind == ChannelKind.INPUTS:
            await self.reads.wait()
        await super().hear(kind, reader)

    def linked(self, machine: AttachedMachine) -> bool:
        """Whether it can be typed into."""
        assert isinstance(machine, SpiceMachine)
        inputs = machine._controls._wire
        return inputs is not None and inputs._channel.open


def vnc_server(name: bytes) -> list[bytes]:
    init = struct.pack(">HH16xI", SIZE.width, SIZE.height, len(name)) + name
    return [b"RFB 003.008\n" + bytes([1, 1]) + bytes(4) + init]


def requests_of(got: bytes) -> list[bytes]:
    """What an X server was asked for."""
    out, at = [], 12
    while at + 4 <= len(got):
        size = 4 * int.from_bytes(got[at + 2 : at + 4], "little")
        out.append(bytes(got[at : at + size]))
        at += size
    return out


def x_keys(got: bytes) -> int:
    """How many keys an X server got."""
    test = xserver.MAJORS[b"XTEST"][0]
    return sum(one[:2] == bytes((test, 2)) and one[4] in (2, 3) for one in requests_of(got))


def vnc_keys(got: bytes) -> int:
    """How many presses and releases of A a VNC server got."""
    return got.count(struct.pack(">BBxxI", 4, 1, 0x41)) + got.count(struct.pack(">BBxxI", 4, 0, 0x41))


def spice_keys(got: bytes) -> int:
    """How many presses and releases of A a SPICE server got."""
    return got.count(struct.pack("<HII", 101, 4, 0x1E)) + got.count(struct.pack("<HII", 102, 4, 0x9E))


class Typist:
    """Who has the keyboard of that machine."""

    def __init__(self, daemon: Daemon, guest: Guest, screen: Screen) -> None:
        self.incidents = daemon.worker.diagnosis.incidents
        self.screen, self.typed = screen, 0
        self.account = guest.admission.budget.open("viewer")
        self.hands = Hands(guest.turns, self.account)
        guest.screens.seat.take(WATCHER)

    async def type(self) -> None:
        """Type, and move the pointer, until nothing more is taken for a while."""
        refused = 0
        while refused < REFUSED_MAX and self.typed < TEXTS_MAX:
            try:
                self.hands.control(LONG, WATCHER, self.screen, SIZE)
            except ConfigError:
                refused += 1
            else:
                self.typed, refused = self.typed + 1, 0
            self.hands.control(Pointer(refused % 60, 1, 0), WATCHER, self.screen, SIZE)
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def attached(
    folder: Path, server: Deaf | DeafSpice, spec: DoorSpec
) -> AsyncIterator[tuple[AttachedMachine, Typist]]:  # fmt: skip
    listening = await asyncio.start_unix_server(server.serve, spec.address)
    daemon: Daemon
    async with daemon_in(folder) as daemon:
        guest = daemon.worker.guest("alice")
        machine = daemon.worker.attach(guest, spec)
        await until(lambda: guest.screens.first and server.linked(machine))
        assert guest.screens.first is not None
        typist = Typist(daemon, guest, guest.screens.first.screen)
        yield machine, typist
        typist.hands.forget()
        typist.account.close()
    listening.close()


SERVERS: dict[str, tuple[str, Callable[[], Deaf | DeafSpice], Callable[[bytes], int], int]] = {
    "x11": ("x11:{}", lambda: DeafX([xserver.setup(), *xserver.extensions()]), x_keys, 4),
    "vnc": ("vnc+unix://{}", lambda: Deaf(vnc_server(b"desktop")), vnc_keys, 2),
    "spice": ("spice+unix://{}", DeafSpice, spice_keys, 2),
}
"""Door, server, and how many keys it got, of how many for each character."""


@pytest.mark.parametrize("kind", SERVERS)
def test_session_goes_on_while_the_server_does_not_read_and_all_arrives(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, make, keys, per_character = SERVERS[kind]
    # At SPICE's pace its connection would not be full for an hour.
    monkeypatch.setattr(inputroom, "AT_ONCE", 10**9)

    async def main() -> None:
        server = make()
        async with attached(tmp_path, server, parse_door(door.format(tmp_path / "X0"))) as (machine, typist):
            await typist.type()
            assert machine.state == "attached" and machine.sessions == 1
            assert typist.hands.waiting > 1 and typist.account.held > CHARS_MAX // 2
            assert typist.typed < TEXTS_MAX, "not all of it fits"
            server.reads.set()
            await until(lambda: not typist.hands.waiting)
            await until(lambda: keys(server.got) == typist.typed * TEXT_MAX * per_character)
            assert machine.sessions == 1 and not typist.account.held

    asyncio.run(main())


QEMUS: dict[str, tuple[str, Callable[[], Deaf | DeafSpice], bytes]] = {
    "vnc": ("vnc+unix://{}", lambda: Deaf(vnc_server(b"QEMU (vm)")), struct.pack(">BBxxI", 4, 0, 0x61)),
    "spice": ("spice+unix://{}", DeafSpice, struct.pack("<HII", 102, 4, 0x9E)),
}
"""Door, server, and how an A is released."""


@pytest.mark.parametrize("kind", QEMUS)
def test_qemus_servers_get_a_key_in_ten_milliseconds(tmp_path: Path, kind: str) -> None:
    door, make, released = QEMUS[kind]

    async def main() -> None:
        server = make()
        server.reads.set()
        async with attached(tmp_path, server, parse_door(door.format(tmp_path / "X0"))) as (_, typist):
            loop = asyncio.get_running_loop()
            began = loop.time()
            typist.hands.control(Text("a" * 30), WATCHER, typist.screen, SIZE)
            await until(lambda: server.got.count(released) == 30)
            assert loop.time() - began >= 48 * PACE_S, "60 keys, 8 of them at once, and some are on their way"
            assert not typist.hands.waiting

    asyncio.run(main())
