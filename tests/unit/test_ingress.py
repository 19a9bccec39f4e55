"""Rules for the feeds of every kind of door: each test runs over all kinds."""

from __future__ import annotations

import ast
import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

import millrace.doors
from millrace.codec.parameters import CodecParameters
from millrace.doors.capture import CaptureQueue
from millrace.doors.ingress import Ingress, IngressStatus, Recorder, recorder_of, status_of
from millrace.doors.microphone import MicrophoneStream
from millrace.doors.native.playback import NativePlayback
from millrace.doors.native.record import NativeRecord
from millrace.doors.native.state import PlaybackState, RecordState
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pushed import PushedStream, new_stream
from millrace.dsp.convert import SampleFormat, encode
from millrace.graph.model import NOTHING, Stream, Tap
from millrace.media.audio import AudioPacket
from millrace.media.format import AudioFormat
from millrace.rights.grants import Identity
from millrace.sim.rig import Rig, RigClient
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, default_map
from millrace.wire.native.ring import Ring, ring_bytes
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command
from millrace.wire.pulse.tagstruct import Spec

STEREO = (1, 2)
S16 = Spec(SampleFormat.S16LE, 2, 44_100)
TONE = sine(0.2, 440, 44_100)
BYTES = encode(SampleFormat.S16LE, TONE)


@dataclass
class Case:
    """A stream of one kind, without sound, and how its sender brings 200 ms."""

    rig: Rig
    stream: Stream
    bring: Callable[[], object]
    ends: bool = True
    """Whether its sound comes to an end."""


def pulse_client(rig: Rig) -> RigClient:
    client = rig.client()
    client.server.subject.identity = Identity(4711, 1000, "firefox")
    return client


def pulse(rig: Rig) -> Case:
    player = pulse_client(rig).play(S16, STEREO, tlength=len(BYTES), prebuf=0)

    def bring() -> None:
        player.data = memoryview(BYTES)
        player.feed()

    return Case(rig, rig.stream_at(player.index), bring)


def sample(rig: Rig) -> Case:
    client = pulse_client(rig)
    made = client.ask(Command.CREATE_UPLOAD_STREAM, name="bell", spec=S16, map=STEREO, length=len(BYTES), props={})
    client.wire.send_block(made["channel"], memoryview(BYTES))
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=made["channel"])
    fields = {"sink_index": NO_INDEX, "sink_name": None, "volume": NO_INDEX, "name": "bell", "props": {}}
    stream = rig.stream_at(client.ask(Command.PLAY_SAMPLE, **fields)["index"])
    return Case(rig, stream, lambda: None)


def loopback(rig: Rig) -> Case:
    client = pulse_client(rig)
    client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")
    client.ask(Command.LOAD_MODULE, name="module-loopback", argument="source=millrace.monitor sink=extra rate=44100")
    (stream,) = rig.graph.streams.values()
    return Case(rig, stream, lambda: client.play(S16, STEREO, BYTES, tlength=len(BYTES), prebuf=0))


def tone(rig: Rig) -> Case:
    pulse_client(rig).ask(Command.LOAD_MODULE, name="module-sine", argument="frequency=440")
    (stream,) = rig.graph.streams.values()
    return Case(rig, stream, lambda: None, ends=False)


def native(rig: Rig) -> Case:
    fmt, capacity = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2)), len(TONE)
    node = Stream(rig.graph.ids.take(), "film", fmt.positions)
    ring = Ring(mmap.mmap(-1, ring_bytes(capacity, fmt.frame_bytes)), capacity, fmt.frame_bytes)
    state = PlaybackState(fmt, capacity, pid=4713)
    made = NativePlayback(rig.graph, node, state, ring, lambda: None, lambda what, why: None, lambda: None)
    rig.graph.add_stream(node, rig.sink)

    def bring() -> None:
        ring.put(0, memoryview(BYTES))
        ring.written = capacity
        made.resume()

    return Case(rig, node, bring)


