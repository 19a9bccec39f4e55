"""The native door notifies streams and recorders of what the graph does to them, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from millrace.doors.native.door import NativeDoor
from millrace.graph.model import Stream, Tap
from millrace.sim.rig import Capture, Rig
from millrace.units import default_map
from tests.unit.test_graph import Tone


@dataclass
class Owned:
    """Stands in for a native stream or recorder, and stores its notifications."""

    node: Any
    told: list[str] = field(default_factory=list)

    def removed(self) -> None:
        self.told.append("removed")

    def resume(self) -> None:
        self.told.append("resume")


class Bench(Rig):
    """A rig with a native door."""

    def __init__(self) -> None:
        super().__init__()
        self.native = NativeDoor(self.graph)

    def stream(self, active: bool = False, ours: bool = True) -> Owned:
        node = Stream(self.graph.ids.take(), "tone", default_map(2), feed=Tone())
        self.graph.add_stream(node, self.sink)
        if active:
            self.graph.activate(node)
        owned = Owned(node)
        if ours:
            self.native.playback[node.id] = owned  # type: ignore[assignment]
        return owned

    def recorder(self) -> Owned:
        node = Tap(self.graph.ids.take(), "take", default_map(2), consumer=Capture())
        self.graph.add_tap(node, self.sink)
        owned = Owned(node)
        self.native.records[node.id] = owned  # type: ignore[assignment]
        return owned


def test_removal_is_reported_to_its_stream_only() -> None:
    bench = Bench()
    stream, other, foreign, recorder = bench.stream(), bench.stream(), bench.stream(ours=False), bench.recorder()
    bench.graph.touch(stream.node)
    bench.graph.remove_stream(foreign.node)
    assert stream.told == other.told == recorder.told == []
    bench.graph.remove_stream(stream.node)
    bench.graph.remove_tap(recorder.node)
    assert (stream.told, recorder.told, other.told) == (["removed"], ["removed"], [])


def test_forgotten_stream_is_not_notified() -> None:
    bench = Bench()
    stream, recorder, kept = bench.stream(), bench.recorder(), bench.stream()
    for owned in (stream, recorder):
        bench.native.forget(owned.node.id)
    bench.native.forget(12_345)
    assert list(bench.native.playback.values()) == [kept] and not bench.native.records
    bench.graph.remove_stream(stream.node)
    bench.graph.remove_tap(recorder.node)
    assert stream.told == recorder.told == []


def test_resumed_sink_resumes_waiting_streams() -> None:
    bench = Bench()
    other = bench.graph.add_sink("other")
    waits, plays, elsewhere, nowhere = bench.stream(), bench.stream(active=True), bench.stream(), bench.stream()
    bench.graph.move_stream(elsewhere.node, other)
    nowhere.node.links = []
    bench.native._graph_changed("resume", bench.sink)
    assert (waits.told, plays.told, elsewhere.told, nowhere.told) == (["resume"], [], [], [])
    # A sink that is suspended stops what plays there; resumed, it tells all of them.
    bench.graph.suspend(bench.sink, True)
    assert waits.told == ["resume"]
    bench.graph.suspend(bench.sink, False)
    assert (waits.told, plays.told, elsewhere.told) == (["resume"] * 2, ["resume"], [])
