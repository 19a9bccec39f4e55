"""The nodes of a graph: names, heirs, levels, links, and what observers are notified of."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.budget import Budget
from millrace.errors import BudgetError, GraphError
from millrace.graph.accounts import link_to
from millrace.graph.model import Node, Sink, Stream, Tap
from millrace.graph.nodes import Nodes
from millrace.graph.reports import UNREPORTED
from millrace.sim.rig import Capture
from millrace.units import Positions, default_map

STEREO = default_map(2)


class Paused(Nodes):
    """Nodes without a cycle, which record what they are told to pause."""

    def __init__(self, positions: Positions) -> None:
        super().__init__(positions, UNREPORTED)
        self.paused: list[tuple[str, str]] = []

    def deactivate(self, stream: Stream, cause: str, keep: bool = True) -> None:
        self.paused.append((stream.key, cause))

    def remove_stream(self, stream: Stream) -> None:
        raise AssertionError("not reached here")

    def remove_tap(self, tap: Tap) -> None:
        raise AssertionError("not reached here")


class Bench:
    """Nodes put in by hand, with an account each, and what observers were told."""

    def __init__(self) -> None:
        self.nodes = Paused(STEREO)
        self.budget = Budget()
        self.told: list[tuple[str, str]] = []
        self.nodes.observers.append(lambda change, node: self.told.append((change, node.key)))

    def sink(self, name: str, positions: Positions = STEREO, **parts: object) -> Sink:
        sink = Sink(len(list(self.nodes.nodes())), name, positions, **parts)  # type: ignore[arg-type]
        sink.account = self.budget.open("sink")
        (self.nodes.sources if sink.capture else self.nodes.sinks)[sink.id] = sink
        return sink

    def stream(self, sink: Sink, positions: Positions = STEREO, **parts: object) -> Stream:
        stream = Stream(len(list(self.nodes.nodes())), "stream", positions, **parts)  # type: ignore[arg-type]
        stream.account = self.budget.open("stream")
        stream.links = [link_to(stream, sink)]
        self.nodes.streams[stream.id] = stream
        return stream

    def tap(self, source: Sink | Stream) -> Tap:
        tap = Tap(len(list(self.nodes.nodes())), "tap", STEREO, consumer=Capture())
        tap.hear(source)
        self.nodes.taps[tap.id] = tap
        return tap

    def news(self) -> list[tuple[str, str]]:
        """Notifications since the last call."""
        news, self.told[:] = list(self.told), []
        return news


def targets(node: Stream | Sink) -> list[str]:
    return [link.target.name for link in node.links]


def test_nodes_are_listed_once_with_mixes_first() -> None:
    bench = Bench()
    sink, source = bench.sink("sink"), bench.sink("microphone", capture=True)
    stream, tap = bench.stream(sink), bench.tap(source)
    assert list(bench.nodes.nodes()) == [sink, source, stream, tap]
    assert list(bench.nodes.mixes()) == [sink, source] and bench.nodes.positions == STEREO


def test_names_of_sinks_and_sources_and_former_names_are_taken() -> None:
    bench = Bench()
    bench.sink("music", aliases=("default", "first"))
    bench.sink("microphone", capture=True)
    assert all(bench.nodes.name_taken(name) for name in ("music", "default", "first", "microphone"))
    assert not bench.nodes.name_taken("musi") and not bench.nodes.name_taken("0")


def test_streams_of_removed_sink_move_to_default_or_first_remaining() -> None:
    bench = Bench()
    first, second, third = (bench.sink(name) for name in ("first", "second", "third"))
    bench.sink("microphone", capture=True)
    assert bench.nodes.heir(first) is second
    bench.nodes.default = third
    assert bench.nodes.heir(first) is third and bench.nodes.heir(third) is first
    bench.nodes.leaving |= {third}
    assert bench.nodes.heir(first) is second
    bench.nodes.leaving |= {second}
    with pytest.raises(GraphError, match="only sink"):
        bench.nodes.heir(first)
    assert bench.nodes.heir(second) is first


def test_levels_are_set_by_channel_and_only_changes_are_announced() -> None:
    bench = Bench()
    sink = bench.sink("sink")
    bench.nodes.set_gains(sink, (0.5,))
    assert sink.gains == (0.5, 0.5) and bench.news() == [("change", "sink/0")]
    bench.nodes.set_gains(sink, (0.5, 0.5))
    bench.nodes.set_mute(sink, False)
    bench.nodes.set_trim(sink, 1.0)
    assert bench.news() == []
    bench.nodes.set_mute(sink, True)
    bench.nodes.set_trim(sink, 0.25)
    assert (sink.mute, sink.trim) == (True, 0.25) and bench.news() == [("change", "sink/0")] * 2
    with pytest.raises(GraphError, match="sink/0 has 2 channels, not 3"):
        bench.nodes.set_gains(sink, (1.0, 1.0, 1.0))
    assert sink.gains == (0.5, 0.5) and bench.news() == []


def test_observer_may_unsubscribe_during_notification() -> None:
    bench = Bench()
    sink = bench.sink("sink")

    def once(change: str, node: Node) -> None:
        bench.nodes.observers.remove(once)

    bench.nodes.observers[:0] = [once]
    bench.nodes.touch(sink)
    bench.nodes.touch(sink)
    assert bench.news() == [("change", "sink/0")] * 2 and once not in bench.nodes.observers


def test_moved_stream_and_its_taps_stay_where_they_were_put() -> None:
    bench = Bench()
    first, second = bench.sink("first"), bench.sink("second")
    bench.nodes.default = first
    stream = bench.stream(first)
    tap = bench.tap(stream)
    bench.nodes.move_stream(stream, second)
    assert targets(stream) == ["second"] and stream.placed and tap.sink is second
    assert bench.news() == [("change", tap.key), ("change", stream.key)]
    bench.nodes.move_stream(stream, second)
    assert bench.news() == [], "it already plays there"
    # A stream that is moved back to the default sink follows the default again.
    bench.nodes.move_stream(stream, first)
    assert targets(stream) == ["first"] and not stream.placed
    stream.pinned = "its client asked for that"
    with pytest.raises(GraphError, match="its client asked for that"):
        bench.nodes.move_stream(stream, second)
    assert targets(stream) == ["first"] and not stream.placed


def test_stream_on_several_sinks_plays_on_one_after_move() -> None:
    bench = Bench()
    first, second = bench.sink("first"), bench.sink("second")
    stream = bench.stream(first)
    bench.nodes.link(stream, second)
    assert targets(stream) == ["first", "second"]
    bench.nodes.move_stream(stream, first)
    assert targets(stream) == ["first"]
    # A matrix given to a link is dropped when the stream is moved to that sink.
    bench.nodes.link(stream, first, np.zeros((2, 2), np.float32))
    bench.nodes.move_stream(stream, first)
    assert stream.links[0].matrix is None


def test_tap_hears_one_thing_at_a_time() -> None:
    bench = Bench()
    first, second = bench.sink("first"), bench.sink("second")
    tap = bench.tap(first)
    bench.nodes.move_tap(tap, second)
    assert tap.source is tap.sink is second and (first.taps, second.taps) == ([], [tap])
    assert bench.news() == [("change", tap.key)]
    bench.nodes.move_tap(tap, second)
    assert bench.news() == []
    stem = bench.tap(bench.stream(first))
    with pytest.raises(GraphError, match="it records one stream"):
        bench.nodes.move_tap(stem, second)
    assert stem.sink is first


def test_link_replaces_existing_link_to_same_sink_only() -> None:
    bench = Bench()
    first, mono = bench.sink("first"), bench.sink("mono", default_map(1))
    stream = bench.stream(first)
    fold = np.array([[0.5], [0.5]], np.float32)
    bench.nodes.link(stream, mono, fold)
    bench.nodes.link(stream, first)
    assert targets(stream) == ["mono", "first"] and stream.links[0].matrix is fold
    assert bench.news() == [("change", stream.key)] * 2
    with pytest.raises(GraphError, match="2 rows of 1 numbers, not 1 x 2"):
        bench.nodes.link(stream, mono, fold.T)
    bench.nodes.unlink(stream, mono)
    assert targets(stream) == ["first"] and bench.news() == [("change", stream.key)]
    with pytest.raises(GraphError, match="not linked to sink/1"):
        bench.nodes.unlink(stream, mono)
    assert targets(stream) == ["first"] and bench.news() == []


def test_refused_loop_leaves_existing_links_unchanged() -> None:
    bench = Bench()
    first, second, third = (bench.sink(name) for name in ("first", "second", "third"))
    bench.nodes.link(first, second)
    bench.nodes.link(second, third)
    bench.nodes.link(third, bench.sink("fourth"))
    bench.news()
    with pytest.raises(GraphError, match="would hear itself"):
        bench.nodes.link(third, first)
    assert targets(third) == ["fourth"] and bench.news() == []


def test_matrix_beyond_budget_changes_nothing() -> None:
    bench = Bench()
    wide = default_map(32)
    first, other = bench.sink("first", wide), bench.sink("other", wide)
    stream = bench.stream(first, wide)
    bench.budget.limit = 8 * 1024
    with pytest.raises(BudgetError):
        bench.nodes.link(stream, other, np.zeros((32, 32), np.float32))
    assert targets(stream) == ["first"] and bench.news() == [] and bench.budget.held == 0


def test_suspended_sink_pauses_its_streams_and_those_moved_to_it() -> None:
    bench = Bench()
    sink, other = bench.sink("sink"), bench.sink("other")
    own, moved = bench.stream(sink), bench.stream(other)
    bench.nodes.suspend(sink, True)
    bench.nodes.move_stream(moved, sink)
    assert bench.nodes.paused == [(own.key, "sink suspended"), (moved.key, "sink suspended")]
    bench.told.clear()
    bench.nodes.suspend(sink, False)
    assert ("resume", sink.key) in bench.told and len(bench.nodes.paused) == 2
