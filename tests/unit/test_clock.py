"""Clocks: maps, the loop, the line under the delays, drift, the target delay, the pace."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.clock.allowance import AHEAD_NS, FASTER, Allowance
from millrace.clock.dll import Dll
from millrace.clock.drift import DriftEstimator, Lock
from millrace.clock.envelope import line_below, lower_hull
from millrace.clock.jitter import PROFILES, JitterTarget, asked_of_daemon, profile_of
from millrace.clock.map import ClockMap
from millrace.clock.pace import CORRECTION_MAX, RateController
from millrace.clock.sync import DRIFT_MAX, READING_NS, OffsetFilter, RoundTrip
from millrace.errors import ConfigError
from millrace.units import NS_PER_MS, NS_PER_S

BOOT = 987_654_321_000_000_000


@given(st.floats(-5000, 5000), st.integers(-(10**18), 10**18))
def test_map_and_inverse_agree_to_the_nanosecond_for_days(ppm: float, later: int) -> None:
    clocks = ClockMap(1 / (1 + ppm * 1e-6), BOOT, 5)
    assert clocks.ppm == pytest.approx(ppm, abs=1e-6)
    x = BOOT + later % (7 * 86_400 * NS_PER_S)
    assert abs(clocks.inverse(clocks.forward(x)) - x) <= 1


def test_loop_follows_linear_drift_and_settles_in_bandwidth_time() -> None:
    dll = Dll()
    errors = [dll.update(500.0 + 30.0 * k * 0.1, 0.1, 0.5) for k in range(100)]
    assert abs(errors[-1]) < 1e-3 and dll.rate == pytest.approx(30.0, abs=0.01)
    assert abs(errors[20]) > 1.0


def test_wider_loop_passes_more_noise() -> None:
    random = np.random.default_rng(5)
    noise = random.standard_normal(4000)
    spread = {}
    for bandwidth in (0.02, 0.2):
        dll = Dll()
        phases = []
        for x in noise:
            dll.update(float(x), 0.1, bandwidth)
            phases.append(dll.phase)
        spread[bandwidth] = float(np.std(phases[1000:]))
    assert 2.2 < spread[0.2] / spread[0.02] < 4.5


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_no_point_lies_below_the_line(heights: list[float]) -> None:
    points = [(float(k), y) for k, y in enumerate(heights)]
    at_last, slope = line_below(points)
    for x, y in points:
        assert y >= at_last - slope * (points[-1][0] - x) - 1e-6 * (1 + abs(y))
    assert set(lower_hull(points)) <= set(points)


def observe(est: DriftEstimator, seconds: float, ppm: float, late: np.ndarray, start: float = 0.0) -> list[float]:
    """Feed packets 20 ms apart whose clock gains `ppm`; returns their reported lateness."""
    out = []
    for k in range(round(seconds * 50)):
        true = (start + k * 0.02) * NS_PER_S
        out.append(est.observe(BOOT + round(true * (1 + ppm * 1e-6)), 7 + round(true + late[k % len(late)])))
    return out


@pytest.mark.parametrize("ppm", [0.0, 50.0, -300.0, 4000.0])
def test_drift_is_measured_through_one_sided_jitter(ppm: float) -> None:
    late = np.random.default_rng(3).exponential(3 * NS_PER_MS, 10_007)
    est = DriftEstimator()
    assert est.state is Lock.LOST
    observe(est, 9, ppm, late)
    assert est.ppm == pytest.approx(ppm, abs=30)
    # A rate that few clocks are off by is trusted later.
    assert est.state is (Lock.LOCKED if abs(ppm) < 750.0 else Lock.ACQUIRE)
    observe(est, 111, ppm, late, 9.0)
    assert est.state is Lock.LOCKED
    assert est.ppm == pytest.approx(ppm, abs=3)
    true = 120.0 * NS_PER_S
    assert abs(est.y_after(BOOT + true * (1 + ppm * 1e-6), 7) - true) < 60_000
    assert est.map().forward(BOOT + round(true * (1 + ppm * 1e-6))) == pytest.approx(7 + true, abs=60_000)


def test_drift_is_exact_without_jitter() -> None:
    est = DriftEstimator()
    observe(est, 60, 123.0, np.zeros(1))
    assert est.ppm == pytest.approx(123.0, abs=0.01)


@pytest.mark.parametrize("step_ms", [-5.0, 8.0])
def test_route_change_shifts_line_and_keeps_rate(step_ms: float) -> None:
    est = DriftEstimator()
    late = np.random.default_rng(4).exponential(NS_PER_MS, 5003)
    observe(est, 30, 100.0, late + 10 * NS_PER_MS)
    before = est.ppm
    rates = []
    for k in range(30):
        observe(est, 1, 100.0, late + (10 + step_ms) * NS_PER_MS, 30.0 + k)
        rates.append(est.ppm)
    assert est.steps == 1
    assert max(abs(rate - before) for rate in rates) < 40
    assert rates[-1] == pytest.approx(100.0, abs=10)


@pytest.mark.parametrize(
    "jumps_ms", [(30.0,), (10.0,) * 3, (3.0,), (-30.0,), (-4.0,) * 20], ids=["one", "three", "small", "down", "falling"]
)
@pytest.mark.parametrize("first_s", [0.2, 1.0, 4.5])
def test_jump_in_the_first_seconds_is_not_taken_for_a_rate(jumps_ms: tuple[float, ...], first_s: float) -> None:
    late = np.random.default_rng(9).exponential(0.2e6, 1000)
    for k, jump in enumerate(jumps_ms):
        late[round(50 * (first_s + 0.4 * k)) :] += jump * NS_PER_MS
    est = DriftEstimator()
    observe(est, 20.0, 50.0, late)
    assert est.state is Lock.LOCKED
    assert abs(est.ppm - 50.0) < 60.0


@pytest.mark.parametrize(("depth_ms", "period_s"), [(3, 4), (8, 4), (8, 6), (20, 4), (40, 6)])
def test_queue_that_fills_again_and_again_is_not_taken_for_a_rate(depth_ms: float, period_s: float) -> None:
    t = np.arange(6000) * 0.02
    late = depth_ms * NS_PER_MS * (t % period_s) / period_s + np.random.default_rng(3).exponential(0.15e6, len(t))
    est = DriftEstimator()
    observe(est, 20.0, 30.0, late)
    assert est.state is Lock.LOCKED and abs(est.ppm - 30.0) < 400.0


@pytest.mark.parametrize("slope", [-4.0, -2.0, 2.0, 4.0])
def test_queue_that_drains_or_fills_at_first_is_not_taken_for_a_rate(slope: float) -> None:
    t = np.arange(3000) * 0.02
    late = (30.0 + slope * np.minimum(t, 7.0)) * NS_PER_MS + np.random.default_rng(3).exponential(0.15e6, len(t))
    est = DriftEstimator()
    observe(est, 30.0, 30.0, late)
    assert est.state is Lock.LOCKED and abs(est.ppm - 30.0) < 30.0


def test_wrong_rate_is_measured_again_and_kept_until_then() -> None:
    t = np.arange(6000) * 0.02
    # For 25 s the delay grows as if the clock were off, and then no more.
    late = 3.0 * NS_PER_MS * np.minimum(t, 25.0)
    est = DriftEstimator()
    observe(est, 25.0, 0.0, late)
    assert est.state is Lock.LOCKED and est.ppm == pytest.approx(-3000.0, rel=0.02)
    observe(est, 2.5, 0.0, late[1250:], start=25.0)
    assert est.state is Lock.ACQUIRE and est.ppm == pytest.approx(-3000.0, rel=0.1)
    observe(est, 20.0, 0.0, late[1375:], start=27.5)
    assert est.state is Lock.LOCKED and abs(est.ppm) < 10.0


def test_rate_is_kept_while_a_queue_drains() -> None:
    late = np.random.default_rng(3).exponential(0.15e6, 3000)
    late += 200 * NS_PER_MS * np.clip((24.0 - np.arange(3000) * 0.02) / 4.0, 0.0, 1.0)
    est, seen = DriftEstimator(), set[float]()
    for k in range(0, 3000, 50):
        observe(est, 1.0, 50.0, late[k:], start=k * 0.02)
        if k > 500:
            seen.add(round(est.ppm))
    assert est.state is Lock.LOCKED and seen <= set(range(20, 80))


def test_rate_at_the_limit_is_not_trusted() -> None:
    est = DriftEstimator()
    observe(est, 30.0, 20_000.0, np.zeros(1))
    assert est.state is Lock.ACQUIRE


def test_pause_keeps_line_and_stall_does_not_bend_it() -> None:
    est = DriftEstimator()
    observe(est, 60, 250.0, np.zeros(1))
    late = observe(est, 1, 250.0, np.zeros(1), 180.0)
    assert max(map(abs, late)) < 50_000
    observe(est, 2, 250.0, np.linspace(2e9, 0, 100), 181.0)
    observe(est, 20, 250.0, np.zeros(1), 183.0)
    assert est.ppm == pytest.approx(250.0, abs=2) and est.steps == 0


@pytest.mark.parametrize("period_ms", [5, 20, 100])
@pytest.mark.parametrize("stood_s", [2.5, 6.0, 40.0])
def test_stopped_remote_clock_is_measured_again_after_a_second(period_ms: int, stood_s: float) -> None:
    est = DriftEstimator()
    period = period_ms * NS_PER_MS
    for k in range(60_000 // period_ms):
        est.observe(BOOT + k * period, 7 + k * period)
    stood = round(stood_s * NS_PER_S)
    for k in range(60_000 // period_ms, 61_200 // period_ms):
        est.observe(BOOT + k * period, 7 + k * period + stood)
    assert est.y_after(BOOT + 61 * NS_PER_S, 7) == pytest.approx(61 * NS_PER_S + stood, abs=period)
    assert est.ppm == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize("period_ms", [5, 20, 100])
def test_stall_delivered_slowly_is_not_a_jump(period_ms: int) -> None:
    """A network that held 8 s of packets and delivers them at five times the speed."""
    est = DriftEstimator()
    period = period_ms * NS_PER_MS
    for k in range(70_000 // period_ms):
        held = (
            max(0, 68 * NS_PER_S + (k * period - 60 * NS_PER_S) // 5 - k * period) if k * period > 60 * NS_PER_S else 0
        )
        est.observe(BOOT + k * period, 7 + k * period + held)
    assert est.y_after(BOOT + 70 * NS_PER_S, 7) == pytest.approx(70 * NS_PER_S, abs=NS_PER_MS)
    assert est.steps == 0


@pytest.mark.parametrize("stood_s", [0.4, 1.5, 6.0])
def test_stopped_card_is_measured_again_at_second_pull(stood_s: float) -> None:
    pace = RateController(48_000, PROFILES["normal"])
    stood = round(stood_s * NS_PER_S)
    for k in range(3_000):
        pace.pulled(480, 7 + k * 10 * NS_PER_MS)
    for k in range(3_000, 3_002):
        pace.pulled(480, 7 + k * 10 * NS_PER_MS + stood)
    assert pace.card.y_after(3_001 * 10 * NS_PER_MS, 7) == pytest.approx(3_001 * 10 * NS_PER_MS + stood, abs=NS_PER_MS)
    assert pace.card.ppm == pytest.approx(0.0, abs=1.0)


def test_new_clock_is_measured_from_scratch() -> None:
    est = DriftEstimator()
    observe(est, 20, 10.0, np.zeros(1))
    assert est.observe(BOOT + 40 * NS_PER_S, 10**17) == 0.0
    assert est.state is Lock.ACQUIRE
    est.restart()
    assert est.state is Lock.LOST and est.ppm == 0.0


# -- the target delay -------------------------------------------------------------------------------------


def settle(target: JitterTarget, late: np.ndarray, seconds: int) -> None:
    for second in range(seconds):
        for k in range(50):
            target.add(float(late[(second * 50 + k) % len(late)]))
        target.refresh(1.0)


def test_target_delay_follows_tail_of_jitter() -> None:
    random = np.random.default_rng(1)
    for scale_ms, low, high in ((3.0, 30, 45), (1.0, 9, 16)):
        target = JitterTarget(PROFILES["normal"])
        settle(target, random.exponential(scale_ms * NS_PER_MS, 50_000), 600)
        assert low < target.target_delay_ns / NS_PER_MS < high
    bounded = JitterTarget(PROFILES["normal"])
    settle(bounded, random.uniform(0, 10 * NS_PER_MS, 50_000), 600)
    assert 10 < bounded.target_delay_ns / NS_PER_MS < 13


def test_late_packet_raises_target_delay_immediately_and_it_falls_slowly() -> None:
    target = JitterTarget(PROFILES["normal"])
    settle(target, np.zeros(1), 120)
    calm = target.target_delay_ns
    target.add(12.0 * NS_PER_MS)
    grown = target.target_delay_ns
    assert grown > 12 * NS_PER_MS
    settle(target, np.zeros(1), 10)
    assert grown - target.target_delay_ns < 0.2 * NS_PER_MS
    settle(target, np.zeros(1), 1200)
    assert target.target_delay_ns < calm + 2 * NS_PER_MS


def test_single_stall_does_not_raise_target_delay_permanently() -> None:
    target = JitterTarget(PROFILES["normal"])
    settle(target, np.zeros(1), 60)
    target.add(300.0 * NS_PER_MS)
    assert target.target_delay_ns < 30 * NS_PER_MS
    settle(target, np.zeros(1), 60)
    assert target.wanted_ns < 10 * NS_PER_MS


def test_latencies_are_parsed_by_name_or_number() -> None:
    assert profile_of("robust") is PROFILES["robust"]
    fixed = JitterTarget(profile_of("30ms"))
    settle(fixed, np.array([0.0, 100.0 * NS_PER_MS]), 100)
    assert fixed.target_delay_ns == 30 * NS_PER_MS
    for bad in ("fast", "30", "-5ms", "xms", "9000ms"):
        with pytest.raises(ConfigError, match=r"use one of low, normal, robust, or a time such as 30ms"):
            profile_of(bad)


# -- the pace ---------------------------------------------------------------------------------------


def test_speed_is_clock_ratio_with_bounded_correction() -> None:
    pace = RateController(48_000, PROFILES["normal"])
    for k in range(60 * 200):
        now = BOOT + k * 5 * NS_PER_MS
        if k % 4 == 0:
            pace.arrived(round((k * 5 * NS_PER_MS) * 1.0003), 20 * NS_PER_MS, now)
        pace.pulled(240, now)
    assert pace.locked
    assert pace.speed(0.0) == pytest.approx(1.0003, abs=1e-6)
    for _ in range(2000):
        pace.pulled(240, now)
        fastest = pace.speed(1e9)
    assert fastest == pytest.approx(1.0003 * (1 + CORRECTION_MAX), rel=1e-4)


def test_packets_of_one_burst_are_one_observation() -> None:
    pace = RateController(48_000, PROFILES["normal"])
    for k in range(2000):
        now = k * 40 * NS_PER_MS
        pace.arrived(now, 20 * NS_PER_MS, now)
        pace.arrived(now + 20 * NS_PER_MS, 20 * NS_PER_MS, now, follows=True)
    assert pace.jitter.target_delay_ns < 8 * NS_PER_MS
    assert math.isclose(pace.media.y_after(now, 0), now, abs_tol=1000)


def test_local_stalls_do_not_count_as_jitter() -> None:
    delays = {}
    for card_stalls in (True, False):
        pace = RateController(48_000, PROFILES["normal"])
        for k in range(8000):
            nominal = k * 5 * NS_PER_MS
            stall = 60 * NS_PER_MS - (k % 1000) * 5 * NS_PER_MS if k % 1000 < 12 else 0
            pace.pulled(240, nominal + (stall if card_stalls else 0))
            if k % 4 == 0:
                pace.arrived(nominal, 20 * NS_PER_MS, nominal + stall)
        delays[card_stalls] = pace.jitter.target_delay_ns
    assert delays[True] < 12 * NS_PER_MS < delays[False]


def test_shortest_round_trip_gives_offset_and_drift_extrapolates() -> None:
    clock, random = OffsetFilter(), np.random.default_rng(6)
    assert clock.offset_ns(0) is None and clock.rtt_ns is None
    ppm, offset = 300e-6, 5 * NS_PER_S
    for k in range(60):
        sent = k * 2 * NS_PER_S
        there, back = (1e6 + random.exponential(20e6, 2)).round().astype(int)
        at = sent + int(there)
        clock.add(sent, offset + round(at * (1 + ppm)), at + int(back))
    now = 120 * NS_PER_S
    true = offset + round(now * ppm)
    assert clock.rtt_ns is not None and clock.rtt_ns < 20 * NS_PER_MS
    with_rate = clock.offset_ns(now, 1 / (1 + ppm) - 1)
    without = clock.offset_ns(now)
    assert with_rate is not None and without is not None
    assert abs(with_rate - true) < 6 * NS_PER_MS and abs(with_rate - true) <= abs(without - true)


@pytest.mark.parametrize("jump", [29_389 * NS_PER_MS, -29_389 * NS_PER_MS, 200 * NS_PER_MS, -200 * NS_PER_MS])
def test_round_trips_from_before_a_clock_jumped_are_forgotten_with_the_next(jump: int) -> None:
    clock = OffsetFilter()
    for at in range(0, 40 * NS_PER_S, 2 * NS_PER_S):
        # The oldest are the quickest, and would be trusted most.
        clock.add(at, at + 7 * NS_PER_S, at + 10 * NS_PER_MS + at // 10_000)
    assert clock.offset_ns(40 * NS_PER_S) is not None
    clock.add(42 * NS_PER_S, 49 * NS_PER_S + 20 * NS_PER_MS + jump, 42 * NS_PER_S + 40 * NS_PER_MS)
    assert clock.offset_ns(43 * NS_PER_S) == 7 * NS_PER_S + jump and clock.rtt_ns == 40 * NS_PER_MS


def test_clocks_that_drift_and_lines_that_queue_are_no_jump() -> None:
    clock, random = OffsetFilter(), np.random.default_rng(2)
    for at in range(0, 200 * NS_PER_S, 8 * NS_PER_S):
        there, back = (1e6 + random.exponential(400e6, 2)).round().astype(int)
        clock.add(at, round((at + int(there)) * (1 + 500e-6)), at + int(there) + int(back))
    assert len(clock._trips) == 16


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_may_drift_apart_by_a_thousandth_between_two_round_trips(sign: int) -> None:
    first, later = RoundTrip(0, 0, 0), 100 * NS_PER_S
    apart = round(DRIFT_MAX * later) + READING_NS
    assert first.agrees(RoundTrip(later, later + sign * apart, 0))
    assert not first.agrees(RoundTrip(later, later + sign * (apart + NS_PER_MS), 0))
    assert first.agrees(RoundTrip(later, later + sign * (apart + NS_PER_MS), 2 * NS_PER_MS)), "half of its round trip"


def test_round_trips_are_trusted_less_with_age() -> None:
    clock = OffsetFilter()
    later = 100 * NS_PER_S
    clock.add(0, 7_000_000, 2_000_000)
    clock.add(later, later + 9_500_000, later + 3_000_000)
    # The first is accurate to 1 ms and has aged by 2 ms, the second is accurate to 1.5 ms.
    assert clock.rtt_ns == 2_000_000 and clock.offset_ns(later + 3_000_000) == 8_000_000


@pytest.mark.parametrize("text", ["infms", "nanms", "-1ms", "0ms", "3000ms", "30", "quick", "", "0" * 100 + "30ms"])
def test_invalid_latency_lists_valid_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="low, normal, robust"):
        asked_of_daemon(text)


def test_latency_requested_from_daemon_follows_profile() -> None:
    asked = [asked_of_daemon(text) for text in ("robust", "24ms", "25ms", "500ms")]
    assert asked == ["robust", "low", "normal", "normal"]


# -- allowances ------------------------------------------------------------------------------------


def test_sound_at_or_slightly_above_real_time_is_accepted_forever() -> None:
    for speed in (1.0, 1.04):
        allowance = Allowance()
        for second in range(3600):
            allowance.passed(BOOT + second * NS_PER_S)
            assert allowance.take(round(speed * NS_PER_S))


def test_sound_faster_than_any_clock_is_refused_beyond_allowance() -> None:
    allowance, taken = Allowance(), 0
    for second in range(1000):
        allowance.passed(BOOT + second * NS_PER_S)
        taken += allowance.take(2 * NS_PER_S) * 2 * NS_PER_S
    assert taken == pytest.approx(AHEAD_NS + 999 * NS_PER_S * FASTER, abs=2 * NS_PER_S)


def test_burst_after_stalled_connection_is_bounded() -> None:
    allowance = Allowance(4 * NS_PER_S)
    assert not allowance.take(4 * NS_PER_S + 1) and allowance.take(4 * NS_PER_S) and not allowance.take(1)
    assert allowance.take(0)
    allowance.passed(BOOT)
    assert not allowance.take(1), "no time has passed before the first call"
    allowance.passed(BOOT + 3600 * NS_PER_S)
    assert allowance.take(3 * NS_PER_S) and allowance.take(NS_PER_S) and not allowance.take(1)


def test_clock_going_backwards_changes_no_allowance() -> None:
    allowance = Allowance(NS_PER_S)
    allowance.passed(BOOT)
    assert allowance.take(NS_PER_S)
    allowance.passed(BOOT - 5 * NS_PER_S)
    assert not allowance.take(1)
    allowance.passed(BOOT - 5 * NS_PER_S + 100 * NS_PER_MS)
    assert allowance.take(105 * NS_PER_MS) and not allowance.take(1)
