"""Meters of a low rate: one frame per period, also when they are frozen within one."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.doors.pulse.meter import MeterState, PeriodMeter
from millrace.dsp.convert import Samples

SOUND = np.random.default_rng(3).uniform(-0.5, 0.5, (10_000, 2)).astype(np.float32)


def metered(peaks: bool, pieces: int, freezing: bool) -> Samples:
    meter = PeriodMeter(48_000, 25, peaks, MeterState())
    out = []
    for part in np.array_split(SOUND, pieces):
        if freezing:
            meter = PeriodMeter(48_000, 25, peaks, meter.freeze())
        out.append(meter.feed(part))
    return np.concatenate(out)


@pytest.mark.parametrize("pieces", [1, 7, 100])
@pytest.mark.parametrize("peaks", [True, False])
def test_each_period_becomes_one_frame_for_any_block_size(peaks: bool, pieces: int) -> None:
    periods = SOUND[:9_600].reshape(5, 1_920, 2)
    expected = np.abs(periods).max(axis=1) if peaks else periods.mean(axis=1)
    whole = metered(peaks, pieces, freezing=False)
    assert np.abs(whole - expected).max() < 1e-5
    assert np.array_equal(metered(peaks, pieces, freezing=True), whole)
