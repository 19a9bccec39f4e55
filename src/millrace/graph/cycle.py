"""The cycle: one run of the graph. This file is the real-time side.

It logs nothing, takes no lock, never awaits, and raises nothing for conditions that occur in normal operation. Arrays
come from the plan; only a cycle in which a gain changes allocates small ones, for its crossfade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from millrace.dsp.channels import Matrix
from millrace.dsp.convert import Samples
from millrace.dsp.mix import peak, ramp
from millrace.graph.model import Tap
from millrace.graph.plan import LaneMix, Plan, PoolMix, SinkRun, TapRun
from millrace.units import Frames

METER_FRAMES = 12_000
"""A sink that nobody hears is mixed only once per this many frames, to keep its level meter alive."""


Failed = Callable[[Tap, Exception], None]


def run_cycle(plan: Plan, position: Frames, frames: Frames, failed: Failed) -> Iterator[None]:
    """Mix [position, position + frames) in every sink and pass it to the taps, one per step.

    `failed` is called for a tap whose consumer raises; the others get their sound.
    """
    # Each sink comes after everything linked into it, so one pass is enough, and `run.buffer` of an upstream sink holds
    # its output of this same cycle. A step ends only when a sink or a tap is complete, so code that looks at the graph
    # between steps never sees half a block.
    for run in plan.sinks:
        # Cycles follow each other without a gap, so exactly one of them begins within its own length after each
        # multiple of METER_FRAMES.
        if not run.heard and position % METER_FRAMES >= frames:
            continue
        block = run.buffer[:frames]
        silent = not _mix(run, block, position)
        level = 0.0 if silent else _finish(run, block)
        # `latest` is a view of the buffer that the next cycle overwrites; taps get a view too, and copy what they keep.
        run.sink.level, run.sink.latest = level, block
        yield
        for tap in run.taps:
            own = block if tap.matrix is None else _for_tap(tap, tap.matrix, block)
            try:
                tap.tap.consumer.consume(own, position, level)
            except Exception as error:
                failed(tap.tap, error)
            yield
    for alone in plan.stream_taps:
        own = alone.scratch[:frames]
        own.fill(0.0)
        if alone.lane is not None:
            _add_lane(alone.lane, own, position)
        level = peak(own.reshape(-1))
        try:
            alone.tap.consumer.consume(own, position, level)
        except Exception as error:
            failed(alone.tap, error)
        yield


def _for_tap(tap: TapRun, matrix: Matrix, block: Samples) -> Samples:
    """The sink's output in the tap's layout."""
    own = tap.scratch[: len(block)]
    np.dot(block, matrix, out=own)
    if tap.before is not None:
        own += (1.0 - ramp(len(block))) * (block @ (tap.before - matrix))
        tap.before = None
    return own


def _mix(run: SinkRun, block: Samples, position: Frames) -> bool:
    """Sum all inputs into `block`; False if there were none."""
    filled = False
    for mix in run.pools:
        _add_pool(mix, block, position, run.scratch, filled)
        filled = True
    for source, matrix in run.upstream:
        _accumulate(source.buffer[: len(block)], matrix, block, run.scratch, filled)
        filled = True
    if not filled:
        block.fill(0.0)
    for lane in run.lanes:
        _add_lane(lane, block, position)
        filled = True
    return filled


def _accumulate(source: Samples, matrix: Samples | None, block: Samples, scratch: Samples, filled: bool) -> None:
    """`block` (+)= `source` @ `matrix`."""
    if matrix is not None:
        own = scratch[: len(block)]
        source = np.dot(source, matrix, out=own)
    if filled:
        np.add(block, source, out=block)
    else:
        block[:] = source


def _add_pool(mix: PoolMix, block: Samples, position: Frames, scratch: Samples, filled: bool) -> None:
    if mix.before is None and mix.matrix is None and not filled:
        _product(mix, mix.gains, position, block)
        return
    own = mix.scratch[: len(block)]
    _product(mix, mix.gains, position, own)
    if mix.before is not None:
        # Both mixes are computed and crossfaded over the cycle: a gain that jumps is heard as a click, and one that
        # changes once per block as zipper noise. The plan keeps `before` for one cycle only.
        old = np.empty_like(own)
        _product(mix, mix.before, position, old)
        mix.before = None
        own -= old
        own *= ramp(len(own))
        own += old
    _accumulate(own, mix.matrix, block, scratch, filled)


def _product(mix: PoolMix, gains: Samples, position: Frames, out: Samples) -> None:
    """`gains` @ the lanes' frames from `position` on, in two parts if the ring wraps."""
    pool, frames, width = mix.pool, len(out), mix.pool.channels
    at = pool.at(position)
    head = min(frames, pool.capacity - at)
    flat = out.reshape(-1)
    rows = pool.data[mix.first : mix.first + len(gains)]
    if len(gains) == 1 and head == frames:
        np.multiply(rows[0, at * width : (at + head) * width], gains[0], out=flat)
        return
    # Not `dot`: it first copies operands that are not contiguous, and here each row is a section of a lane.
    np.matmul(gains, rows[:, at * width : (at + head) * width], out=flat[: head * width])
    if head < frames:
        np.matmul(gains, rows[:, : (frames - head) * width], out=flat[head * width :])


def _add_lane(mix: LaneMix, block: Samples, position: Frames) -> None:
    pool, frames = mix.pool, len(block)
    row = pool.data[mix.lane].reshape(pool.capacity, pool.channels)
    at = pool.at(position)
    head = min(frames, pool.capacity - at)
    fade = None if mix.before is None else ramp(frames)
    for source, start in ((row[at : at + head], 0), (row[: frames - head], head)):
        part = block[start : start + len(source)]
        if fade is None or mix.before is None:
            part += source @ mix.matrix
        else:
            old = source @ mix.before
            part += old + (source @ mix.matrix - old) * fade[start : start + len(source)]
    mix.before = None


def _finish(run: SinkRun, block: Samples) -> float:
    """Apply the sink volume, then the limiter; return the peak that leaves the sink."""
    if run.before is not None:
        block *= run.before + ramp(len(block)) * (run.gains - run.before)
        run.before = None
    elif not run.unity:
        block *= run.gains
    level = peak(block.reshape(-1))
    # The limiter's release takes several cycles, so it must also run once the signal is no longer too loud.
    if level > 1.0 or run.limiter.gain != 1.0:
        run.limiter.apply(block, level)
        level = min(level, 1.0)
    return level
