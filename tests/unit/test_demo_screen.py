"""The words of the demo's screen."""

from __future__ import annotations

import numpy as np

from millrace.cli.demo import _latency, _without_clicks, tune
from millrace.cli.demoscreen import _spread
from millrace.dsp.measure import level_dbfs
from millrace.sim.painted import click


def test_the_spread_of_skews_is_told_or_that_there_is_none() -> None:
    assert _spread([3_400_000, -14_000_000, 2_000_000]) == (
        "the picture comes +2 ms after its sound (3 flashes against their clicks: -14 to +3 ms)"
    )
    assert "not measured" in _spread([])


def test_clicks_are_left_out_of_the_measurement_of_the_tune() -> None:
    tones = tune(2)[:, 0]
    sound = np.concatenate((np.zeros(24_000), tones, np.zeros(24_000))).astype(np.float32)
    for at in range(4_800, len(sound) - 4_800, 48_000):
        sound[at : at + 240] += click(48_000)
    left = _without_clicks(sound.copy(), 48_000)
    found = np.flatnonzero(np.abs(left) > 0.01)
    assert abs(found[0] - 24_000) < 500 and abs(found[-1] - 24_000 - len(tones)) < 500
    assert abs(level_dbfs(left[24_000:-24_000]) - level_dbfs(tones)) < 0.15


def test_the_demo_has_no_latency_of_a_file_nor_of_an_output_that_does_not_play() -> None:
    assert _latency(0, "wav:demo.wav", False) == "none: wav:demo.wav does not play in real time"
    assert _latency(0, "null:", True) == "not measured: null: was not playing then"
    assert _latency(29_600_000, "null:", True) == "30 ms from the guest's mix to the listener's output"
