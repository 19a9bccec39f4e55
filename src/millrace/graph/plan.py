"""The plan: nodes ordered, buffers allocated and gains computed before a cycle runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field

import numpy as np

from millrace.dsp.channels import Mapping, Matrix, mapped, mix_matrix
from millrace.dsp.convert import Samples
from millrace.dsp.mix import Limiter
from millrace.errors import GraphError
from millrace.graph.lanes import LanePool
from millrace.graph.model import Levelled, Link, Sink, Stream, Tap
from millrace.graph.state import AppliedState, ArrayState
from millrace.units import Frames


@dataclass(slots=True)
class PoolMix:
    """Lanes of one pool, from `first` on, into one sink: `gains @ lanes`, then `matrix` if the layouts differ.

    `before` holds the gains of the last cycle if they differ; that cycle crossfades.
    """

    pool: LanePool
    first: int
    gains: Samples
    before: Samples | None
    matrix: Matrix | None
    scratch: Samples


@dataclass(slots=True)
class LaneMix:
    """One lane with a matrix of its own (unequal channel volumes, or a link's own matrix)."""

    pool: LanePool
    lane: int
    matrix: Matrix
    before: Matrix | None


@dataclass(slots=True)
class TapRun:
    """A tap and the matrix from the sink's layout to its own; `before` as in `LaneMix`."""

    tap: Tap
    matrix: Matrix | None
    before: Matrix | None
    scratch: Samples


@dataclass(slots=True)
class StreamTapRun:
    """A tap of one stream: the stream's lane, with or without its volume, in the tap's layout; silence if no lane."""

    tap: Tap
    lane: LaneMix | None
    scratch: Samples


@dataclass(slots=True)
class SinkRun:
    """What a cycle does for one sink."""

    sink: Sink
    buffer: Samples
    scratch: Samples
    limiter: Limiter
    gains: Samples
    before: Samples | None
    unity: bool
    pools: list[PoolMix] = field(default_factory=list)
    lanes: list[LaneMix] = field(default_factory=list)
    upstream: list[tuple[SinkRun, Matrix | None]] = field(default_factory=list)
    taps: list[TapRun] = field(default_factory=list)
    heard: bool = True
    """Whether its mix goes anywhere; a sink that nobody hears is only metered now and then."""


# Keyed by the numbers of nodes, which are never used twice, so what is left of a node that ended is never taken for
# another one's. Limiters are passed on as objects, because they are in the middle of a slide.
@dataclass(slots=True)
class Applied:
    """What the last plan applied, for the next to ramp from: by sink, by stream and sink, by tap and source."""

    sink_gains: dict[int, Samples] = field(default_factory=dict)
    limiters: dict[int, Limiter] = field(default_factory=dict)
    stream_gains: dict[int, dict[int, Matrix | float]] = field(default_factory=dict)
    tap_gains: dict[tuple[int, int], Matrix] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """Sinks in the order in which they must run, and the pools they mix."""

    sinks: list[SinkRun] = field(default_factory=list)
    pools: list[LanePool] = field(default_factory=list)
    stream_taps: list[StreamTapRun] = field(default_factory=list)
    begin: list[tuple[LanePool, int, Stream]] = field(default_factory=list)
    """Lanes that waited for this plan, and their streams."""


def ordered(links: MappingOf[Sink, Iterable[Link]], done: list[Sink]) -> Iterator[None]:
    """Append the sinks to `done`, each after those linked into it, in steps; GraphError for a loop."""
    waits = dict.fromkeys(links, 0)
    for own in links.values():
        for link in own:
            waits[link.target] += 1
        yield
    done += [sink for sink, count in waits.items() if not count]
    # Kahn's algorithm: `done` grows while it is iterated.
    for sink in done:
        for link in links[sink]:
            waits[link.target] -= 1
            if not waits[link.target]:
                done.append(link.target)
        yield
    if len(done) < len(waits):
        looped = next(sink for sink, count in waits.items() if count)
        raise GraphError(f"{looped.key} would hear itself: that link would make a loop")


def check_loops(sinks: Iterable[Sink]) -> None:
    """GraphError if a sink would hear itself."""
    for _ in ordered({sink: sink.links for sink in sinks}, []):
        pass


# A factor where possible: factors of many streams go into one product with the pool, a matrix costs a product of its
# own. Streams of one layout at equal volumes on all channels are nearly all there are.
def link_gain(node: Levelled, link: Link) -> Matrix | float:
    """A plain factor if that is enough, else the whole (source × sink) matrix with the volume folded in."""
    gains = node.effective_gains
    if link.matrix is None and gains.count(gains[0]) == len(gains):
        return gains[0]
    base = link.matrix if link.matrix is not None else mix_matrix(node.positions, link.target.positions)
    if base is None:
        base = np.eye(len(node.positions), dtype=np.float32)
    return np.ascontiguousarray(np.asarray(gains, np.float32)[:, None] * base)


def _at_unity(sink: Sink) -> bool:
    """Whether the sink is recorded at its own level."""
    return all(gain == 1.0 for gain in sink.recorded.effective_gains)


def _way_to_tap(tap: Tap, source: Sink | Stream) -> Matrix:
    """The matrix from `source` to `tap`. As in PulseAudio, recording volumes apply before channels are remapped."""
    matrix = mapped(source.positions, tap.positions, tap.mapping)
    if matrix is None:
        matrix = np.eye(len(tap.positions), dtype=np.float32)
    if not tap.records or tap.sink is None or _at_unity(tap.sink):
        return matrix
    gains = np.asarray(tap.sink.recorded.effective_gains, np.float32)
    if source.positions == tap.sink.positions:
        return gains[:, None] * matrix
    through, back = (
        mapped(source.positions, tap.sink.positions, Mapping.MIX),
        mapped(tap.sink.positions, tap.positions, tap.mapping),
    )
    assert through is not None
    return through @ (gains[:, None] * (np.eye(len(gains), dtype=np.float32) if back is None else back))


def _gain_state(gain: Matrix | float) -> ArrayState | float:
    return gain if isinstance(gain, float) else ArrayState.of(gain)


def _gain_of(state: ArrayState | float) -> Matrix | float:
    return state if isinstance(state, float) else state.array


Factors = tuple[int, float, float]
"""A lane, its gain, and its gain in the last cycle."""


class Planner:
    """Builds plans for one graph, and remembers what is in force so that changes ramp.

    It visits each node and each link once, in steps, and the graph may change between two steps. A plan contains the
    nodes that existed when it was begun, each in the state it had when visited; nodes that ended meanwhile are silent
    in it. Buffers are reused from plan to plan, and sinks share scratch buffers because they are mixed one after
    another.
    """

    def __init__(self, frames_max: Frames) -> None:
        self._frames_max = frames_max
        self._applied = Applied()
        self._planned: Applied | None = None
        """What the last plan applies, until it begins to run."""
        self._mixed: dict[int, Samples] = {}
        self._scratch: dict[tuple[str, int], Samples] = {}

    # Building shares buffers with the plan in force but never writes to them; only `run_cycle` does, and it runs one
    # plan at a time. A build that is abandoned leaves no trace, and a plan counts as applied once it begins to run.
    @property
    def ahead(self) -> bool:
        """Whether the last plan has not run yet."""
        return self._planned is not None

    def heard(self) -> None:
        """The last plan begins to run: the next one ramps from it."""
        if self._planned is not None:
            self._applied, self._planned = self._planned, None

    def forget(self) -> None:
        """The last plan will not run."""
        self._planned = None

    def freeze(self) -> AppliedState:
        """What is in force, as a value."""
        now = self._applied
        return AppliedState(
            {sink: ArrayState.of(gains) for sink, gains in now.sink_gains.items()},
            {sink: limiter.gain for sink, limiter in now.limiters.items()},
            {stream: {sink: _gain_state(gain) for sink, gain in to.items()} for stream, to in now.stream_gains.items()},
            [(tap, source, ArrayState.of(matrix)) for (tap, source), matrix in now.tap_gains.items()],
        )

    def resume(self, state: AppliedState) -> None:
        """Continue from what another planner had in force."""
        self._applied = Applied(
            {sink: gains.array for sink, gains in state.sink_gains.items()},
            {sink: self._limiter(gain) for sink, gain in state.limiters.items()},
            {stream: {sink: _gain_of(gain) for sink, gain in to.items()} for stream, to in state.stream_gains.items()},
            {(tap, source): matrix.array for tap, source, matrix in state.tap_gains},
        )

    def build(
        self, plan: Plan, sinks: Iterable[Sink], pools: Iterable[LanePool], taps: Iterable[Tap] = ()
    ) -> Iterator[None]:
        """Fill the empty `plan` from the graph as it is now. It must come into force at the last step.

        The next may only be begun once this one has been `heard`, from which it then ramps, or is to be forgotten.
        """
        new = Applied()
        mixed: dict[int, Samples] = {}
        plan.pools = [pool for pool in pools if not pool.empty]
        alone = [(tap, tap.stream) for tap in taps if tap.stream and tap.active]
        links = {sink: [link for link in sink.links if not link.target.suspended] for sink in sinks}
        order: list[Sink] = []
        yield from ordered(links, order)
        runs: dict[int, SinkRun] = {}
        for sink in order:
            runs[sink.id] = self._sink_run(sink, mixed, new)
            yield
        for run in runs.values():
            self._join(run, links[run.sink], runs)
            yield
        for pool in plan.pools:
            yield from self._mix_pool(pool, runs, new, plan.begin)
        # Sinks come after those linked into them, so in reverse order each target is known before its sources.
        for run in reversed(runs.values()):
            run.heard = bool(run.taps) or any(runs[link.target.id].heard for link in links[run.sink])
            yield
        for tap, stream in alone:
            plan.stream_taps.append(self._stream_tap(tap, stream, plan.pools, new))
            yield
        plan.sinks = list(runs.values())
        self._planned, self._mixed = new, mixed

    @staticmethod
    def _join(run: SinkRun, links: Iterable[Link], runs: MappingOf[int, SinkRun]) -> None:
        for link in links:
            matrix = link.matrix
            if matrix is None:
                matrix = mix_matrix(run.sink.positions, link.target.positions)
            runs[link.target.id].upstream.append((run, matrix))

    def _stream_tap(self, tap: Tap, stream: Stream, pools: list[LanePool], new: Applied) -> StreamTapRun:
        scratch = self._shared("tap", len(tap.positions))
        pool = next((pool for pool in pools if pool.holds(stream)), None)
        if pool is None:
            return StreamTapRun(tap, None, scratch)
        gains = (1.0,) * len(stream.positions) if tap.before_volume else stream.effective_gains
        now = np.asarray(gains, np.float32)[:, None] * _way_to_tap(tap, stream)
        return StreamTapRun(tap, LaneMix(pool, stream.lane, now, self._tap_ramp(tap, stream, now, new)), scratch)

    def _tap_run(self, tap: Tap, sink: Sink, new: Applied) -> TapRun:
        scratch = self._shared("tap", len(tap.positions))
        if not tap.records:
            return TapRun(tap, mapped(sink.positions, tap.positions, tap.mapping), None, scratch)
        now = _way_to_tap(tap, sink)
        ramped = self._tap_ramp(tap, sink, now, new)
        plain = ramped is None and sink.positions == tap.positions and _at_unity(sink)
        return TapRun(tap, None if plain else now, ramped, scratch)

    def _tap_ramp(self, tap: Tap, source: Sink | Stream, now: Matrix, new: Applied) -> Matrix | None:
        """What the tap must ramp from: the matrix it last had for the same source, if that differs."""
        new.tap_gains[tap.id, source.id] = now
        was = self._applied.tap_gains.get((tap.id, source.id))
        return None if was is None or np.array_equal(was, now) else was

    def _shared(self, use: str, channels: int) -> Samples:
        """A scratch buffer, shared by all whose content is used up at once."""
        if (use, channels) not in self._scratch:
            self._scratch[use, channels] = np.zeros((self._frames_max, channels), np.float32)
        return self._scratch[use, channels]

    # The gain comes back by 5 % in each of the longest cycles: 12 dB take 1.2 s.
    def _limiter(self, gain: float = 1.0) -> Limiter:
        return Limiter(self._frames_max, gain)

    def _sink_run(self, sink: Sink, mixed: dict[int, Samples], new: Applied) -> SinkRun:
        gains = np.asarray(sink.effective_gains, np.float32)
        before = self._applied.sink_gains.get(sink.id)
        new.sink_gains[sink.id] = gains
        new.limiters[sink.id] = limiter = self._applied.limiters.get(sink.id) or self._limiter()
        channels = len(sink.positions)
        buffer = self._mixed.get(sink.id)
        if buffer is None:
            buffer = np.zeros((self._frames_max, channels), np.float32)
        mixed[sink.id] = buffer
        ramped = before if before is not None and not np.array_equal(before, gains) else None
        unity = bool((gains == 1.0).all())
        run = SinkRun(sink, buffer, self._shared("sink", channels), limiter, gains, ramped, unity)
        for tap in sink.taps:
            if tap.active:
                run.taps.append(self._tap_run(tap, sink, new))
        return run

    def _mix_pool(
        self, pool: LanePool, runs: dict[int, SinkRun], new: Applied, begin: list[tuple[LanePool, int, Stream]]
    ) -> Iterator[None]:
        """Compute the current and the previous gains of the pool's streams per sink; waiting lanes go to `begin`."""
        mixes: dict[int, list[Factors]] = {}
        for lane, stream in enumerate(pool.owners):
            if stream is None:
                continue
            if pool.waits(lane):
                begin.append((pool, lane, stream))
            # Gains in force are remembered by stream and sink, not by lane: a plan is rebuilt after any change, and by
            # then a lane may belong to another stream. So gains ramp from what was heard, whatever caused the new plan.
            old = self._applied.stream_gains.get(stream.id)
            now = new.stream_gains[stream.id] = {
                link.target.id: link_gain(stream, link)
                for link in stream.links
                if link.target.id in runs and not link.target.suspended
            }
            for sink_id, gain in now.items():
                # A new stream begins at full gain; one that played elsewhere fades in.
                was = gain if old is None else old.get(sink_id, 0.0)
                if isinstance(gain, float) and isinstance(was, float):
                    mixes.setdefault(sink_id, []).append((lane, gain, was))
                else:
                    self._mix_lane(pool, lane, runs[sink_id], mixes, gain, was)
            # Sinks that the stream no longer plays to: it fades out there.
            if old is not None and old.keys() != now.keys():
                for sink_id in old.keys() - now.keys() & runs.keys():
                    self._mix_lane(pool, lane, runs[sink_id], mixes, 0.0, old[sink_id])
            yield
        for sink_id, factors in mixes.items():
            self._pool_mix(pool, runs[sink_id], factors)
            yield

    @staticmethod
    def _mix_lane(
        pool: LanePool, lane: int, run: SinkRun, mixes: dict[int, list[Factors]],
        now: Matrix | float, was: Matrix | float,
    ) -> None:  # fmt: skip
        """Plain factors go into the pool's product, matrices get a mix of their own; each ramps from the other."""
        factors = now if isinstance(now, float) else 0.0, was if isinstance(was, float) else 0.0
        mixes.setdefault(run.sink.id, []).append((lane, *factors))
        if isinstance(now, float) and isinstance(was, float):
            return
        matrix = np.zeros_like(was) if isinstance(now, float) else now
        before = np.zeros_like(matrix) if isinstance(was, float) else was
        run.lanes.append(LaneMix(pool, lane, matrix, None if np.array_equal(before, matrix) else before))

    def _pool_mix(self, pool: LanePool, run: SinkRun, lanes: list[Factors]) -> None:
        """Add one product over all lanes from the first to the last that the sink mixes."""
        heard = [(lane, now, was) for lane, now, was in lanes if now or was]
        if not heard:
            return
        # Lanes in between that this sink does not mix are multiplied by zero: one product over a contiguous block is
        # cheaper than picking rows, and a lane without a stream is silent.
        first = heard[0][0]
        gains = [0.0] * (heard[-1][0] - first + 1)
        before = gains.copy()
        for lane, now, was in heard:
            gains[lane - first], before[lane - first] = now, was
        ramped = None if before == gains else np.array(before, np.float32)
        matrix = mix_matrix(pool.positions, run.sink.positions)
        scratch = self._shared("pool", pool.channels)
        run.pools.append(PoolMix(pool, first, np.array(gains, np.float32), ramped, matrix, scratch))
