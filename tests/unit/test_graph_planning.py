"""Planning: when a plan is made, in how many rounds, and when it takes effect."""

from __future__ import annotations

from collections.abc import Callable

from millrace.graph.lanes import Lanes
from millrace.graph.model import Link, Sink, Stream, Tap
from millrace.graph.planning import Planning
from millrace.graph.quantum import Quanta
from millrace.units import NS_PER_MS, default_map

STEREO = default_map(2)


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """A share that lasts so many steps."""
    left = [steps]

    def over() -> bool:
        left[0] -= 1
        return left[0] < 0

    return over


class Bench:
    """A planning and what it plans: a sink, and streams with lanes that wait."""

    def __init__(self) -> None:
        self.lanes = Lanes(4096, 4096)
        self.planning = Planning(Quanta(48_000), self.lanes)
        self.sink = Sink(1, "sink", STEREO)
        self.streams: list[Stream] = []
        self.taps: list[Tap] = []

    def stream(self, ask_ms: int, active: bool = True, starved: bool = False) -> Stream:
        stream = Stream(len(self.streams) + 2, "stream", STEREO, latency_ask_ns=ask_ms * NS_PER_MS)
        stream.active, stream.starved = active, starved
        if active:
            self.lanes.add(stream)
        self.streams.append(stream)
        return stream

    def begin(self) -> None:
        self.planning.begin([self.sink], self.streams, self.taps)

    def planned(self) -> int:
        """Plan all of it; the quantum that comes of it."""
        self.planning.stale = True
        self.planning.heard()
        self.begin()
        self.planning.go_on(never, 0)
        return self.planning.quantum


def test_plan_is_started_once_per_change_and_never_without() -> None:
    bench = Bench()
    planning = bench.planning
    assert planning.stale and not planning.unfinished
    planning.go_on(never, 0)
    assert planning.plan.sinks == [], "nothing was started"
    bench.begin()
    assert planning.unfinished and not planning.stale
    planning.go_on(never, 0)
    first = planning.plan
    assert not planning.unfinished and [run.sink for run in first.sinks] == [bench.sink]
    bench.begin()
    assert not planning.unfinished and planning.plan is first


def test_changes_during_planning_go_into_next_plan() -> None:
    bench = Bench()
    planning = bench.planning
    bench.begin()
    planning.go_on(after(1), 0)
    other = Sink(9, "other", STEREO)
    planning.stale = True
    planning.begin([bench.sink, other], [], [])
    planning.go_on(never, 0)
    assert [run.sink for run in planning.plan.sinks] == [bench.sink] and planning.stale
    planning.heard()
    planning.begin([bench.sink, other], [], [])
    planning.go_on(never, 0)
    assert [run.sink for run in planning.plan.sinks] == [bench.sink, other] and not planning.stale


def test_old_plan_and_quantum_stay_in_force_until_new_plan_is_complete() -> None:
    bench = Bench()
    planning = bench.planning
    assert bench.planned() == 1920
    old = planning.plan
    planning.heard()
    bench.stream(5)
    planning.stale = True
    bench.begin()
    rounds = 0
    while planning.unfinished:
        assert planning.plan is old and planning.quantum == 1920
        planning.go_on(after(1), 48_000)
        rounds += 1
    assert rounds > 2 and planning.plan is not old and planning.quantum == 240


def test_unheard_plan_is_not_replaced_and_ramps_start_from_what_was_heard() -> None:
    bench = Bench()
    stream = bench.stream(20)
    stream.links = [Link(bench.sink, None)]
    bench.planned()
    bench.planning.heard()
    stream.gains = (0.5, 0.5)
    bench.planning.stale = True
    bench.begin()
    bench.planning.go_on(never, 0)
    half = bench.planning.plan
    # Another graph that continues here ramps from what was heard too.
    assert bench.planning.freeze()[1].stream_gains == {stream.id: {bench.sink.id: 1.0}}
    stream.gains = (0.25, 0.25)
    bench.planning.stale = True
    bench.begin()
    bench.planning.go_on(never, 0)
    assert bench.planning.plan is half and bench.planning.stale
    bench.planning.heard()
    bench.begin()
    bench.planning.go_on(never, 0)
    (mix,) = bench.planning.plan.sinks[0].pools
    assert mix.before is not None and (mix.before[0], mix.gains[0]) == (0.5, 0.25)


def test_waiting_lane_is_heard_from_position_where_its_plan_takes_effect() -> None:
    bench = Bench()
    stream = bench.stream(20)
    (pool,) = bench.lanes.pools
    bench.begin()
    bench.planning.go_on(after(1), 48_000)
    assert pool.waits(stream.lane)
    bench.planning.go_on(never, 50_000)
    assert not pool.waits(stream.lane) and pool.due == 50_000
    # Its start is over: the next plan need not consider it.
    assert bench.planning.plan.begin == []
    pool.valid_until[stream.lane] = 60_000
    bench.planning.heard()
    bench.planning.stale = True
    bench.begin()
    bench.planning.go_on(never, 55_000)
    assert pool.valid_until[stream.lane] == 60_000


def test_latency_counts_for_streams_heard_now_or_soon() -> None:
    bench = Bench()
    stream = bench.stream(20)
    assert bench.planned() == 960
    # A paused stream asks for no latency; one that has only run dry will be back.
    paused = bench.stream(5, active=False)
    assert bench.planned() == 960
    paused.starved = True
    assert bench.planned() == 240
    paused.starved = False
    tap = Tap(90, "tap", STEREO, latency_ask_ns=10 * NS_PER_MS)
    bench.taps.append(tap)
    assert bench.planned() == 480
    tap.active = False
    assert bench.planned() == 960
    # If nothing asks for a latency any more, the quantum stays as it is.
    stream.active = False
    assert bench.planned() == 960


def test_dropped_plan_is_made_again() -> None:
    bench = Bench()
    planning = bench.planning
    assert bench.planned() == 1920
    planning.heard()
    planning.stale = True
    bench.begin()
    planning.go_on(after(1), 0)
    planning.stale = False
    planning.drop()
    assert planning.plan.sinks == [] and not planning.unfinished and planning.stale
    planning.go_on(never, 0)
    assert planning.plan.sinks == []
    bench.begin()
    planning.go_on(never, 0)
    assert planning.plan.sinks
