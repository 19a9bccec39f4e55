"""Programs that play and record over a socket notice nothing when another PulseAudio server takes their connections."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop

from millrace.doors.pulse.state import read_client
from millrace.dsp.convert import SampleFormat, encode
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.guest.pulse import Handed
from millrace.io import runner
from millrace.io.listeners import Listeners
from millrace.rights.prompts import Prompts
from millrace.sim.rig import START_NS
from millrace.units import NS_PER_MS
from millrace.wire.pulse.client import Notice, PulseClientSession, Reply, Sound, playback_fields, record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

STEP_NS = 5 * NS_PER_MS
SPEC = Spec(SampleFormat.S16LE, 2, 48_000)
SOUND = encode(SampleFormat.S16LE, np.random.default_rng(5).uniform(-0.4, 0.4, (30_000, 2)).astype(np.float32))


class Program:
    """A program that plays `SOUND` and records the monitor, by a socket of its own."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._sock.setblocking(False)
        self.wire = PulseClientSession(PROTOCOL_VERSION)
        self.replies: dict[int, Reply] = {}
        self.notices: list[Notice] = []
        self.recorded = bytearray()
        self._out = b""
        self._left = memoryview(SOUND)
        self.ended = False

    def turn(self, most: int = 1 << 20) -> None:
        """Write at most so much, read what there is, serve requests."""
        self.write(most)
        self.read()

    def write(self, most: int = 1 << 20) -> None:
        self._out += self.wire.data_to_send()
        if self._out and not self.ended:
            self._out = self._out[self._sock.send(self._out[:most]) :]

    def read(self) -> None:
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        self.ended = not data
        self.wire.receive(data, 0)
        for event in self.wire.events():
            if isinstance(event, Sound):
                self.recorded += event.data
            elif isinstance(event, Notice):
                self.notices.append(event)
                if event.command is Command.REQUEST:
                    self.feed(event.fields["channel"], event.fields["bytes"])
            else:
                assert isinstance(event, Reply), event
                self.replies[event.tag] = event

    def feed(self, channel: int, size: int) -> None:
        if size := min(size, len(self._left)):
            self.wire.send_block(channel, self._left[:size])
            self._left = self._left[size:]

    def close(self) -> None:
        self._sock.close()


class Scene:
    """A guest with its sockets, on a virtual clock."""

    def __init__(self, folder: Path) -> None:
        self.ids, self.driver, self.now_ns = Ids(), TimerDriver(), START_NS
        reports: Any = SimpleNamespace(report=lambda symptom: None, troubled=lambda *args: None)
        self.listeners = Listeners()
        self.common = Common(self.ids, self.driver, folder, self.listeners, Prompts(self.ids.take), reports)
        self.guest = Guest(GuestConfig(name="alice"), self.common)
        self.programs: list[Program] = []

    async def program(self) -> Program:
        """A program that has logged in."""
        program = Program(self.guest.pulse.path)
        self.programs.append(program)
        await self.ask(program, Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(COOKIE_BYTES))
        await self.ask(program, Command.SET_CLIENT_NAME, props={"application.name": b"mpv\0"})
        return program

    async def ask(self, program: Program, command: Command, **fields: Any) -> dict[str, Any]:
        tag = program.wire.send_request(command, fields)
        while tag not in program.replies:
            program.turn()
            await asyncio.sleep(0)
        return program.replies[tag].fields

    async def run(self, steps: int, most: int = 1 << 20) -> None:
        """Let time pass; after each step everything that was written arrives."""
        for _ in range(steps):
            self.now_ns += STEP_NS
            while (due := self.driver.next_timeout()) is not None and due <= self.now_ns:
                self.driver.handle_timeout(max(due, self.now_ns))
            for _ in range(12):
                for program in self.programs:
                    program.turn(most)
                await asyncio.sleep(0)

    async def move(self) -> int:
        """Hand all connections to another server, as bytes and descriptors; returns how many there were."""
        server = self.guest.pulse
        await server.settle()
        handed = [(msgspec.msgpack.encode(one.state), os.dup(one.sock.fileno()), one.sock) for one in server.freeze()]
        assert not server.door.clients and not server.door.playback and not server._connections
        for _, _, sock in handed:
            sock.close()
        await asyncio.sleep(0)
        for data, fd, _ in handed:
            server.resume(Handed(read_client(data), socket.socket(fileno=fd)))
        return len(handed)

    async def close(self) -> None:
        for program in self.programs:
            program.close()
        await self.guest.stop()
        self.listeners.stop()
        for _ in range(20):
            await asyncio.sleep(0)


Test = Callable[[Path], Coroutine[Any, Any, Any]]


