"""A plan of many streams is made in steps: other guests don't wait for it, and streams play on meanwhile."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from millrace.dsp.convert import Samples
from millrace.graph.driver import ROUND_NS
from millrace.graph.graph import LINGER_NS, Graph
from millrace.graph.lanes import WIDE_LANES
from millrace.graph.model import Stream
from millrace.graph.plan import Plan, Planner, PoolMix
from millrace.graph.share import SLICE_NS
from millrace.units import NS_PER_MS, NS_PER_S, HostNs, default_map
from tests.scenario.test_neighbours import Ear, Ramp, World

COST_NS: HostNs = NS_PER_MS // 20
MANY = 600


class Silence:
    """The feed of a stream that only has to be planned."""

    def pull(self, out: Samples) -> int:
        """See `Feed`."""
        out[:] = 0.0
        return len(out)

    def short(self, frames: int, played_out: bool) -> None:
        """See `Feed`."""


class Costly(Stream):
    """A stream that takes time to plan."""

    world: World

    @property
    def effective_gains(self) -> tuple[float, ...]:
        """See `Levelled`."""
        self.world.work(COST_NS)
        return super().effective_gains


def large(world: World, name: str = "large") -> tuple[Graph, list[Stream]]:
    """A guest whose plan takes 30 ms."""
    graph = world.guest(name, 8)
    sinks = list(graph.sinks.values())
    streams: list[Stream] = []
    for number in range(MANY):
        node = Costly(world.ids.take(), "x", default_map(2), feed=Silence(), bulk_frames=4000)
        node.world = world
        graph.add_stream(node, sinks[number % 8])
        graph.activate(node)
        streams.append(node)
    return graph, streams


def runs_of(graph: Graph) -> list[HostNs]:
    """Records how long the guest works in each of its runs."""
    used: list[HostNs] = []
    run = graph.handle_timeout

    def noted(now_ns: HostNs) -> None:
        before = graph.share.clock()
        run(now_ns)
        used.append(graph.share.clock() - before)

    graph.handle_timeout = noted  # type: ignore[method-assign]
    return used


def shape(plan: Plan) -> list[Any]:
    """A plan in comparable form, without the gains that fade to zero."""

    def factors(mix: PoolMix) -> list[Any]:
        return [(plan.pools.index(mix.pool), mix.first + n, gain) for n, gain in enumerate(mix.gains.tolist()) if gain]

    return [
        (
            run.sink.id, run.gains.tolist(), run.heard, [source.sink.id for source, _ in run.upstream],
            [factors(mix) for mix in run.pools if mix.gains.any()],
            [(lane.lane, lane.matrix.tolist()) for lane in run.lanes if lane.matrix.any()],
            [tap.tap.id for tap in run.taps],
        )
        for run in plan.sinks
    ]  # fmt: skip


def at_once(graph: Graph) -> Plan:
    """The plan of a graph's current state, made from scratch."""
    plan = Plan()
    for _ in Planner(graph._quanta.longest).build(plan, graph.mixes(), graph._lanes.pools, graph.taps.values()):
        pass
    return plan


def test_no_run_exceeds_a_share_however_much_is_planned() -> None:
    world = World()
    neighbour = world.guest("neighbour")
    ear = world.listen(neighbour)
    world.play(neighbour, 0)
    graph, streams = large(world)
    used = runs_of(graph)
    for number in range(80):
        world.run(0.01)
        graph.set_mute(streams[number], True)
    assert max(used) <= ROUND_NS + COST_NS and sorted(used)[-10] <= SLICE_NS + COST_NS
    assert sum(used) > 10 * MANY * COST_NS
    assert ear.whole() and max(ear.late_ns) < 10 * NS_PER_MS


def test_playing_streams_continue_while_guest_is_replanned() -> None:
    world = World()
    graph, streams = large(world)
    sinks = list(graph.sinks.values())
    ear = world.listen(graph)
    feed = world.play(graph, 0)
    world.run(0.2)
    for number in range(200):
        graph.move_stream(streams[number], sinks[number % 8])
        graph.set_gains(streams[-number - 1], (0.5,))
        world.run(0.007)
    assert ear.whole() and len(ear.sound) > 1.5 * 48_000
    assert graph.skipped_frames == 0 and feed.shorts == 0 and max(ear.late_ns) < 20 * NS_PER_MS


def test_new_stream_is_heard_soon_during_constant_changes() -> None:
    world = World()
    graph, streams = large(world)
    world.listen(graph)
    world.run(0.2)
    asked: list[HostNs] = []

    class Asked(Silence):
        def pull(self, out: Samples) -> int:
            asked.append(graph.now_ns)
            return super().pull(out)

    new = Stream(world.ids.take(), "new", default_map(2), feed=Asked(), bulk_frames=4000)
    graph.add_stream(new, next(iter(graph.sinks.values())))
    graph.activate(new)
    for number in range(100):
        graph.set_gains(streams[number], (0.5,))
        world.run(0.005)
    assert asked, "each change restarted planning"


