"""The plan: the graph ordered, every buffer made, every gain worked out, before a cycle runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from millrace.dsp.channels import Matrix, mix_matrix
from millrace.dsp.convert import Samples
from millrace.dsp.mix import Limiter
from millrace.errors import GraphError
from millrace.graph.lanes import LanePool
from millrace.graph.model import Levelled, Link, Sink, Stream, Tap
from millrace.units import Frames, Positions


@dataclass(slots=True)
class PoolMix:
    """All lanes of one pool into one sink: `gains @ lanes`, then `matrix` if the layouts differ.

    `before` holds the gains of the last cycle while they differ: that cycle crossfades.
    """

    pool: LanePool
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
    """A tap and how the sink's layout becomes its own."""

    tap: Tap
    matrix: Matrix | None
    scratch: Samples


@dataclass(slots=True)
class SinkRun:
    """A sink's share of a cycle."""

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
    """Whether its mix goes anywhere; one that nobody hears is only metered now and then."""


@dataclass(slots=True)
class Applied:
    """What the last plan applied, by sink: so that the next one can ramp from it."""

    sink_gains: dict[int, Samples] = field(default_factory=dict)
    limiters: dict[int, Limiter] = field(default_factory=dict)
    stream_gains: dict[tuple[int, int], Matrix | float] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """Sinks in the order in which they must run, and the pools they mix."""

    sinks: list[SinkRun]
    pools: list[LanePool]


def ordered(sinks: Iterable[Sink]) -> list[Sink]:
    """Sinks so that each comes after those linked into it; GraphError for a loop."""
    done: list[Sink] = []
    visiting: set[int] = set()

    def visit(sink: Sink) -> None:
        if sink in done:
            return
        if sink.id in visiting:
            raise GraphError(f"{sink.key} would hear itself: that link would make a loop")
        visiting.add(sink.id)
        for link in sink.links:
            visit(link.target)
        visiting.discard(sink.id)
        done.append(sink)

    for sink in sinks:
        visit(sink)
    return done[::-1]


def link_gain(node: Levelled, link: Link) -> Matrix | float:
    """A plain factor where one will do, else the whole (source × sink) matrix, volume folded in."""
    gains = node.effective_gains
    if link.matrix is None and len(set(gains)) == 1:
        return gains[0]
    base = link.matrix if link.matrix is not None else mix_matrix(node.positions, link.target.positions)
    if base is None:
        base = np.eye(len(node.positions), dtype=np.float32)
    return np.ascontiguousarray(np.asarray(gains, np.float32)[:, None] * base)


class Planner:
    """Builds plans for one graph, remembering what is in force so that changes ramp."""

    def __init__(self, frames_max: Frames) -> None:
        self._frames_max = frames_max
        self._applied = Applied()

    def build(self, sinks: Iterable[Sink], streams: Iterable[Stream], pools: dict[Positions, LanePool]) -> Plan:
        """A plan for the graph as it is now."""
        runs: dict[int, SinkRun] = {}
        new = Applied()
        for sink in ordered(sinks):
            runs[sink.id] = self._sink_run(sink, new)
        live = [pool for pool in pools.values() if not pool.empty]
        for run in runs.values():
            run.pools = [self._pool_mix(run, pool, new) for pool in live]
            run.pools = [mix for mix in run.pools if mix.before is not None or mix.gains.any()]
            for link in run.sink.links:
                target = runs[link.target.id]
                matrix = (
                    link.matrix if link.matrix is not None else mix_matrix(run.sink.positions, link.target.positions)
                )
                target.upstream.append((run, matrix))
        for stream in streams:
            if stream.active:
                self._lane_mixes(stream, runs, pools[stream.positions], new)
        # Sinks come after those linked into them, so backwards each target is known before its sources.
        for run in reversed(runs.values()):
            run.heard = bool(run.taps) or any(runs[link.target.id].heard for link in run.sink.links)
        self._applied = new
        return Plan(list(runs.values()), live)

    def _sink_run(self, sink: Sink, new: Applied) -> SinkRun:
        gains = np.asarray(sink.effective_gains, np.float32)
        before = self._applied.sink_gains.get(sink.id)
        new.sink_gains[sink.id] = gains
        new.limiters[sink.id] = limiter = self._applied.limiters.get(sink.id) or Limiter()
        shape = (self._frames_max, len(sink.positions))
        ramped = before if before is not None and not np.array_equal(before, gains) else None
        run = SinkRun(
            sink, np.zeros(shape, np.float32), np.zeros(shape, np.float32), limiter,
            gains, ramped, bool((gains == 1.0).all()),
        )  # fmt: skip
        for tap in sink.taps:
            if tap.active:
                scratch = np.zeros((self._frames_max, len(tap.positions)), np.float32)
                run.taps.append(TapRun(tap, mix_matrix(sink.positions, tap.positions), scratch))
        return run

    def _previous(self, sink: Sink, stream: Stream) -> Matrix | float | None:
        """What `stream` had in `sink`: its last gain, silence if it played elsewhere, None if it is new."""
        known = self._applied.stream_gains.get((sink.id, stream.id))
        if known is not None:
            return known
        return 0.0 if any(key[1] == stream.id for key in self._applied.stream_gains) else None

    def _pool_mix(self, run: SinkRun, pool: LanePool, new: Applied) -> PoolMix:
        gains = np.zeros(pool.used, np.float32)
        before = gains.copy()
        for lane, stream in enumerate(pool.owners[: pool.used]):
            if stream is None:
                continue
            link = next((k for k in stream.links if k.target is run.sink), None)
            now = link_gain(stream, link) if link else 0.0
            if isinstance(now, float):
                gains[lane] = now
                if link:
                    new.stream_gains[run.sink.id, stream.id] = now
            was = self._previous(run.sink, stream)
            before[lane] = gains[lane] if was is None else was if isinstance(was, float) else 0.0
        matrix = mix_matrix(pool.positions, run.sink.positions)
        scratch = np.zeros((self._frames_max, pool.channels), np.float32)
        return PoolMix(pool, gains, None if np.array_equal(before, gains) else before, matrix, scratch)

    def _lane_mixes(self, stream: Stream, runs: dict[int, SinkRun], pool: LanePool, new: Applied) -> None:
        for link in stream.links:
            now = link_gain(stream, link)
            was = self._applied.stream_gains.get((link.target.id, stream.id))
            if isinstance(now, float):
                if was is not None and not isinstance(was, float):
                    fade_out = LaneMix(pool, stream.lane, np.zeros_like(was), was)
                    runs[link.target.id].lanes.append(fade_out)
                continue
            new.stream_gains[link.target.id, stream.id] = now
            before = None if was is None else was if not isinstance(was, float) else np.zeros_like(now)
            if before is not None and np.array_equal(before, now):
                before = None
            runs[link.target.id].lanes.append(LaneMix(pool, stream.lane, now, before))