def running(test: Test, folder: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await test(folder)

    with asyncio.Runner(loop_factory=factory) as loops:
        return loops.run(bounded())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def factory(request: pytest.FixtureRequest) -> Any:
    return request.param


async def heard(folder: Path, every: int) -> tuple[bytes, list[Command]]:
    """What a program has recorded of itself, and what it was told, if its connection is moved now and then."""
    scene = Scene(folder)
    await scene.guest.start()
    program = await scene.program()
    recording = record_fields(SPEC, (1, 2), source_name="millrace.monitor", fragsize=1_920)
    await scene.ask(program, Command.CREATE_RECORD_STREAM, **recording)
    fields = playback_fields(SPEC, (1, 2), tlength=24_000)
    playing = await scene.ask(program, Command.CREATE_PLAYBACK_STREAM, **fields)
    program.feed(playing["channel"], playing["missing"])
    for at in range(120):
        if every and at % every == 3:
            # What is written ends within a block of sound, or within the header of one.
            program.turn(1_111)
            await asyncio.sleep(0)
            assert await scene.move() == 1
        await scene.run(1, most=4_000)
    tag = program.wire.send_request(Command.DRAIN_PLAYBACK_STREAM, {"channel": playing["channel"]})
    program.turn()
    await asyncio.sleep(0)
    if every:
        assert await scene.move() == 1
    await scene.run(60)
    assert tag in program.replies
    assert not scene.listeners.pending.strangers and len(scene.guest.pulse._connections) == 1
    await scene.close()
    assert not scene.guest.pulse.door.clients and not scene.guest.pulse._connections
    return bytes(program.recorded), [one.command for one in program.notices if one.command is not Command.REQUEST]


def test_a_program_on_a_socket_hears_no_difference(factory: Any, tmp_path: Path) -> None:
    (whole, told), (moved, told_moved) = (
        running(lambda folder, every=every: heard(folder, every), tmp_path, factory) for every in (0, 7)
    )
    assert moved.strip(b"\0") == SOUND.strip(b"\0") == whole.strip(b"\0")
    assert told_moved == told and Command.STARTED in told


def test_one_that_has_not_logged_in_goes_along_and_must_still_log_in(factory: Any, tmp_path: Path) -> None:
    async def test(folder: Path) -> None:
        scene = Scene(folder)
        await scene.guest.start()
        program = Program(scene.guest.pulse.path)
        scene.programs.append(program)
        tag = program.wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
        await scene.run(1, most=10)
        assert await scene.move() == 1
        await scene.run(1, most=5)
        assert len(scene.listeners.pending.strangers) == 1 and tag not in program.replies
        await scene.run(2)
        assert tag in program.replies and not scene.listeners.pending.strangers
        await scene.close()

    running(test, tmp_path, factory)


def flood(program: Program) -> int:
    """Ask for more than a socket holds; returns how many answers are due."""
    tags = [program.wire.send_request(Command.GET_MODULE_INFO_LIST) for _ in range(400)]
    program.write()
    return len(tags)


def test_what_a_slow_reader_has_not_read_arrives(factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SETTLE_S", 50.0)

    async def test(folder: Path) -> None:
        scene = Scene(folder)
        await scene.guest.start()
        program = await scene.program()
        due = flood(program) + len(program.replies)
        scene.programs.clear()
        await scene.run(30)
        (one,) = scene.guest.pulse._connections
        assert one._transport is not None and one._transport.get_write_buffer_size() > 100_000
        moving = asyncio.create_task(scene.move())
        while not moving.done():
            program.read()
            await asyncio.sleep(0.001)
        scene.programs.append(program)
        await scene.run(10)
        assert moving.result() == 1 and len(program.replies) == due
        await scene.close()

    running(test, tmp_path, factory)


def test_who_does_not_read_or_is_being_sent_away_ends_and_nobody_else(
    factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SETTLE_S", 0.05)

    async def test(folder: Path) -> None:
        scene = Scene(folder)
        await scene.guest.start()
        deaf, killed, stays = [await scene.program() for _ in range(3)]
        for program in (deaf, killed, stays):
            fields = playback_fields(SPEC, (1, 2), tlength=24_000)
            await scene.ask(program, Command.CREATE_PLAYBACK_STREAM, **fields)
        flood(deaf)
        scene.programs.remove(deaf)
        await scene.run(30)
        graph, door = scene.guest.graph, scene.guest.pulse.door
        numbers = list(door.clients)
        await scene.ask(stays, Command.KILL_CLIENT, index=numbers[1])
        assert await scene.move() == 1
        await scene.run(1)
        assert list(door.clients) == numbers[2:] and len(graph.streams) == 1 and killed.ended
        assert await scene.ask(stays, Command.GET_SERVER_INFO)
        scene.programs.append(deaf)
        await scene.close()
        assert not graph.streams and not graph.budget.shares().get("connection")

    running(test, tmp_path, factory)
