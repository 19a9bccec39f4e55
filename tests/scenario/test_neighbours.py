"""One guest's load is inaudible in another, on a virtual clock that advances with simulated work."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from millrace.dsp.convert import Samples
from millrace.errors import GraphError
from millrace.graph.accounts import LINKS_MAX, MIXES_MAX
from millrace.graph.driver import ROUND_NS, TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Sink, Stream, Tap
from millrace.graph.reports import Unreported
from millrace.sim.rig import START_NS, Capture
from millrace.units import NS_PER_MS, NS_PER_S, HostNs, default_map


class Noted(Unreported):
    """A guest's reports."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        self._world.note(self._name, cut)


class World:
    """Guests on one driver and one thread, where work takes exactly its declared time."""

    def __init__(self) -> None:
        self.now_ns: HostNs = START_NS
        self.worked_ns: HostNs = 0
        self.ids = Ids()
        self.failed: list[str] = []
        self.driver = TimerDriver(lambda: self.worked_ns, failed=self._failed)
        self.left_out: list[tuple[str, bool]] = []
        self.overloaded = False
        """Whether the driver was overloaded when sound was left out."""

    def _failed(self, graph: Graph, error: Exception) -> None:
        self.failed.append(f"{graph.name}: {error}")

    def work(self, cost_ns: HostNs) -> None:
        """Let the thread work for so long."""
        self.now_ns += cost_ns
        self.worked_ns += cost_ns

    def guest(self, name: str, sinks: int = 1) -> Graph:
        """A guest with so many sinks."""
        graph = Graph(name, self.ids, reports=Noted(self, name))
        graph.set_default(graph.add_sink("default"))
        for number in range(1, sinks):
            graph.add_sink(f"sink {number}")
        self.driver.attach(graph)
        return graph

    def note(self, name: str, cut: bool) -> None:
        """Record that sound of a guest was dropped."""
        self.left_out.append((name, cut))
        self.overloaded |= self.driver.overloaded(self.now_ns)

    def play(self, graph: Graph, cost_ns: HostNs, bulk_frames: int = 0) -> Ramp:
        """Play a stream whose every pull takes so long."""
        feed = Ramp(self, cost_ns)
        node = Stream(self.ids.take(), "x", default_map(2), feed=feed, bulk_frames=bulk_frames)
        assert graph.default is not None
        graph.add_stream(node, graph.default)
        graph.activate(node)
        return feed

    def listen(self, graph: Graph, quantum_ns: HostNs = 10 * NS_PER_MS, sink: Sink | None = None) -> Ear:
        """Listen to a guest's default sink, or another."""
        ear, sink = Ear(self), sink or graph.default
        assert sink is not None
        tap = Tap(self.ids.take(), "ear", default_map(2), consumer=ear, latency_ask_ns=quantum_ns)
        graph.add_tap(tap, sink)
        return ear

    def run(self, seconds: float) -> None:
        """Let time pass, by waiting and by working."""
        end = self.now_ns + round(seconds * NS_PER_S)
        while (deadline := self.driver.next_timeout()) is not None and max(deadline, self.now_ns) <= end:
            self.now_ns = max(self.now_ns, deadline)
            self.driver.handle_timeout(self.now_ns)
        self.now_ns = max(self.now_ns, end)


class Ramp:
    """Frames that count up, so that a missing one is noticed."""

    def __init__(self, world: World, cost_ns: HostNs) -> None:
        self.world, self.cost_ns, self.given = world, cost_ns, 0
        self.shorts = 0

    def pull(self, out: Samples) -> int:
        """See `Feed`."""
        self.world.work(self.cost_ns)
        out[:] = (np.arange(self.given, self.given + len(out)) % 1000 / 1000)[:, None]
        self.given += len(out)
        return len(out)

    def short(self, frames: int, played_out: bool) -> None:
        """See `Feed`."""
        self.shorts += 1