def test_changes_during_planning_are_included() -> None:
    world = World()
    graph, streams = large(world)
    world.listen(graph)
    world.run(0.1)
    sinks = list(graph.sinks.values())
    graph.set_gains(streams[0], (0.25,))
    world.run(0.012)
    assert graph._planning.unfinished
    # Every kind of change in the middle of planning, both before and behind the planner's position.
    graph.set_gains(streams[1], (0.5,))
    graph.set_gains(streams[-1], (0.75, 0.5))
    graph.set_gains(sinks[7], (0.5,))
    extra = graph.add_sink("extra")
    graph.move_stream(streams[2], extra)
    graph.move_stream(streams[-2], extra)
    graph.link(extra, sinks[0])
    graph.remove_sink(sinks[3])
    graph.remove_stream(streams[3])
    graph.remove_stream(streams[-3])
    graph.deactivate(streams[-4], "paused")
    graph.activate(streams[-4])
    world.play(graph, 0)
    world.run(0.3)
    assert not graph._planning.unfinished and not graph._planning.stale
    assert shape(graph._planning.plan) == shape(at_once(graph))


@pytest.mark.parametrize("removed", [True, False])
def test_ended_stream_is_silent_immediately_and_its_successor_complete(removed: bool) -> None:
    world = World()
    graph, _ = large(world)
    ear, extra = world.listen(graph), graph.add_sink("extra")
    other = world.listen(graph, sink=extra)
    ended = world.play(graph, 0)
    node = next(stream for stream in graph.streams.values() if stream.feed is ended)
    world.run(0.3)
    assert ear.blocks[-1].any()
    if removed:
        graph.remove_stream(node)
    else:
        graph.deactivate(node, "paused")
    comes = Stream(world.ids.take(), "y", default_map(2), feed=Ramp(world, 0))
    graph.add_stream(comes, extra)
    graph.activate(comes)
    before = len(ear.blocks)
    world.run(0.03)
    assert graph._planning.unfinished and len(ear.blocks) > before + 1
    world.run(0.3)
    # The old plan still has the lane as that of the stream that ended.
    assert not any(block.any() for block in ear.blocks[before + 1 :])
    assert whole_from_its_first_frame(other)


def whole_from_its_first_frame(ear: Ear) -> bool:
    """Whether a `Ramp` is complete from its first frame, which is 0."""
    sound = ear.sound[:, 0]
    loud = np.flatnonzero(sound)
    return len(loud) > 0 and bool(np.allclose(np.diff(sound[loud[0] - 1 :]) % 1, 0.001, atol=1e-4))


def test_reused_lane_plays_for_the_stream_it_was_planned_for() -> None:
    # The first short lane is free, and soon looked at; one takes it, is looked at, and gives it to the next.
    for number in range(12):
        world = World()
        graph, streams = large(world)
        ear, extra = world.listen(graph), graph.add_sink("extra")
        other = world.listen(graph, sink=extra)
        graph.remove_stream(streams[WIDE_LANES])
        world.run(0.1)
        before = len(ear.blocks)
        first = Stream(world.ids.take(), "first", default_map(2), feed=Ramp(world, 0))
        graph.add_stream(first, graph.default or extra)
        graph.activate(first)
        world.run(0.002 * number)
        lane = first.lane
        graph.remove_stream(first)
        second = Stream(world.ids.take(), "second", default_map(2), feed=Ramp(world, 0))
        graph.add_stream(second, extra)
        graph.activate(second)
        assert second.lane == lane
        world.run(0.15)
        assert whole_from_its_first_frame(other)
        assert not any(block.any() for block in ear.blocks[before:])


def test_idle_graph_keeps_nothing_of_a_removed_sink() -> None:
    world = World()
    graph = world.guest("alice", 2)
    _, gone = graph.sinks.values()
    world.play(graph, 0)
    world.run(0.1)
    for stream in list(graph.streams.values()):
        graph.remove_stream(stream)
    world.run(LINGER_NS / NS_PER_S + 0.1)
    assert not graph.running
    graph.remove_sink(gone)
    there = weakref.ref(gone)
    del gone
    gc.collect()
    assert there() is None


def test_unfinished_plan_is_dropped_after_idling() -> None:
    world = World()
    graph, streams = large(world)
    world.listen(graph)
    world.run(0.1)
    graph.set_gains(streams[0], (0.5,))
    world.run(0.012)
    planning = graph._planning
    assert planning.unfinished and planning.plan.pools
    planning.drop()
    assert not planning.unfinished and planning.stale and not planning.plan.pools
    world.run(0.3)
    assert shape(planning.plan) == shape(at_once(graph))
