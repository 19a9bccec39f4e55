"""One cycle of a hand-made plan: what is summed, faded, limited, metered and delivered."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import Samples
from millrace.dsp.mix import Limiter, ramp
from millrace.graph.cycle import METER_FRAMES, run_cycle
from millrace.graph.lanes import LanePool
from millrace.graph.model import Sink, Tap
from millrace.graph.plan import LaneMix, Plan, PoolMix, SinkRun, StreamTapRun, TapRun
from millrace.sim.rig import Capture
from millrace.units import Positions, default_map

FRAMES = 240
STEREO, MONO = default_map(2), default_map(1)


def array(*values: float) -> Samples:
    return np.array(values, np.float32)


def run_of(sink: Sink, **parts: object) -> SinkRun:
    """A sink's part of a plan, at unity and heard, but for `parts`."""
    channels = len(sink.positions)
    buffer, scratch = np.full((FRAMES, channels), 9.0, np.float32), np.full((FRAMES, channels), 9.0, np.float32)
    made = SinkRun(sink, buffer, scratch, Limiter(FRAMES), np.ones(channels, np.float32), None, True)
    for name, value in parts.items():
        setattr(made, name, value)
    return made


def pool_of(*lanes: Samples | float, positions: Positions = STEREO, capacity: int = 1024) -> LanePool:
    """A pool whose lanes hold these, from position 0 on: a ramp of frames, or the same value all through."""
    pool = LanePool(positions, capacity)
    pool.data = np.zeros((len(lanes), capacity * len(positions)), np.float32)
    for row, lane in zip(pool.data, lanes, strict=True):
        row[:] = np.repeat(lane, len(positions)) if isinstance(lane, np.ndarray) else lane
    return pool


def mix_of(pool: LanePool, gains: Samples, first: int = 0, **parts: object) -> PoolMix:
    made = PoolMix(pool, first, gains, None, None, np.full((FRAMES, pool.channels), 9.0, np.float32))
    for name, value in parts.items():
        setattr(made, name, value)
    return made


def listen(run: SinkRun, positions: Positions = STEREO, **parts: object) -> Capture:
    """A tap on a sink's part of the plan."""
    heard = Capture()
    scratch = np.full((FRAMES, len(positions)), 9.0, np.float32)
    made = TapRun(Tap(7, "tap", positions, consumer=heard), None, None, scratch)
    for name, value in parts.items():
        setattr(made, name, value)
    run.taps.append(made)
    return heard


def raised(tap: Tap, error: Exception) -> None:
    raise error


def cycle(*runs: SinkRun, position: int = 0, alone: tuple[StreamTapRun, ...] = ()) -> int:
    """One cycle; returns how many steps it took."""
    return sum(1 for _ in run_cycle(Plan(sinks=list(runs), stream_taps=list(alone)), position, FRAMES, raised))


def test_lanes_are_summed_by_gain_from_current_position() -> None:
    count = np.arange(1024, dtype=np.float32) / 4096
    pool = pool_of(count, 1.0, 0.25)
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool, array(0.5, 0.0, 1.0))])
    heard = listen(run)
    cycle(run, position=480)
    assert np.array_equal(heard.sound[:, 0], 0.5 * count[480:720] + 0.25) and heard.positions == [480]
    assert np.array_equal(heard.sound[:, 0], heard.sound[:, 1])


@pytest.mark.parametrize("gains", [[0.5], [0.5, 0.5]])
def test_wrapped_ring_loses_and_repeats_nothing(gains: list[float]) -> None:
    count = np.arange(1000, dtype=np.float32) / 4000
    pool = pool_of(*[count] * len(gains), capacity=1000)
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool, array(*gains))])
    alone = run_of(Sink(2, "lane", STEREO), lanes=[LaneMix(pool, 0, np.eye(2, dtype=np.float32), None)])
    heard, by_lane = listen(run), listen(alone)
    cycle(run, alone, position=5900)
    whole = np.concatenate((count[900:], count[:140]))
    assert np.allclose(heard.sound[:, 0], 0.5 * len(gains) * whole) and np.array_equal(by_lane.sound[:, 1], whole)