class Ear(Capture):
    """Records how late each quantum arrived."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.late_ns: list[HostNs] = []

    def consume(self, block: Samples, position: int, level: float) -> None:
        """See `Consumer`."""
        self.late_ns.append(self.world.now_ns - position * NS_PER_S // 48_000)
        self.blocks.append(block.copy())
        self.positions.append(position)

    def whole(self) -> bool:
        """Whether no frame is missing between the first and the last."""
        together = np.diff(self.positions) == [len(block) for block in self.blocks[:-1]]
        sound = self.sound[:, 0]
        return bool(together.all()) and bool(np.allclose(np.diff(sound) % 1, 0.001, atol=1e-4))


def test_guest_exceeding_its_share_is_cut_short_and_neighbour_is_not() -> None:
    world = World()
    worst, neighbour = world.guest("worst"), world.guest("neighbour")
    ear = world.listen(neighbour)
    for _ in range(300):
        world.play(worst, NS_PER_MS // 4)
    world.play(neighbour, NS_PER_MS // 10)
    world.run(5)
    assert ear.whole() and len(ear.sound) > 4.9 * 48_000 and neighbour.skipped_frames == 0
    assert max(ear.late_ns) < 10 * NS_PER_MS
    assert world.left_out and set(world.left_out) == {("worst", True)}
    # The guest still gets what is left of the processor.
    assert worst.share.used_ns > 3 * NS_PER_S


def test_many_small_guests_overload_together_and_none_is_blamed() -> None:
    world = World()
    for number in range(60):
        world.play(world.guest(f"g{number}"), NS_PER_MS)
    world.run(5)
    assert world.left_out and not any(cut for _, cut in world.left_out) and world.overloaded


def test_graphs_delayed_by_other_work_are_not_overload() -> None:
    world = World()
    for number in range(60):
        world.play(world.guest(f"g{number}"), NS_PER_MS)
    for _ in range(40):
        world.work(100 * NS_PER_MS)
        world.driver.handle_timeout(world.now_ns)
    assert world.left_out and not world.overloaded


def test_suspended_thread_is_not_overload() -> None:
    world = World()
    graph = world.guest("one")
    world.play(graph, NS_PER_MS)
    world.run(1)
    world.now_ns += 3 * NS_PER_S
    world.run(1)
    assert world.left_out == [("one", False)] and not world.overloaded


def test_recorders_exceeding_share_are_cut_short_too() -> None:
    world = World()
    worst, neighbour = world.guest("worst"), world.guest("neighbour")
    ear = world.listen(neighbour)
    world.play(worst, 0)
    world.play(neighbour, 0)

    class Slow(Capture):
        def consume(self, block: Samples, position: int, level: float) -> None:
            world.work(NS_PER_MS // 4)

    assert worst.default is not None
    for _ in range(200):
        worst.add_tap(Tap(world.ids.take(), "r", default_map(2), consumer=Slow()), worst.default)
    world.run(3)
    assert ear.whole() and max(ear.late_ns) < 10 * NS_PER_MS and worst.skipped_frames and not neighbour.skipped_frames


def test_failing_guest_neither_stops_neighbour_nor_busy_loops() -> None:
    world = World()
    bad, good = world.guest("bad"), world.guest("good")
    world.play(bad, 0)
    world.play(good, 0)
    ear, broken, beside = world.listen(good), world.listen(bad), world.listen(bad)

    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    broken.consume = fail  # type: ignore[method-assign]
    world.run(1)
    # What fails is removed: the other one in its guest hears on.
    assert world.failed == ["bad: a bug"] and not broken.positions
    assert beside.whole() and len(beside.positions) > 95
    assert ear.whole() and len(ear.positions) > 95
    # The same holds if a cycle fails before its position advances.
    bad._lanes.pools[0].service = fail  # type: ignore[method-assign]
    before = len(world.failed)
    world.run(0.5)
    assert before < len(world.failed) <= before + 51
    assert ear.whole() and len(ear.positions) > 145


def test_overloaded_guests_share_one_round() -> None:
    world = World()
    neighbour = world.guest("neighbour")
    ear = world.listen(neighbour)
    world.play(neighbour, 0)
    for number in range(10):
        worst = world.guest(f"worst {number}")
        for _ in range(100):
            world.play(worst, NS_PER_MS // 4)
    world.run(3)
    assert ear.whole() and max(ear.late_ns) <= 2 * ROUND_NS
    assert len({name for name, _ in world.left_out}) == 10


def test_guest_that_keeps_up_loses_nothing_after_machine_stall() -> None:
    world = World()
    busy = world.guest("busy")
    ear = world.listen(busy)
    feeds = [world.play(busy, NS_PER_MS // 10) for _ in range(50)]
    world.run(0.5)
    world.now_ns += 400 * NS_PER_MS
    world.run(2)
    assert busy.skipped_frames == 0 and not world.left_out and not any(feed.shorts for feed in feeds)
    assert ear.late_ns[-1] < 15 * NS_PER_MS


def test_frames_due_before_client_stops_are_heard_despite_other_work() -> None:
    world = World()
    graph = world.guest("guest")
    ear = world.listen(graph)
    for _ in range(3):
        world.play(graph, 0)
    world.run(0.5)
    world.work(35 * NS_PER_MS)
    graph.catch_up(world.now_ns)
    assert graph.position * NS_PER_S // 48_000 > world.now_ns and ear.late_ns[-1] < 10 * NS_PER_MS


def test_streams_changing_within_a_cycle_are_heard_completely() -> None:
    world = World()
    busy = world.guest("busy")
    ear = world.listen(busy)
    for _ in range(40):
        world.play(busy, NS_PER_MS // 8).pull = lambda out: world_pull(world, out)  # type: ignore[method-assign]
    gone = None
    for round_ in range(200):
        world.run(0.013)
        if gone is not None:
            busy.remove_stream(busy.streams[gone])
            gone = None
        if round_ % 3 == 0 and round_ < 190:
            feed = Ramp(world, 0)
            node = Stream(world.ids.take(), "y", default_map(2), feed=feed)
            assert busy.default is not None
            busy.add_stream(node, busy.default)
            busy.activate(node)
            gone = node.id
    sound = ear.sound[:, 0]
    begins = sound[1:][(sound[:-1] == 0) & (sound[1:] != 0)]
    assert len(begins) > 20 and np.allclose(begins, 0.001)


def world_pull(world: World, out: Samples) -> int:
    """Deliver silence, which takes time."""
    world.work(NS_PER_MS // 8)
    out[:] = 0.0
    return len(out)


def plan_at_once(graph: Graph) -> None:
    """Make a whole plan in one go, however long it takes."""
    graph._planning.stale = True
    graph._planning.heard()
    graph._planning.begin(graph.mixes(), graph.streams.values(), graph.taps.values())
    graph._planning.go_on(lambda: False, graph.position)


def calls_of_a_plan(streams: int, sinks: int) -> int:
    """The number of function calls that such a plan takes."""
    world = World()
    graph = world.guest("large", sinks)
    targets = list(graph.sinks.values())
    for number in range(streams):
        node = Stream(world.ids.take(), "x", default_map(2), feed=Ramp(world, 0))
        graph.add_stream(node, targets[number % sinks])
        graph.activate(node)
    plan_at_once(graph)
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        plan_at_once(graph)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("streams", "sinks"), [(128, 8), (128, 64)])
def test_planning_is_linear_in_streams_and_sinks(streams: int, sinks: int) -> None:
    once = calls_of_a_plan(streams, sinks)
    assert calls_of_a_plan(4 * streams, sinks) < 4.5 * once
    assert calls_of_a_plan(4 * streams, 2 * sinks) < 4.5 * once


def test_stream_pulled_far_ahead_does_not_cost_large_guest_its_memory() -> None:
    world = World()
    graph = world.guest("large")
    for _ in range(600):
        world.play(graph, 0, bulk_frames=24_000)
    world.run(0.1)
    assert sum(pool.data.nbytes for pool in graph._lanes.pools) < 48 * 1024 * 1024


def test_objects_per_guest_are_limited() -> None:
    world = World()
    graph = world.guest("greedy", MIXES_MAX - 1)
    graph.add_source("microphone", "Microphone")
    with pytest.raises(GraphError, match=r"already has .* sinks and sources"):
        graph.add_sink("one more")
    source, *targets = graph.sinks.values()
    for target in targets[:LINKS_MAX]:
        graph.link(source, target)
    with pytest.raises(GraphError, match=r"already has .* links"):
        graph.link(source, targets[LINKS_MAX])
    assert len(source.links) == LINKS_MAX