def pushed(rig: Rig) -> Case:
    fmt = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2))
    made = PushedStream(rig.graph, new_stream(rig.graph, rig.sink, "QEMU", fmt, {}), fmt, origin="qmp:/run/vm")

    def bring() -> None:
        made.write(TONE, rig.now_ns)

    return Case(rig, made.node, bring)


def microphone(rig: Rig) -> Case:
    source = rig.graph.add_source("microphone", "Microphone")
    rig.capture(source, clocked=True)
    made = MicrophoneStream(rig.graph, source, "laptop", "listener/7")
    made.set_format(CodecParameters(1, "s16", 48_000, ["mono"]))
    payload = encode(SampleFormat.S16LE, sine(0.02, 440, 48_000, channels=1))

    def bring() -> None:
        for number in range(10):
            at_ns = rig.now_ns + number * 20 * NS_PER_MS
            made.push(AudioPacket(1, 960, number, number * 960, at_ns, payload), rig.now_ns)

    return Case(rig, made.node, bring)


@pytest.fixture(params=[pulse, sample, loopback, tone, native, pushed, microphone], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param(Rig())
    return made


def check(status: IngressStatus, stream: Stream) -> None:
    """Check what is true of every status at any time."""
    assert status.door and status.fill_ns >= 0 and status.pid >= 0
    assert status.asked_ns is None or status.asked_ns >= 0
    assert status.origin.startswith("it ") and not status.origin.endswith((" ", "."))
    if status.format is not None:
        # What is told of the format is told of the buffer as well, and the channels are those of the node.
        assert status.format.positions == stream.positions and status.format.name and status.format.rate > 0
        assert status.buffer and status.stages
    assert status.resampler is None or status.playout is None
    assert all(stage.stage and stage.why for stage in status.stages)
    if status.playout is not None:
        playout = status.playout
        assert playout.target_ns > 0 and min(playout.underruns, playout.concealed, playout.lost, playout.skipped) >= 0
    else:
        assert sum(stage.ns for stage in status.stages) == (status.fill_ns if status.stages else 0)
    json.dumps(msgspec.to_builtins(status))
    with pytest.raises(AttributeError):
        status.door = "other"  # type: ignore[misc]


def test_status_is_consistent_before_during_and_after_sound(case: Case) -> None:
    check(status_of(case.stream), case.stream)
    case.bring()
    fills = [status_of(case.stream).fill_ns]
    for _ in range(100):
        case.rig.run(0.005)
        if case.stream.id not in case.rig.graph.streams:
            break
        check(status_of(case.stream), case.stream)
        fills.append(status_of(case.stream).fill_ns)
    assert max(fills) > 0 or not case.ends
    assert fills[-1] < max(fills) or not case.ends


def test_reading_status_changes_nothing() -> None:
    for make in (pulse, sample, loopback, tone, native, pushed, microphone):
        heard = []
        for asks in (False, True):
            case = make(Rig())
            taken = case.rig.capture(case.stream.sink, clocked=True)
            case.bring()
            for _ in range(60):
                case.rig.run(0.005)
                if asks:
                    assert msgspec.structs.asdict(status_of(case.stream)) == msgspec.structs.asdict(
                        status_of(case.stream)
                    )
            heard.append(taken.sound)
        assert heard[0].any() and np.array_equal(*heard), make.__name__


def test_removed_stream_has_no_status_and_its_feed_does_not_fail(case: Case) -> None:
    feed = case.stream.feed
    assert isinstance(feed, Ingress)
    case.bring()
    case.rig.run(0.02)
    case.rig.graph.remove_stream(case.stream)
    assert case.stream.feed is NOTHING and status_of(case.stream).door == ""
    check(feed.status(), case.stream)


def test_feed_returns_at_most_what_is_requested_and_only_finite_numbers(case: Case) -> None:
    case.bring()
    feed = case.stream.feed
    for frames in (1, 240, 7, 480, 4_800):
        out = np.full((frames, len(case.stream.positions)), np.nan, np.float32)
        got = feed.pull(out)
        assert 0 <= got <= frames
        assert np.isfinite(out[:got]).all() and np.isnan(out[got:]).all()


def test_paused_stream_says_so() -> None:
    rig = Rig()
    client = pulse_client(rig)
    player = client.play(S16, STEREO, BYTES, tlength=len(BYTES), prebuf=0)
    stream = rig.stream_at(player.index)
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    assert status_of(stream).corked and status_of(stream).fill_ns > 0
    for make in (native, pushed):
        case = make(Rig())
        case.bring()
        case.rig.run(0.02)
        assert not status_of(case.stream).corked
        feed = case.stream.feed
        if isinstance(feed, NativePlayback):
            feed.cork(True)
        else:
            case.rig.graph.deactivate(case.stream, "test")
        assert status_of(case.stream).corked


@pytest.mark.parametrize("pause_s", [0.0, 60.0])
def test_native_client_that_wrote_once_is_silent_from_then_on(pause_s: float) -> None:
    case = native(Rig())
    feed = case.stream.feed
    assert isinstance(feed, NativePlayback)
    case.bring()
    case.rig.run(1.0)
    case.rig.run(pause_s)
    feed.ring.written += 2_205
    feed.resume()
    feed.state.prebuffering = False
    feed.resume()
    began_ns = case.rig.now_ns
    case.rig.run(1.0)
    assert case.stream.underruns == 2
    assert abs(feed.silent_since_ns - began_ns) < 50 * NS_PER_MS


@pytest.mark.parametrize("pause_s", [0.0, 60.0])
def test_pulseaudio_client_is_silent_since_before_its_underrun_and_not_in_the_future(pause_s: float) -> None:
    """Whether it has written once, or again after a long pause: then the next write would be due as late again."""
    rig = Rig()
    rig.run(3_600.0)
    client = pulse_client(rig)
    # It writes less than it is asked for at a time, so nothing is asked of it.
    player = client.play(S16, STEREO, tlength=8 * len(BYTES), prebuf=0, minreq=4 * len(BYTES))
    stream = rig.stream_at(player.index)
    feed = stream.feed
    assert isinstance(feed, PlaybackStream)
    for _ in range(1 + bool(pause_s)):
        client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
        rig.run(pause_s)
        began_ns = rig.now_ns
        player.data = memoryview(BYTES)
        player.feed()
        client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=False)
        rig.run(0.5)
        assert began_ns <= feed.silent_since_ns <= rig.now_ns


