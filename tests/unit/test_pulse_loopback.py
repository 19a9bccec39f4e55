"""A loopback's parts: it plays what it records, follows moves, and ends with either of its streams."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.loopback import Loopback
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import Permission, Subject
from millrace.sim.rig import Capture, Rig
from millrace.units import NS_PER_MS, default_map
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err
from millrace.wire.pulse.session import Request
from tests.unit.test_graph import Tone

STEREO = default_map(2)
FMT = AudioFormat(SampleFormat.F32LE, 48_000, STEREO)
C = Command


class Scene(Rig):
    """A guest with three sinks, and a loopback from the first to the second."""

    def __init__(self, latency_ms: int = 50, source: Sink | None = None, fmt: AudioFormat = FMT) -> None:
        super().__init__()
        self.out, self.third = self.graph.add_sink("out"), self.graph.add_sink("third")
        self.subject = Subject()
        self.module = Module(self.graph.ids.take(), "module-loopback", "")
        self.loopback = Loopback(self.door, self.module, self.subject)
        self.module.loops.append(self.loopback)
        self.door.load(self.module)
        stream = Stream(self.graph.ids.take(), "loopback", fmt.positions)
        tap = Tap(self.graph.ids.take(), "loopback", fmt.positions)
        self.loopback.begin(
            tap, stream, source or self.sink, self.out, fmt, latency_ms * NS_PER_MS, ({"a": b"1\0"}, {"b": b"2\0"})
        )
        self.module.masters = [source or self.sink]
        (self.record,), (self.playback,) = self.door.records.values(), self.door.playback.values()

    def sound(self, value: float = 0.5, frames: int = 4_800) -> Stream:
        """Something plays on the first sink."""
        node = Stream(self.graph.ids.take(), "tone", STEREO, feed=Tone(2, value, frames))
        self.graph.add_stream(node, self.sink)
        self.graph.activate(node)
        return node

    @property
    def loaded(self) -> bool:
        return self.module.index in self.door.modules


def test_loopback_is_a_recorder_and_a_stream_without_client() -> None:
    scene = Scene()
    assert isinstance(scene.record, RecordStream) and isinstance(scene.playback, PlaybackStream)
    assert (scene.record.props, scene.playback.props) == ({"a": b"1\0"}, {"b": b"2\0"})
    assert scene.record.owner is scene.playback.owner is scene.loopback
    assert (scene.loopback.client_index, scene.loopback.program) == (NO_INDEX, None)
    assert scene.record.node.sink is scene.sink and scene.playback.node.sink is scene.out
    assert scene.playback.status().identity is None


@pytest.mark.parametrize("latency_ms", [10, 50, 200])
def test_recorded_sound_is_played_completely_after_its_latency(latency_ms: int) -> None:
    scene = Scene(latency_ms)
    first, second = scene.capture(clocked=True), scene.capture(scene.out, clocked=True)
    scene.sound(-0.5, frames=9_600)
    scene.run(1.0)
    heard = second.trimmed()
    assert len(heard) == 9_600 and (heard == -0.5).all()
    assert scene.troubles == [] and scene.playback.node.underruns == 0, "it ends by an underrun"
    assert abs((second.began() - first.began()) / 48 - latency_ms) < latency_ms / 2 + 15


@pytest.mark.parametrize(
    ("latency_ms", "piece_ms", "ask_ms", "queued_ms"),
    [(1, 5, 5, 10), (10, 5, 5, 10), (40, 10, 10, 40), (200, 20, 50, 200), (1_000, 20, 250, 1_000)],
)
def test_sound_is_passed_on_in_pieces_bounded_by_latency(
    latency_ms: int, piece_ms: int, ask_ms: int, queued_ms: int
) -> None:
    scene = Scene(latency_ms)
    recorded, played = scene.record.layout.to_ns, scene.playback.layout.to_ns
    attr = scene.playback.attr
    assert recorded(scene.record.attr.fragsize) == piece_ms * NS_PER_MS
    assert played(attr.tlength) == played(attr.prebuf) == queued_ms * NS_PER_MS, "it starts when that much is queued"
    assert played(attr.maxlength) == 2 * queued_ms * NS_PER_MS
    assert scene.playback.node.latency_ask_ns == ask_ms * NS_PER_MS and scene.playback.node.bulk_frames == 0


def test_silence_before_and_long_after_sound_is_not_passed_on() -> None:
    scene = Scene(latency_ms=50)
    scene.capture(clocked=True)
    scene.run(0.5)
    assert scene.record.state.write_index == 0
    tone = scene.sound()
    scene.run(0.2)
    scene.graph.remove_stream(tone)
    scene.run(0.5)
    written = scene.record.state.write_index
    assert 0 < written < FMT.frame_bytes * 48_000 // 2
    scene.run(0.5)
    assert scene.record.state.write_index == written


def test_graph_runs_until_everything_is_played_and_no_longer() -> None:
    scene = Scene(latency_ms=300)
    assert not scene.record.node.clocked
    scene.run(0.5)
    assert not scene.graph.running, "nothing plays, and it requests nothing"
    heard = Capture()
    scene.graph.add_tap(Tap(scene.graph.ids.take(), "tap", STEREO, consumer=heard), scene.out)
    tone = scene.sound(frames=4_800)
    scene.run(0.2)
    scene.graph.remove_stream(tone)
    assert scene.record.node.clocked and scene.graph.running
    scene.run(3.0)
    assert len(heard.trimmed()) == 4_800 and not scene.record.node.clocked and not scene.graph.running
    scene.sound(frames=4_800)
    scene.run(3.0)
    assert sum(block.any(axis=1).sum() for block in heard.blocks) == 9_600, "it records the new sound"


def test_moves_update_dependencies_and_required_grant() -> None:
    scene = Scene()
    source = scene.graph.add_source("microphone", "Microphone")
    scene.graph.move_tap(scene.record.node, source)
    assert scene.module.masters == [source] and scene.module.recorder == (Permission.MICROPHONE, scene.subject)
    scene.graph.move_stream(scene.playback.node, scene.third)
    scene.graph.remove_sink(scene.sink)
    assert scene.loaded, "its original sink no longer matters"
    # What it hears goes: it goes on at the default one, unless it would hear itself there.
    scene.graph.remove_source(source)
    assert scene.loaded and scene.record.node.sink is scene.out and scene.module.masters == [scene.out]
    scene.graph.set_default(scene.third)
    scene.graph.remove_sink(scene.out)
    assert not scene.loaded and not scene.door.playback and not scene.door.records


def test_move_to_where_it_hears_itself_is_refused_or_undone() -> None:
    scene = Scene()
    for to in ({"source": scene.out}, {"sink": scene.sink}):
        with pytest.raises(CommandError, match="hear itself") as refused:
            scene.loopback.demand_no_echo(**to)
        assert refused.value.code is Err.INVALID
    scene.loopback.demand_no_echo(source=scene.third)
    scene.loopback.demand_no_echo(sink=scene.third)
    # Others than its own protocol's clients move it too: it goes back.
    scene.graph.move_stream(scene.playback.node, scene.sink)
    assert scene.playback.node.sink is scene.out and scene.loaded
    scene.graph.move_tap(scene.record.node, scene.out)
    assert scene.record.node.sink is scene.sink and scene.loaded
    # It knows where it is after a move.
    scene.graph.move_stream(scene.playback.node, scene.third)
    scene.loopback.demand_no_echo(source=scene.out)
    with pytest.raises(CommandError):
        scene.loopback.demand_no_echo(source=scene.third)


def test_loopback_ends_if_it_can_not_move_back() -> None:
    scene = Scene()
    scene.graph.remove_sink(scene.out)
    assert not scene.loaded and not scene.door.playback and not scene.door.records
    scene = Scene()
    scene.graph.move_stream(scene.playback.node, scene.third)
    scene.graph.set_default(scene.out)
    scene.graph.remove_sink(scene.third)
    assert scene.loaded and scene.playback.node.sink is scene.out


@pytest.mark.parametrize("end", ["stream", "recorder", "module"])
def test_recorder_and_stream_end_together_once(end: str) -> None:
    scene = Scene()
    held = scene.graph.budget.held
    if end == "stream":
        scene.graph.remove_stream(scene.playback.node)
    elif end == "recorder":
        scene.graph.remove_tap(scene.record.node)
    else:
        scene.door.unload(scene.module)
    assert not scene.loaded and not scene.door.playback and not scene.door.records
    assert not scene.graph.streams and not scene.graph.taps and scene.graph.budget.held < held
    scene.loopback.end()
    # Sound that still arrives is ignored.
    for kind in Change:
        scene.loopback.playback_changed(scene.playback, kind)
        scene.loopback.record_changed(scene.record, kind)
    scene.loopback.send_block(0, b"1234")


def test_loopback_has_no_client_to_answer_or_notify() -> None:
    scene = Scene()
    request = Request(C.DRAIN_PLAYBACK_STREAM, 1, {})
    told: list[Any] = [
        scene.loopback.notice(C.STARTED, channel=0), scene.loopback.reply(request),
        scene.loopback.fail(request, Err.NOENTITY),
    ]  # fmt: skip
    assert told == [None] * 3 and scene.loopback.now_ns == scene.graph.now_ns
