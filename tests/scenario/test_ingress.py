"""What users see of a guest with a stream from each kind of door: on a virtual clock, the same in each run."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, convert, to_builtins

from millrace.clock.settled import FOR_NS as SETTLED_NS
from millrace.codec.parameters import CodecParameters
from millrace.control.publish import Publisher
from millrace.control.registry import Registry
from millrace.doors.ingress import recorder_of
from millrace.doors.qemu.door import EndedVoices, QemuPlayback
from millrace.doors.vnc.door import VncDoor
from millrace.dsp.convert import SampleFormat, encode
from millrace.graph.model import Ids
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.guest.listener import ListenerSession
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.qemu import QemuMachine
from millrace.guest.machines.vnc import VncMachine
from millrace.guest.native import NativeStreams, Open
from millrace.io.listeners import Listeners
from millrace.observe.diagnosis import Diagnosis, Surroundings
from millrace.observe.explain import explain_recorder, explain_stream
from millrace.observe.latency import breakdown
from millrace.observe.metrics import Counters, exposition
from millrace.observe.views import guest_view, stream_view
from millrace.rights.grants import Identity, Subject
from millrace.rights.model import OWNER, Right
from millrace.rights.prompts import Prompts
from millrace.sim.qemu import FakeQemu
from millrace.sim.rig import Rig, RigClient
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.native.messages import Message, Reply
from millrace.wire.native.ring import Ring
from millrace.wire.peer.messages import FormatChanged, Hello, Report, encode_message, pack_media
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command
from millrace.wire.pulse.tagstruct import Spec
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import AudioBegin, AudioData, Ready, VncEvent

GOLDEN = Path(__file__).with_name("ingress.json")
"""Rewritten with MILLRACE_GOLDEN=1."""
FIREFOX, ARECORD = Identity(4711, 1000, "firefox"), Identity(4712, 1000, "arecord")
S16 = Spec(SampleFormat.S16LE, 2, 44_100)
STEREO = (1, 2)
TICK_S = 0.005
Shown = dict[str, Any]


class Program:
    """A program that uses the native protocol: a session for its streams, and its side of their shared memory."""

    principal, name = OWNER, "mpv"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.subject = Subject(Identity(4713, 1000, "mpv"))
        self.streams = NativeStreams(self)
        self.answers: list[Reply] = []
        self._fds: tuple[int, ...] = ()

    def guest(self, name: str, right: Right) -> Guest:
        del name, right
        return self._guest

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if isinstance(message, Reply):
            self.answers.append(message)
            self._fds += fds

    def refuse(self, serial: int, error: Exception) -> None:
        raise AssertionError(error)

    async def play(self, rate: int, name: str, milliseconds: int = 60) -> str:
        """Play a tone of that length, and nothing after it."""
        takes, run = self.streams.methods["play"]
        run(1, takes(name=name, format="s16", rate=rate, latency_ms=80.0, guest="alice"))
        answer = self.answers[-1].value
        memory, _, bell = self._fds
        with mmap.mmap(memory, answer.bytes) as mapped:
            ring = Ring(mapped, answer.capacity, answer.frame_bytes)
            frames = rate * milliseconds // 1000
            ring.put(0, memoryview(encode(SampleFormat.S16LE, sine(0.1, 440, rate)[:frames])))
            ring.written = frames
            ring.close()
        os.write(bell, b"x")
        await asyncio.sleep(0.01)
        self._close()
        return f"stream/{answer.stream}"

    def record(self, name: str) -> int:
        takes, run = self.streams.methods["record"]
        assert takes is Open
        run(2, takes(name=name, rate=16_000, channels=1, latency_ms=100.0, guest="alice", at="sink/millrace"))
        self._close()
        return int(self.answers[-1].value.stream)

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = ()


class House(Rig):
    """A complete guest on the rig's clock, with a registry and diagnosis as in a worker."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.driver.detach(self.graph)
        self.clients.clear()
        self.programs: list[Program] = []
        ids = Ids()
        now: Callable[[], HostNs] = lambda: self.now_ns  # noqa: E731
        around = Surroundings(now, now, lambda: 0, lambda: 0, lambda pid: pid == FIREFOX.pid)
        self.diagnosis = Diagnosis(around, ids.take, lambda: [self.guest], lambda change, incident: None, lambda: None)
        common = Common(ids, self.driver, folder, Listeners(), Prompts(ids.take), self.diagnosis)
        self.guest = Guest(GuestConfig(name="alice"), common)
        self.graph, self.door = self.guest.graph, self.guest.pulse.door
        self.guest.outlets._clock = now
        self.driver.attach(self.graph)
        self.registry = Registry()
        publisher = Publisher(self.registry, self.guest)
        self.graph.observers.append(publisher.node_changed)
        self.names: dict[str, str] = {}
        """The keys of streams and recorders, by the names used here."""

    def program(self, identity: Identity) -> RigClient:
        client = self.client(login=False)
        client.server.subject.identity = identity
        client.ask(Command.AUTH, version=client.wire.version, cookie=bytes(256))
        client.ask(Command.SET_CLIENT_NAME, props={"application.name": identity.program.encode() + b"\0"})
        return client

    def called(self, name: str, before: set[int]) -> None:
        """The streams created since."""
        for id_ in self.graph.streams.keys() - before:
            self.names[name] = f"stream/{id_}"

    # -- one of each kind ----------------------------------------------------------------------

    def pulse(self) -> None:
        client = self.program(FIREFOX)
        tone = encode(SampleFormat.S16LE, sine(1.0, 440, 44_100))
        for name, spec, data, changes in (
            ("pulse, another rate", S16, tone * 20, {"tlength": 44_100}),
            ("pulse, paused", Spec(SampleFormat.F32LE, 1, 48_000), b"", {"corked": True}),
            ("pulse, dry", S16, tone, {"tlength": 22_050}),
        ):
            numbers = STEREO if spec.channels == 2 else (0,)
            player = client.play(spec, numbers, data, props={"media.role": b"music\0"}, **changes)
            self.names[name] = self.stream_at(player.index).key
        sound = tone * 30
        made = client.ask(Command.CREATE_UPLOAD_STREAM, name="bell", spec=S16, map=STEREO, length=len(sound), props={})
        client.wire.send_block(made["channel"], memoryview(sound))
        client.ask(Command.FINISH_UPLOAD_STREAM, channel=made["channel"])
        fields = {"sink_index": NO_INDEX, "sink_name": None, "volume": NO_INDEX, "name": "bell", "props": {}}
        self.names["sample"] = self.stream_at(client.ask(Command.PLAY_SAMPLE, **fields)["index"]).key
        recorder = self.program(ARECORD)
        asked = record_fields(Spec(SampleFormat.S16LE, 1, 16_000), (0,), source_name="microphone", fragsize=3_200)
        index = recorder.ask(Command.CREATE_RECORD_STREAM, **asked)["index"]
        self.names["pulse recorder"] = f"recorder/{self.record_at(index).node.id}"
        before, taps = set(self.graph.streams), set(self.graph.taps)
        client.ask(Command.LOAD_MODULE, name="module-sine", argument="frequency=440")
        self.called("module", before)
        client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra rate=44100")
        before = set(self.graph.streams)
        client.ask(
            Command.LOAD_MODULE, name="module-loopback", argument="source=millrace.monitor sink=extra rate=44100"
        )
        self.called("loopback", before)
        for id_ in self.graph.taps.keys() - taps:
            self.names["loopback recorder"] = f"recorder/{id_}"

    async def native(self) -> None:
        program = Program(self.guest)
        self.programs.append(program)
        self.names["native recorder"] = f"recorder/{program.record('take')}"
        self.names["native"] = await program.play(48_000, "film")
        self.names["native, another rate"] = await program.play(22_050, "song", 40)
        self.names["native, paused"] = key = await program.play(22_050, "book")
        takes, run = program.streams.methods["cork"]
        run(3, takes(stream=int(key.removeprefix("stream/")), corked=True))

    def machine(self, kind: type[AttachedMachine], spec: DoorSpec) -> Callable[[], None]:
        """A machine that plays in every tick."""
        machine = kind(self.graph.ids.take(), self.guest, spec)
        self.guest.machines.append(machine)
        before = set(self.graph.streams)
        tick = self._qemu(machine) if isinstance(machine, QemuMachine) else self._vnc(machine)
        self.called(spec.kind, before)
        return tick

    def _qemu(self, qemu: QemuMachine) -> Callable[[], None]:
        card, peer = FakeQemu("Out"), AudioPeer(0)
        door = QemuPlayback(self.graph, peer, "QEMU", EndedVoices(), qemu.spec.text)
        qemu.doors.append(door)
        tone = encode(SampleFormat.S16LE, sine(20.0, 997, 44_100))
        sent = 0

        def exchange() -> None:
            for _ in range(6):
                card.receive(b"".join(bytes(chunk.data) for chunk in peer.data_to_send()))
                peer.receive(card.data_to_send(), self.now_ns)
                door.receive(self.now_ns)

        def tick() -> None:
            nonlocal sent
            size = 4 * (221 if sent % 2 else 220)
            card.write(tone[:size])
            sent += 1
            exchange()

        exchange()
        card.init(rate=44_100)
        card.enable(True)
        card.volume(False, b"\xc0\xc0")
        exchange()
        return tick

    def _vnc(self, vnc: AttachedMachine) -> Callable[[], None]:
        assert isinstance(vnc, VncMachine)
        wire = VncClient(48_000, 2, "", lambda challenge, text: b"", 0)
        door = VncDoor(self.graph, wire, profile=vnc.profile, origin=vnc.spec.text)
        vnc.doors.append(door)
        tone = encode(SampleFormat.S16LE, sine(0.005, 440, 48_000))

        def says(*events: VncEvent) -> None:
            wire._events += events
            wire.receive(b"", self.now_ns)
            door.receive(self.now_ns)

        says(Ready("vm"), AudioBegin())
        return lambda: says(AudioData(tone))

    def listener(self) -> tuple[ListenerSession, Callable[[], None]]:
        """A listener that speaks in every fourth tick."""
        session = ListenerSession(
            self.guest, self.graph.ids.take(), "127.0.0.1", lambda message: None, lambda: True, self.now_ns, OWNER
        )
        self.guest.sessions.append(session)
        before = set(self.graph.streams)
        session.receive(encode_message(Hello(name="laptop", codecs=["s16"], microphone=True)), self.now_ns)
        session.receive(encode_message(FormatChanged(CodecParameters(1, "s16", 48_000, ["mono"]))), self.now_ns)
        self.called("microphone", before)
        payload = encode(SampleFormat.S16LE, sine(0.02, 440, 48_000, channels=1))
        number = 0

        def tick() -> None:
            nonlocal number
            number += 1
            if number % 4 == 0:
                n = number // 4
                session.receive(pack_media(1, 960, n, n * 960, self.now_ns - 20 * NS_PER_MS, payload), self.now_ns)

        breakdown_ns = {"path": 3_000_000, "network": 1_000_000, "codec": 0, "jitter": 20_000_000, "late": 100_000}
        report = Report(42_000_000, 30_000_000, 1, 2, 3, "card", 25_000_000, 12.5, True, 4, breakdown_ns)
        for now_ns in (self.now_ns - SETTLED_NS, self.now_ns):
            session.receive(encode_message(report), now_ns)
        return session, tick

    def diagnose(self) -> None:
        """Diagnose the underruns that are due."""
        while (due := self.diagnosis.next_timeout()) is not None and due <= self.now_ns:
            self.diagnosis.handle_timeout(self.now_ns)

    # -- what users see ------------------------------------------------------------------------

    def told(self) -> Shown:
        """Everything that users see, by the names used here."""
        out: Shown = {"streams": {}, "explain": {}, "latency": {}}
        for name, key in self.names.items():
            number = int(key.partition("/")[2])
            if key.startswith("recorder/"):
                tap = self.graph.taps[number]
                recorder = recorder_of(tap)
                assert recorder is not None
                out["explain"][name] = _shown(explain_recorder(self.guest, tap, recorder))
                continue
            stream = self.graph.streams[number]
            out["streams"][name] = _plain(_shown(stream_view(self.guest, stream)))
            out["explain"][name] = _shown(explain_stream(self.guest, stream))
            out["latency"][name] = _shown(breakdown(self.guest, stream, self.now_ns))
        return out | self._guest_told()

    def _guest_told(self) -> Shown:
        steps = guest_view(self.guest)
        try:
            while True:
                next(steps)
        except StopIteration as made:
            whole = _plain(_shown(made.value))
        for name in ("pulse", "native", "memory"):
            del whole[name]
        whole["streams"] = [shown["id"] for shown in whole["streams"]]
        metrics = exposition(
            Counters(1, 2, 3, 4, True, False), self.diagnosis.incidents, [self.guest], whole=True
        ).decode()
        incidents = [_shown(incident.view()) for incident in self.diagnosis.incidents]
        return {
            "guest": whole, "metrics": [line for line in metrics.splitlines() if not _varies(line)],
            "registry": [f"{entry.kind}/{entry.id}" for entry in self.registry._entries.values()],
            "incidents": [
                {key: shown[key] for key in ("subject", "stage", "cause", "evidence", "count")} for shown in incidents
            ],
        }  # fmt: skip