def test_mix_of_some_lanes_adds_to_sum_and_leaves_others_alone() -> None:
    pool, other = pool_of(0.5, 0.25, 0.125), pool_of(0.0625, positions=MONO)
    widen = array(1.0, 0.5).reshape(1, 2)
    run = run_of(
        Sink(1, "sink", STEREO),
        pools=[mix_of(pool, array(1.0), first=1), mix_of(other, array(1.0), matrix=widen), mix_of(pool, array(1.0))],
    )
    alone = run_of(Sink(2, "alone", STEREO), pools=[mix_of(other, array(0.5), matrix=widen)])
    heard, first = listen(run), listen(alone)
    cycle(run, alone)
    assert np.allclose(heard.sound, (0.25 + 0.0625 + 0.5, 0.25 + 0.03125 + 0.5))
    assert np.allclose(first.sound, (0.03125, 0.015625))


def test_changed_gains_ramp_over_exactly_one_cycle() -> None:
    pool = pool_of(0.5, 0.25)
    mix = mix_of(pool, array(1.0, 0.0), before=array(0.0, 1.0))
    run = run_of(Sink(1, "sink", STEREO), pools=[mix])
    heard = listen(run)
    cycle(run)
    cycle(run, position=FRAMES)
    expected = 0.25 + ramp(FRAMES)[:, 0] * 0.25
    assert np.allclose(heard.blocks[0][:, 0], expected, atol=1e-6) and (heard.blocks[1] == 0.5).all()
    assert mix.before is None


def test_lane_with_own_matrix_ramps_too_and_adds_to_sum() -> None:
    swap, straight = array(0, 1, 1, 0).reshape(2, 2), np.eye(2, dtype=np.float32)
    pool = pool_of(0.0)
    pool.data[0] = np.tile(array(0.5, 0.25), 1024)
    lane = LaneMix(pool, 0, swap, straight)
    run = run_of(Sink(1, "sink", STEREO), lanes=[lane], pools=[mix_of(pool_of(0.125), array(1.0))])
    heard = listen(run)
    cycle(run, position=900)
    cycle(run, position=900 + FRAMES)
    expected = 0.125 + 0.5 - 0.25 * ramp(FRAMES)[:, 0]
    assert np.allclose(heard.blocks[0][:, 0], expected, atol=1e-6)
    assert np.allclose(heard.blocks[1], (0.375, 0.625)) and lane.before is None


def test_linked_sink_is_heard_in_target_after_its_own_volume() -> None:
    quiet = run_of(Sink(1, "quiet", STEREO), pools=[mix_of(pool_of(0.5), array(1.0))], gains=array(0.5, 0.25),
                   unity=False)  # fmt: skip
    fold = np.full((2, 1), 0.5, np.float32)
    plain, mono = run_of(Sink(2, "plain", STEREO)), run_of(Sink(3, "mono", MONO))
    plain.upstream, mono.upstream = [(quiet, None), (quiet, None)], [(quiet, fold)]
    twice, folded = listen(plain), listen(mono, MONO)
    cycle(quiet, plain, mono)
    assert np.allclose(twice.sound, (0.5, 0.25)) and np.allclose(folded.sound, 0.1875)


def test_sink_volume_ramps_and_then_stays() -> None:
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool_of(0.5), array(1.0))], gains=array(0.5, 1.0), unity=False,
                 before=array(1.0, 1.0))  # fmt: skip
    heard = listen(run)
    cycle(run)
    cycle(run, position=FRAMES)
    assert np.allclose(heard.blocks[0][:, 0], 0.5 - 0.25 * ramp(FRAMES)[:, 0], atol=1e-6)
    assert (heard.blocks[0][:, 1] == 0.5).all() and np.allclose(heard.blocks[1], (0.25, 0.5))
    assert run.sink.level == 0.5 and run.sink.latest is not None and np.allclose(run.sink.latest[0], (0.25, 0.5))


