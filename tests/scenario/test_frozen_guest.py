"""A guest that is frozen to bytes and descriptors while it plays continues in another one, sample for sample."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse.samples import Sample
from millrace.dsp.convert import SampleFormat, Samples
from millrace.errors import ConfigError
from millrace.graph.driver import TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, NodeState
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.guest.native import NativeStreams, NativeStreamState, Open
from millrace.guest.state import VERSIONS, FrozenGuest, GuestState, read_guest
from millrace.io.listeners import Listeners
from millrace.media.format import AudioFormat
from millrace.rights.grants import ANY, Identity, Permission, Subject, Verdict
from millrace.rights.model import OWNER, Right
from millrace.rights.prompts import Prompts
from millrace.sim.rig import START_NS
from millrace.units import NS_PER_MS
from millrace.wire.native.messages import Begun, Message, Notice, Reply
from millrace.wire.native.ring import Ring

STEP_NS = 5 * NS_PER_MS
SOUND = np.random.default_rng(7).uniform(-0.4, 0.4, (96_000, 2)).astype(np.float32)


class ClientStream:
    """A client's side of one stream, which survives whatever happens at the other side."""

    def __init__(self, told: Begun, fds: tuple[int, ...]) -> None:
        self.id, self.target = told.stream, told.target
        self._memory = mmap.mmap(fds[0], told.bytes)
        self.ring = Ring(self._memory, told.capacity, told.frame_bytes)
        self._fds, self._done = fds, 0
        self.heard = b""

    def write(self) -> None:
        """Fill the ring up to the target."""
        goal = min(self.ring.read + self.target, len(SOUND))
        if goal > self._done:
            self.ring.put(self._done, memoryview(SOUND[self._done : goal].tobytes()))
            self.ring.written = self._done = goal
            if self.ring.reader_waits:
                os.write(self._fds[2], b"x")

    def read(self) -> None:
        """Take what there is."""
        ready = self.ring.written - self._done
        self.heard += b"".join(bytes(view) for view in self.ring.views(self._done, ready))
        self._done += ready

    def close(self) -> None:
        self.ring.close()
        self._memory.close()
        for fd in self._fds:
            os.close(fd)


class Scene:
    """A guest on a virtual clock with a program that plays and records, at the same rate as the graph or not."""

    principal, name = OWNER, "mpv"

    def __init__(self, folder: Path, rate: int) -> None:
        self.subject = Subject(Identity(4713, 1000, "mpv"))
        self.ids, self.driver, self.now_ns = Ids(), TimerDriver(), START_NS
        reports: Any = SimpleNamespace(report=lambda symptom: None, report_node=lambda *args: None)
        self._common = Common(self.ids, self.driver, folder, Listeners(), Prompts(self.ids.take), reports)
        self.alice, self.streams, self.told = self._guest(None), NativeStreams(self), list[Message]()
        self.fds: tuple[int, ...] = ()
        graph = self.alice.graph
        hall = graph.add_sink("hall")
        assert graph.default is not None
        graph.link(hall, graph.default, np.array([[0.5, 0.2], [0.1, 0.7]], np.float32))
        graph.set_gains(hall, (0.8, 1.3))
        graph.default.recorded.gains = (0.9, 0.6)
        self.playing = self._open("play", rate, "sink/hall")
        self.recording = self._open("record", rate, "sink/millrace")
        graph.set_gains(graph.streams[self.playing.id], (0.7, 0.4))

    def _guest(self, state: GuestState | None) -> Guest:
        guest = Guest(GuestConfig(name="alice"), self._common, frozen=state and FrozenGuest(state, {}))
        self.driver.attach(guest.graph)
        return guest

    def _open(self, method: str, rate: int, at: str) -> ClientStream:
        self.streams.methods[method][1](1, Open(name=method, rate=rate, at=at, latency_ms=60.0))
        answer = self.told.pop()
        assert isinstance(answer, Reply)
        return ClientStream(answer.value, self.fds)

    def guest(self, name: str, right: Right) -> Guest:
        return self.alice

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        self.told.append(message)
        self.fds = fds

    def refuse(self, serial: int, error: Exception) -> None:
        raise AssertionError(error)

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now_ns += STEP_NS
            self.playing.write()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            while (due := self.driver.next_timeout()) is not None and due <= self.now_ns:
                self.driver.handle_timeout(max(due, self.now_ns))
            self.recording.read()

    def move(self, meanwhile: Callable[[Graph], None] = lambda graph: None) -> None:
        """Hand on the guest and the program's streams as bytes and descriptors, as one process does to another."""
        before, graph = self.alice, self.alice.graph
        held, nodes = graph.budget.held, [(node.key, node.name, node.state) for node in graph.nodes()]
        states = self.streams.freeze()
        data = [msgspec.msgpack.encode(value) for value in (before.freeze({one.node for one in states}).state, states)]
        assert not graph.budget.held and graph.next_timeout() is None and not before.native.playback
        state, own = read_guest(data[0]), msgspec.msgpack.decode(data[1], type=list[NativeStreamState])
        for one in own:
            sent = [os.dup(fd) for fd in one.fds]
            for fd in one.fds:
                os.close(fd)
            one.fds = (sent[0], sent[1], sent[2])
        self.alice, self.streams = self._guest(state), NativeStreams(self)
        graph = self.alice.graph
        assert [(node.key, node.name, node.state) for node in graph.nodes()] == nodes and graph.budget.held == held
        meanwhile(graph)
        self.streams.resume(own, [self.alice])

    def close(self) -> None:
        self.streams.close()
        for stream in (self.playing, self.recording):
            stream.close()


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