def test_program_recorders_have_status_and_other_taps_do_not() -> None:
    rig = Rig()
    asked = record_fields(Spec(SampleFormat.S16LE, 1, 16_000), (0,), source_name="millrace.monitor")
    record = rig.record_at(pulse_client(rig).ask(Command.CREATE_RECORD_STREAM, **asked)["index"]).node
    told = recorder_of(record)
    assert told is not None and (told.door, told.identity.pid) == ("pulse", 4711)
    assert (told.format.name, told.format.rate, told.format.positions) == ("s16le", 16_000, ("mono",))
    fmt = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    ring = Ring(mmap.mmap(-1, ring_bytes(480, fmt.frame_bytes)), 480, fmt.frame_bytes)
    node = Tap(rig.graph.ids.take(), "take", fmt.positions)
    NativeRecord(rig.graph, node, RecordState(fmt, 240), ring, lambda: None, lambda: None)
    rig.graph.add_tap(node, rig.sink)
    told = recorder_of(node)
    assert told is not None and (told.door, told.identity.pid, told.format) == ("native", 0, fmt)
    queue = CaptureQueue(rig.graph, rig.sink, "vm", 44_100, default_map(2))
    assert recorder_of(queue.node) is None
    rig.graph.remove_tap(node)
    assert recorder_of(node) is None


def methods(tree: ast.ClassDef) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_feed_is_an_ingress_and_every_consumer_a_recorder() -> None:
    """A class with a feed's methods is an Ingress; one with a consumer's a Recorder, or a machine's own queue."""
    folder = Path(millrace.doors.__file__).parent
    silent = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            feeds, takes = methods(node) >= {"pull", "short"}, methods(node) >= {"consume", "idle"}
            if (feeds and Ingress.__name__ not in bases) or (takes and Recorder.__name__ not in bases):
                silent.append(node.name)
    assert silent == ["CaptureQueue"]
