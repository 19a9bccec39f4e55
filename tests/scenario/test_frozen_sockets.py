"""Programs that play and record over a socket notice nothing when their guest is frozen and another one continues."""

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

from millrace.dsp.convert import SampleFormat, encode
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.guest.state import FrozenGuest, read_guest
from millrace.io import runner
from millrace.io.listeners import Listeners
from millrace.rights.prompts import Prompts
from millrace.sim.rig import START_NS
from millrace.units import NS_PER_MS
from millrace.wire.pulse.client import Notice, PulseClientSession, Reply, Sound, playback_fields, record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, NO_INDEX, PROTOCOL_VERSION, Command
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
        reports: Any = SimpleNamespace(report=lambda symptom: None, report_node=lambda *args: None)
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

    async def listed(self, program: Program, command: Command) -> list[dict[str, Any]]:
        tag = program.wire.send_request(command, {})
        while tag not in program.replies:
            program.turn()
            await asyncio.sleep(0)
        return program.replies[tag].records

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
        """Hand the guest to another one, as bytes and descriptors; returns how many connections went along."""
        before, graph = self.guest, self.guest.graph
        await before.settle()
        nodes = [(node.key, node.name, node.state, node.account.parts) for node in graph.nodes()]
        connections = before.clients
        state, fds = before.freeze(())
        data = msgspec.msgpack.encode(state)
        sent = {kind: [os.dup(fd) for fd in own] for kind, own in fds.items()}
        for fd in (fd for own in fds.values() for fd in own):
            os.close(fd)
        await asyncio.sleep(0)
        assert not graph.budget.held and not before.clients and not before.pulse._connections
        self.guest = Guest(GuestConfig(name="alice"), self.common, frozen=FrozenGuest(read_guest(data), sent))
        after = [(node.key, node.name, node.state, node.account.parts) for node in self.guest.graph.nodes()]
        assert after == [one for one in nodes if one in after]
        # Connections that end take their streams along.
        assert len(sent["pulse"]) < connections or len(after) == len(nodes)
        await self.guest.start()
        return len(sent["pulse"])

    async def close(self) -> None:
        for program in self.programs:
            program.close()
        await self.guest.stop("the test ends")
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


def test_sound_over_a_socket_is_the_same_sample_for_sample(factory: Any, tmp_path: Path) -> None:
    (whole, told), (moved, told_moved) = (
        running(lambda folder, every=every: heard(folder, every), tmp_path, factory) for every in (0, 7)
    )
    same = moved.strip(b"\0") == SOUND.strip(b"\0") == whole.strip(b"\0")
    assert same, "sample for sample"
    assert told_moved == told and Command.STARTED in told


def test_connection_without_login_continues_and_must_still_log_in(factory: Any, tmp_path: Path) -> None:
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