def test_overs_are_limited_and_released_gradually() -> None:
    pool = pool_of(1.0, 1.0)
    mix = mix_of(pool, array(1.0, 1.0))
    run = run_of(Sink(1, "sink", STEREO), pools=[mix])
    heard = listen(run)
    cycle(run)
    cycle(run, position=FRAMES)
    assert np.abs(heard.blocks[1]).max() <= 1.0 and run.sink.level == 1.0 and run.limiter.gain < 1.0
    # What follows is not too loud, but the gain recovers over several cycles and not at once.
    mix.gains = array(0.25, 0.0)
    cycle(run, position=2 * FRAMES)
    assert 0.0 < heard.blocks[2].max() < 0.25
    for number in range(3, 2000):
        cycle(run, position=number * FRAMES)
    assert run.limiter.gain == 1.0 and (heard.blocks[-1] == 0.25).all() and run.sink.level == 0.25


def test_empty_sink_is_silent_whatever_its_buffer_held() -> None:
    run = run_of(Sink(1, "sink", STEREO, level=0.5), gains=array(0.5, 0.5), unity=False)
    heard = listen(run)
    cycle(run)
    assert not heard.sound.any() and run.sink.level == 0.0 and run.sink.latest is not None


def test_unheard_sink_is_mixed_once_for_its_meter() -> None:
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool_of(0.5), array(1.0))], heard=False)
    for position in range(FRAMES, METER_FRAMES, FRAMES):
        assert cycle(run, position=position) == 0
    assert run.sink.level == 0.0 and run.sink.latest is None
    assert cycle(run, position=METER_FRAMES) == 1 and run.sink.level == 0.5
    # If no cycle begins exactly there, it is the first one after it: always exactly one.
    assert sum(cycle(run, position=at) for at in range(7, 2 * METER_FRAMES, FRAMES)) == 2


def test_taps_get_their_own_layout_with_one_cycle_ramp() -> None:
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool_of(0.5), array(1.0))])
    half, quarter = np.full((2, 1), 0.5, np.float32), np.full((2, 1), 0.25, np.float32)
    plain, mono = listen(run), listen(run, MONO, matrix=half, before=quarter)
    cycle(run)
    cycle(run, position=FRAMES)
    assert (plain.sound == 0.5).all()
    assert np.allclose(mono.blocks[0][:, 0], 0.25 + 0.25 * ramp(FRAMES)[:, 0], atol=1e-6)
    assert np.allclose(mono.blocks[1], 0.5)


def test_stream_tap_hears_its_lane_only_and_silence_without_one() -> None:
    pool = pool_of(0.5, 0.25)
    run = run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool, array(1.0, 1.0))])
    stem, gone = Capture(), Capture()
    lane = LaneMix(pool, 1, np.eye(2, dtype=np.float32), None)
    alone = (
        StreamTapRun(Tap(7, "stem", STEREO, consumer=stem), lane, np.full((FRAMES, 2), 9.0, np.float32)),
        StreamTapRun(Tap(8, "gone", STEREO, consumer=gone), None, np.full((FRAMES, 2), 9.0, np.float32)),
    )
    cycle(run, alone=alone)
    assert (stem.sound == 0.25).all() and not gone.sound.any()
    assert stem.positions == gone.positions == [0]


def test_step_ends_when_a_sink_or_tap_is_complete() -> None:
    run, silent = (
        run_of(Sink(1, "sink", STEREO), pools=[mix_of(pool_of(0.5), array(1.0))]),
        run_of(Sink(2, "x", STEREO)),
    )
    heard = [listen(run), listen(run), listen(silent)]
    told = []
    for _ in run_cycle(Plan(sinks=[run, silent]), 0, FRAMES, raised):
        told.append(([len(one.blocks) for one in heard], run.sink.level))
    assert told == [
        ([0, 0, 0], 0.5), ([1, 0, 0], 0.5), ([1, 1, 0], 0.5), ([1, 1, 0], 0.5), ([1, 1, 1], 0.5)
    ]  # fmt: skip