def _shown(view: Struct | list[Any]) -> Any:
    """A view as in JSON, checked against the types that the API's description names."""
    if isinstance(view, list):
        return [_shown(one) for one in view]
    shown = to_builtins(view)
    assert to_builtins(convert(shown, type(view))) == shown
    return shown


def _varies(line: str) -> bool:
    """Whether a line depends on Millrace's version, or on the size of Python objects."""
    return bool(re.match(r"millrace_info|millrace_guest_held_bytes", line))


def _plain(shown: Shown) -> Shown:
    """The same without levels, which depend on a library's rounding."""
    out: Shown = {}
    for key, value in shown.items():
        if key in ("peak", "rms"):
            continue
        if isinstance(value, dict):
            value = _plain(value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            value = [_plain(one) for one in value]
        out[key] = value
    return out


async def _play(folder: Path) -> Shown:
    house = House(folder)
    await house.native()
    house.pulse()
    session, speak = house.listener()
    ticks = [speak, house.machine(QemuMachine, DoorSpec("qmp", "/run/vm.qmp"))]
    for number in range(2200):
        if number == 2000:
            ticks.append(house.machine(VncMachine, DoorSpec("vnc", "", "127.0.0.1", 5901)))
        house.run(TICK_S)
        for tick in ticks:
            tick()
        house.diagnose()
    told = house.told()
    session.closed()
    return told


def _written(told: Shown) -> str:
    """JSON with one line per object."""
    parts = []
    for part, value in told.items():
        pairs = value.items() if isinstance(value, dict) else ((None, one) for one in value)
        lines = [("" if key is None else f"{json.dumps(key)}: ") + json.dumps(one) for key, one in pairs]
        first, last = "{}" if isinstance(value, dict) else "[]"
        parts.append(f"{json.dumps(part)}: {first}\n" + ",\n".join(lines) + f"\n{last}")
    return "{" + ",\n".join(parts) + "}\n"


def test_views_of_every_kind_of_door_are_unchanged(tmp_path: Path) -> None:
    told = json.loads(json.dumps(asyncio.run(_play(tmp_path))))
    if os.environ.get("MILLRACE_GOLDEN"):
        GOLDEN.write_text(_written(told))
    kept = json.loads(GOLDEN.read_text())
    for part, value in kept.items():
        assert told[part] == value, part
        # The order of keys is compared too.
        assert json.dumps(told[part]) == json.dumps(value)
    assert told.keys() == kept.keys()


@pytest.mark.parametrize("pauses", [True, False])
@pytest.mark.parametrize("door", ["pulse", "native"])
def test_stream_paused_after_underrun_causes_no_incident(tmp_path: Path, door: str, pauses: bool) -> None:
    async def test() -> list[str]:
        house = House(tmp_path)
        if door == "native":
            program = Program(house.guest)
            number = int((await program.play(48_000, "film")).removeprefix("stream/"))
            takes, run = program.streams.methods["cork"]
            pause: Callable[[], object] = lambda: run(3, takes(stream=number, corked=True))  # noqa: E731
        else:
            client = house.program(FIREFOX)
            data = encode(SampleFormat.S16LE, sine(0.06, 440, 44_100))
            player = client.play(S16, STEREO, data, tlength=len(data), prebuf=0)
            pause = lambda: client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)  # noqa: E731
        house.run(0.18)
        (stream,) = house.graph.streams.values()
        assert stream.underruns == 1 and house.diagnosis.next_timeout() is not None
        if pauses:
            pause()
        house.run(0.2)
        house.diagnose()
        return [incident.subject for incident in house.diagnosis.incidents]

    assert len(asyncio.run(test())) == (0 if pauses else 1)


def test_loopback_that_ends_with_its_sink_is_not_listed_again(tmp_path: Path) -> None:
    async def test() -> None:
        house = House(tmp_path)
        client = house.program(FIREFOX)
        sink = client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")
        client.ask(Command.LOAD_MODULE, name="module-loopback", argument="source=millrace.monitor sink=extra")
        before = {entry.id for entry in house.registry._entries.values() if entry.kind == "stream"}
        assert before == set(house.graph.streams) and before
        client.ask(Command.UNLOAD_MODULE, index=sink["index"])
        assert not house.graph.streams
        assert not [entry.id for entry in house.registry._entries.values() if entry.kind == "stream"]

    asyncio.run(test())