async def _heard(folder: Path, rate: int, every: int) -> Samples:
    scene = Scene(folder, rate)
    for at in range(200):
        if every and at % every == 3:
            scene.move()
        if at == 60:
            scene.alice.graph.set_gains(scene.alice.graph.streams[scene.playing.id], (0.2, 0.9))
        await scene.run(1)
    assert not [one for one in scene.told if isinstance(one, Notice)]
    scene.close()
    assert not scene.alice.graph.streams and not scene.alice.graph.taps
    return np.frombuffer(scene.recording.heard, np.float32).reshape(-1, 2)


@pytest.mark.parametrize("rate", [48_000, 44_100])
def test_program_hears_no_difference(tmp_path: Path, rate: int) -> None:
    whole, moved = (asyncio.run(_heard(tmp_path, rate, every)) for every in (0, 9))
    assert abs(len(whole) - len(moved)) < 3_000 and np.abs(whole).max() > 0.1
    frames = min(len(whole), len(moved))
    assert frames > 0.9 * rate
    if rate == 48_000:
        assert len(whole) == len(moved) and np.array_equal(whole, moved)
    else:
        assert np.abs(whole[:frames] - moved[:frames]).max() < 1e-4


def test_stream_continues_if_its_sink_was_resumed_meanwhile(tmp_path: Path) -> None:
    def suspend(graph: Graph, on: bool) -> None:
        graph.suspend(next(sink for sink in graph.sinks.values() if sink.name == "hall"), on)

    async def test() -> bytes:
        scene = Scene(tmp_path, 48_000)
        suspend(scene.alice.graph, True)
        await scene.run(3)
        states = [node.state for node in scene.alice.graph.streams.values()]
        scene.move(lambda graph: suspend(graph, False))
        await scene.run(30)
        assert states == [NodeState.SUSPENDED]
        scene.close()
        return scene.recording.heard

    assert np.abs(np.frombuffer(asyncio.run(test()), np.float32)).max() > 0.1


@pytest.mark.parametrize("version", [VERSIONS.start - 1, VERSIONS.stop])
def test_unknown_state_version_is_refused(version: int) -> None:
    with pytest.raises(ConfigError, match=f"version {version} of its state"):
        read_guest(msgspec.msgpack.encode({"version": version, "later": "another layout"}))


OF_VERSION_1 = (Path(__file__).parent / "guest_1.msgpack").read_bytes()
"""A `Scene` after ten steps, with a sample, grants and a default source; only its two native streams were kept."""


