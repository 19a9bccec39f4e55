"""A client's frames at the graph's rate: in small pieces, complete, and without keeping more memory than is queued."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.doors.resampled import Resampled
from millrace.dsp.convert import Samples
from millrace.dsp.resample import PIECE_FRAMES, SoxrResampler
from millrace.sim.signals import sine


@pytest.mark.parametrize("rates", [(192_000, 48_000), (44_100, 48_000), (8_000, 48_000), (48_000, 192_000)])
def test_sound_pulled_far_ahead_is_resampled_in_small_pieces(rates: tuple[int, int]) -> None:
    rate_in, rate_out = rates
    signal = sine(1.0, rate=rate_in)
    at, asked, sound = 0, [], []

    def read(out: Samples) -> int:
        nonlocal at
        asked.append(len(out))
        got = min(len(out), len(signal) - at)
        out[:got] = signal[at : at + got]
        at += got
        return got

    resampled = Resampled(rate_in, rate_out, 2, low_delay=False)
    for frames in [rate_out // 2, 480, 1, 7] + [rate_out // 10] * 8:
        out = np.zeros((frames, 2), np.float32)
        sound.append(out[: resampled.pull(out, read, due=frames)])
        # A view would keep the whole array alive.
        assert resampled._pending is None or resampled._pending.base is None
    assert max(asked) * max(1.0, rate_out / rate_in) < 1.1 * PIECE_FRAMES
    whole = SoxrResampler(rate_in, rate_out, 2).finish_of(signal)
    assert np.allclose(np.concatenate(sound), whole, atol=1e-4)
