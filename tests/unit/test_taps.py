"""Taps: a sink's monitor, or one stream alone, before its volume or after it."""

from __future__ import annotations

from millrace.graph.model import NodeState, Stream, Tap
from millrace.sim.rig import Capture, Rig
from millrace.units import default_map
from tests.unit.test_graph import Tone


def stem(rig: Rig, stream: Stream, before_volume: bool) -> Capture:
    taken = Capture()
    tap = Tap(rig.graph.ids.take(), "stem", default_map(2), consumer=taken, before_volume=before_volume)
    rig.graph.add_tap(tap, stream)
    return taken


def playing(rig: Rig, value: float) -> Stream:
    node = Stream(rig.graph.ids.take(), "tone", default_map(2), feed=Tone(2, value))
    rig.graph.add_stream(node, rig.sink)
    rig.graph.activate(node)
    return node


def test_first_notification_about_a_tap_is_its_creation() -> None:
    for running in (False, True):
        rig = Rig()
        if running:
            playing(rig, 0.5)
            rig.run(0.1)
        told: list[tuple[str, NodeState]] = []
        rig.graph.observers.append(lambda change, node, told=told: told.append((change, node.state)))
        rig.capture()
        (tap,) = rig.graph.taps.values()
        state = NodeState.RUNNING if running else NodeState.IDLE
        assert told == [("new", state)] and tap.trace[-1].cause == "linked"


def test_stem_taps_hear_one_stream_before_or_after_volume() -> None:
    rig = Rig()
    first, second = playing(rig, 0.5), playing(rig, 0.25)
    came, sounds, other, mixed = stem(rig, first, True), stem(rig, first, False), stem(rig, second, True), rig.capture()
    rig.graph.set_gains(first, (0.5,))
    rig.run(0.5)
    assert (came.sound[-1, 0], sounds.sound[-1, 0], other.sound[-1, 0]) == (0.5, 0.25, 0.25)
    assert mixed.sound[-1, 0] == 0.5


def test_stem_before_volume_continues_while_stream_is_muted() -> None:
    rig = Rig()
    node = playing(rig, 0.5)
    came, sounds = stem(rig, node, True), stem(rig, node, False)
    rig.graph.set_mute(node, True)
    rig.run(0.5)
    assert came.sound[-1, 0] == 0.5 and sounds.sound[-1, 0] == 0.0


def test_tap_knows_its_source_and_where_it_plays() -> None:
    rig = Rig()
    node, elsewhere = playing(rig, 0.5), rig.graph.add_sink("elsewhere")
    stem(rig, node, False)
    rig.capture()
    (alone,), (monitor,) = node.taps, rig.sink.taps
    assert (alone.source, alone.stream, alone.sink) == (node, node, rig.sink)
    assert (monitor.source, monitor.stream, monitor.sink) == (rig.sink, None, rig.sink)
    rig.graph.move_stream(node, elsewhere)
    assert (alone.source, alone.sink) == (node, elsewhere)
    rig.graph.remove_stream(node)
    assert alone.id not in rig.graph.taps and node.taps == []