def test_guest_frozen_in_version_1_continues(tmp_path: Path) -> None:
    async def test() -> None:
        scene = Scene(tmp_path, 48_000)
        alice = scene._guest(read_guest(OF_VERSION_1))
        hall, graph, door = alice.graph.sinks[9], alice.graph, alice.pulse.door
        assert [(sink.name, sink.gains) for sink in graph.sinks.values()] == [
            ("millrace", (1.0, 1.0)), ("hall", (0.8, 1.3)),
        ]  # fmt: skip
        assert graph.default is graph.sinks[0] and graph.default.recorded.gains == (0.9, 0.6)
        assert [link.target for link in hall.links] == [graph.default] and hall.links[0].matrix is not None
        stream, tap = graph.streams[10], graph.taps[11]
        assert stream.active and stream.sink is hall and stream.gains == (0.7, 0.4) and graph.ahead(stream) == 240
        assert tap.source is graph.default and alice.microphone is graph.sources[1]
        assert [(one.name, bytes(one.data), one.props) for one in door.samples] == [
            ("bell", b"ding" * 8, {"a": b"b\0"})
        ]
        assert door.cookie.startswith(b"\x81\xdb\x1f\x89") and door.default_source is hall
        assert door.declared == {1: AudioFormat(SampleFormat.S16LE, 44_100, ("mono",))}
        assert alice.admission.verdict(Permission.MICROPHONE, scene.subject) is Verdict.DENY
        assert alice.admission.verdict(Permission.MONITOR, scene.subject) is Verdict.PROMPT
        assert alice.admission.refused_captures == 1
        # Its programs know its sinks and sources by the daemon's numbers.
        new = graph.add_sink("new")
        assert [door.sink_indexes.of(sink) for sink in (hall, new)] == [9, 10]
        assert [door.source_indexes.of(mix) for mix in (hall, alice.microphone, new)] == [9, 1, 10]
        scene.close()

    asyncio.run(test())


def test_damaged_guest_is_refused() -> None:
    with pytest.raises(ConfigError, match="the state of a frozen guest can't be read"):
        read_guest(OF_VERSION_1[:-1])


def test_cookie_samples_and_grants_are_included(tmp_path: Path) -> None:
    async def test() -> None:
        scene = Scene(tmp_path, 48_000)
        alice, fmt = scene.alice, AudioFormat(SampleFormat.S16LE, 44_100, ("mono",))
        number, cookie, microphone = alice.id, alice.pulse.door.cookie, alice.microphone.id
        alice.pulse.door.samples.store(Sample(scene.ids.take(), "bell", fmt, bytearray(b"ding" * 100), {"a": b"b\0"}))
        alice.pulse.door.default_source = next(sink for sink in alice.graph.sinks.values() if sink.name == "hall")
        alice.pulse.door.declared[microphone] = fmt
        alice.admission.grants.set(Permission.MICROPHONE, "mpv", Verdict.DENY)
        alice.admission.grants.set(Permission.MONITOR, ANY, Verdict.PROMPT)
        alice.admission.refusal(Permission.CAMERA, scene.subject)
        await scene.run(3)
        scene.move()
        after, door = scene.alice, scene.alice.pulse.door
        assert after is not alice and (after.id, door.cookie, after.microphone.id) == (
            number,
            cookie,
            microphone,
        )
        assert [(one.name, bytes(one.data), one.props) for one in door.samples] == [
            ("bell", b"ding" * 100, {"a": b"b\0"})
        ]
        assert door.default_source is not None and door.default_source.name == "hall"
        assert after.graph.sinks[door.default_source.id] is door.default_source
        assert door.declared == {microphone: fmt}
        assert after.admission.verdict(Permission.MICROPHONE, scene.subject) is Verdict.DENY
        assert after.admission.verdict(Permission.MONITOR, scene.subject) is Verdict.PROMPT
        assert after.admission.refused_captures == 1
        assert after.graph.default is not None and not after.recording
        assert door.in_use.played == {door.default_source.id, after.graph.default.id}
        scene.close()

    asyncio.run(test())
