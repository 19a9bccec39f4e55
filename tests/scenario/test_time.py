"""The whole path with real sound over bad networks and wrong clocks, in virtual time; and days without sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from millrace.dsp.measure import level_dbfs, phase_jumps, tone_snr_db
from millrace.errors import ConfigError
from millrace.lab.dryrun import DryRun
from millrace.lab.dryvoice import MillracePolicy
from millrace.lab.measure import measure_sound
from millrace.lab.policies import FillPolicy, NetEq, PipeWireDll
from millrace.lab.report import header, lost_rows, policies, row, run_one
from millrace.lab.scenario import Outcome, Scenario, matrix, named
from millrace.lab.sound import SoundRun
from millrace.sim.net import Path
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S

EDGE = 0.5 * 2 * np.pi * 997 / 48_000 * 1.6
"""The largest step between two frames of a 997 Hz tone at −6 dBFS, including fades and crossfades."""


def test_tone_through_two_wrong_clocks_is_clean() -> None:
    measured = measure_sound("ppm300/none", 40.0, {"codec": "f32"}, "normal")
    assert measured["SNR, median second, dB"] >= 90  # type: ignore[operator]
    assert measured["breaks in the tone"] == measured["xruns"] == measured["skips"] == measured["packets lost"] == 0
    assert measured["media clock, ppm"] == pytest.approx(300, abs=0.1)


def test_tone_through_3_ms_of_jitter_is_clean() -> None:
    measured = measure_sound("ppm-200/exp3", 90.0, {"codec": "f32"}, "normal")
    assert measured["SNR, median second, dB"] >= 70  # type: ignore[operator]
    assert measured["breaks in the tone"] == measured["xruns"] == measured["skips"] == 0


def playing(path: Path, seconds: float, settings: dict[str, str] | None = None, **clocks: float) -> SoundRun:
    scenario = Scenario("test", path, wander_ppm=0.0, **clocks)  # type: ignore[arg-type]
    return SoundRun(scenario, sine(seconds), settings or {"codec": "f32"})


def late_after(run: SoundRun, seconds: float) -> float:
    """The largest excess of latency over its target after so many seconds, in ms."""
    return max(late for at, _, late, _ in run.fills if at > seconds * NS_PER_S) / NS_PER_MS


@pytest.mark.parametrize("stall_s", [0.1, 0.4, 2.0])
def test_latency_returns_to_target_within_3_seconds_after_stall(stall_s: float) -> None:
    stall = ((13 * NS_PER_S, 13 * NS_PER_S + round(stall_s * NS_PER_S)),)
    run = playing(Path(5 * NS_PER_MS, "exp", 1e6, stalls=tuple((a + 3 * 10**12, b + 3 * 10**12) for a, b in stall)), 25)
    sound = run.run(25.0)
    assert run.playout.tally.underruns == 1
    assert late_after(run, 13 + stall_s + 3) < 20
    assert np.abs(np.diff(sound[:, 0])).max() < EDGE
    back = sound[round((13.5 + stall_s) * 48_000) : 24 * 48_000, 0]
    assert abs(level_dbfs(back) - -6.02) < 0.1


def test_suspended_listener_returns_on_time() -> None:
    run = playing(Path(5 * NS_PER_MS), 30)
    run.run(10.0)
    # A closed laptop: packets queue in its socket, its card stops, its clock continues.
    run.card.start_ns += 5 * NS_PER_S
    run.now_ns += 5 * NS_PER_S
    sound = run.run(10.0)
    assert late_after(run, 18.0) < 20
    assert np.abs(np.diff(sound[:, 0])).max() < EDGE
    assert run.playout.tally.skips <= 1


def test_loss_is_concealed_without_time_shift() -> None:
    run = playing(Path(5 * NS_PER_MS, "exp", 1e6, loss=0.05), 30, {"codec": "opus", "fec": "on"}, daemon_ppm=-80.0)
    sound = run.run(29.0)
    middle = sound[10 * 48_000 : 28 * 48_000, 0]
    assert run.playout.lost_packets > 40 and run.playout.tally.skips == 0
    assert abs(level_dbfs(middle) - -6.02) < 0.5
    assert np.abs(np.diff(middle)).max() < EDGE
    assert max(abs(late) for at, _, late, _ in run.fills if at > 10 * NS_PER_S) < 25 * NS_PER_MS


def test_reordered_and_duplicated_packets_are_heard_once_in_order() -> None:
    run = playing(Path(5 * NS_PER_MS, reorder=0.05, duplicate=0.05, ordered=False), 30)
    sound = run.run(29.0)
    assert run.net.reordered > 20 and run.net.duplicated > 20
    # One packet may arrive too late while the target delay is still being learnt.
    assert run.playout.lost_packets <= 1
    assert not len(phase_jumps(sound[10 * 48_000 : 28 * 48_000, 0], 48_000, 997))


def test_low_and_fixed_latencies_are_reached() -> None:
    for latency, low, high in (("low", 2, 15), ("60ms", 60, 68)):
        run = SoundRun(replace(named("ppm0/none"), wander_ppm=0.0), sine(10), {"codec": "f32"}, latency)
        run.run(9.5)
        fills = [fill / NS_PER_MS for at, fill, _, _ in run.fills if at > 8 * NS_PER_S]
        # 40 ms arrive at a time, so the fill varies by as much above the target delay.
        assert low <= min(fills) <= high, (latency, min(fills))


def test_pause_and_new_sound_keep_the_clocks() -> None:
    signal = np.concatenate((sine(12), np.zeros((48_000 * 20, 2), np.float32), sine(6)))
    run = SoundRun(Scenario("x", Path(), daemon_ppm=150.0, wander_ppm=0.0), signal, {"codec": "f32"})
    sound = run.run(38.5)
    assert run.playout.tally.underruns == 0
    loud = np.flatnonzero(np.abs(sound[:, 0]) > 0.01)
    again = loud[loud > 48_000 * 30][0]
    assert not len(phase_jumps(sound[again + 480 : again + 48_000 * 5, 0], 48_000, 997))
    assert tone_snr_db(sound[again + 48_000 : again + 96_000, 0], 48_000)[0] > 60
    assert run.playout.pace.media.ppm == pytest.approx(150, abs=1)


# -- days without sound -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rms_us", "ratio_ppm"), [("ppm0/none", 15, 10), ("ppm500/saw5", 15, 10), ("ppm-50/exp3", 100, 12)]
)
def test_hours_of_drift_stay_within_bounds(name: str, rms_us: float, ratio_ppm: float) -> None:
    day = DryRun(named(name), MillracePolicy, 0.5, seed=2)
    day.run()
    out = day.outcome()
    assert out.latency_rms_us < rms_us and out.ratio_rms_ppm < ratio_ppm
    assert out.lock_s < 10 and out.sound_s < 0.2
    assert out.xruns == out.resyncs == 0


def test_other_policies_drift_where_ours_is_stable() -> None:
    outcomes = [run_one("ppm200/exp3", name, 0.5, None, lambda: 0.0) for name in policies("all")]
    by_name = {o.policy: o for o in outcomes}
    ours = by_name["millrace"]
    assert ours.latency_rms_us == min(o.latency_rms_us for o in outcomes)
    assert ours.ratio_rms_ppm == min(o.ratio_rms_ppm for o in outcomes)
    assert by_name[FillPolicy.name].ratio_rms_ppm == pytest.approx(200, abs=40)
    assert by_name[PipeWireDll.name].resyncs == 0 and by_name[NetEq.name].splices > 50
    assert len(header().split()) > 10 and "millrace" in row(ours)


def test_rows_worse_than_another_policy_are_listed() -> None:
    ours = Outcome("a", "millrace", 1.0, latency_rms_us=50.0, xruns=3)
    other = Outcome("a", "none", 1.0, latency_rms_us=10.0)
    assert len(list(lost_rows([ours, other]))) == 2
    assert not list(lost_rows([replace(ours, xruns=0, latency_rms_us=1.0), other]))


def test_scenarios_are_parsed_by_name() -> None:
    assert len(matrix()) == 7 * 4 * 5 and all(named(name).name == name for name in matrix())
    for bad in ("ppm9999", "ppmx/exp3", "ppm0/nonsense", "exp3", "ppm0/exp3/loss3"):
        with pytest.raises(ConfigError, match="ppm200/exp3"):
            named(bad)
    with pytest.raises(ConfigError, match="neteq"):
        policies("mine")