def test_slow_reader_receives_everything(factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_only_closing_connections_and_clients_that_do_not_read_end(
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
        numbers = list(scene.guest.pulse.door.clients)
        await scene.ask(stays, Command.KILL_CLIENT, index=1)
        assert await scene.move() == 1
        await scene.run(1)
        graph, door = scene.guest.graph, scene.guest.pulse.door
        assert list(door.clients) == numbers[2:] and door.client_at(2) is door.clients[numbers[2]]
        assert len(graph.streams) == 1 and killed.ended
        assert await scene.ask(stays, Command.GET_SERVER_INFO)
        scene.programs.append(deaf)
        await scene.close()
        assert not graph.streams and not graph.budget.shares().get("connection")

    running(test, tmp_path, factory)


MODULES = [
    ("module-null-sink", "sink_name=hall rate=44100"),
    ("module-combine-sink", "sink_name=both slaves=millrace,hall"),
    ("module-remap-sink", "sink_name=swapped master=both master_channel_map=front-right,front-left remix=no"),
    ("module-virtual-source", "source_name=mic"),
    ("module-remap-source", "source_name=left master=millrace.monitor channels=1 channel_map=mono"),
    ("module-loopback", "source=hall.monitor sink=millrace latency_msec=40"),
    ("module-loopback", "source=mic sink=hall latency_msec=20 rate=44100"),
    ("module-sine", "sink=hall frequency=441"),
    ("module-sine-source", "source_name=tone frequency=331"),
    ("module-switch-on-connect", "ignore_virtual=no"),
]


async def modules_heard(folder: Path, every: int) -> tuple[bytes, Any, Any]:
    """What is recorded of what modules mix, what is listed at the end, and what a subscriber was told until then."""
    scene = Scene(folder)
    await scene.guest.start()
    program, before = await scene.program(), scene.guest.graph.budget.held
    listed = await scene.listed(program, Command.GET_MODULE_INFO_LIST)
    indices = [
        (await scene.ask(program, Command.LOAD_MODULE, name=name, argument=text))["index"] for name, text in MODULES
    ]
    await scene.ask(program, Command.SUBSCRIBE, mask=0xFFF)
    restore = next(one["index"] for one in listed if one["name"] == "module-device-restore")
    await scene.ask(program, Command.UNLOAD_MODULE, index=restore)
    await scene.ask(program, Command.SET_DEFAULT_SINK, name="millrace")
    upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": 40_000, "props": {}}
    channel = (await scene.ask(program, Command.CREATE_UPLOAD_STREAM, **upload))["channel"]
    program.wire.send_block(channel, SOUND[:40_000])
    await scene.ask(program, Command.FINISH_UPLOAD_STREAM, channel=channel)
    recording = record_fields(SPEC, (1, 2), source_name="millrace.monitor", fragsize=1_920)
    record = await scene.ask(program, Command.CREATE_RECORD_STREAM, **recording)
    fields = playback_fields(SPEC, (1, 2), sink_name="swapped", tlength=24_000)
    playing = await scene.ask(program, Command.CREATE_PLAYBACK_STREAM, **fields)
    program.feed(playing["channel"], playing["missing"])
    for at in range(90):
        if at == 20:
            sound = {"sink_index": NO_INDEX, "sink_name": "hall", "volume": 0x8000, "props": {}}
            await scene.ask(program, Command.PLAY_SAMPLE, name="bell", **sound)
        if at == 50:
            await scene.ask(program, Command.SET_SOURCE_VOLUME, index=NO_INDEX, name="hall.monitor", volume=(0x8000,))
        if every and at % every == 3:
            await scene.move()
        await scene.run(1)
    lists = (
        Command.GET_MODULE_INFO_LIST, Command.GET_SINK_INFO_LIST, Command.GET_SOURCE_INFO_LIST,
        Command.GET_SINK_INPUT_INFO_LIST, Command.GET_SOURCE_OUTPUT_INFO_LIST,
    )  # fmt: skip
    told = [one.fields for one in program.notices if one.command is Command.SUBSCRIBE_EVENT]
    events = {(one["event"], one["index"]) for one in told}
    shown = [[trimmed(one) for one in await scene.listed(program, command)] for command in lists]
    # A device of a module becomes the default, and what modules made ends with them.
    newest = await scene.ask(program, Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=newest")
    assert scene.guest.graph.default is not None and scene.guest.graph.default.name == "newest"
    devices = scene.guest.devices
    assert not devices.restores and devices.keeps_defaults and scene.guest.rules.restores
    await scene.ask(program, Command.DELETE_PLAYBACK_STREAM, channel=playing["channel"])
    await scene.ask(program, Command.DELETE_RECORD_STREAM, channel=record["channel"])
    for index in (newest["index"], *reversed(indices)):
        await scene.ask(program, Command.UNLOAD_MODULE, index=index)
    await scene.ask(program, Command.REMOVE_SAMPLE, name="bell")
    graph, door = scene.guest.graph, scene.guest.pulse.door
    assert len(graph.sinks) == len(graph.sources) == 1 and not graph.streams and not graph.taps
    assert not door.made_by and not door.playback and not door.records and graph.budget.held == before
    await scene.close()
    return bytes(program.recorded), shown, events


def trimmed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on the time at which it was asked for."""
    return {key: value for key, value in record.items() if not key.endswith(("usec", "latency"))}


def test_sound_of_modules_is_the_same_sample_for_sample(factory: Any, tmp_path: Path) -> None:
    whole, moved = (
        running(lambda folder, every=every: modules_heard(folder, every), tmp_path, factory) for every in (0, 11)
    )
    assert len(whole[0]) > 50_000 and np.frombuffer(whole[0], np.int16).any()
    assert moved[1] == whole[1] and moved[2] == whole[2]
    same = moved[0] == whole[0]
    assert same, "sample for sample"
