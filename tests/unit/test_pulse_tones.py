"""module-sine's tone: its pitch and level, and its continuity for any sizes of pulls."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.doors.pulse.tones import Sine
from millrace.dsp.convert import Samples


def pulled(tone: Sine, *frames: int, channels: int = 2) -> Samples:
    blocks = []
    for count in frames:
        block = np.full((count, channels), 9.0, np.float32)
        assert tone.pull(block) == count
        blocks.append(block)
    return np.concatenate(blocks)


def test_tone_is_a_half_scale_sine_in_all_channels() -> None:
    sound = pulled(Sine(440, 48_000), 4800, channels=3)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4800) / 48_000)
    assert np.allclose(sound, expected[:, None], atol=1e-6)
    assert np.array_equal(sound[:, 0], sound[:, 2])


@pytest.mark.parametrize(("frequency", "rate"), [(440, 48_000), (997, 44_100), (23_999, 48_000), (1, 8_000)])
def test_tone_is_continuous_over_blocks_and_seconds(frequency: int, rate: int) -> None:
    whole = pulled(Sine(frequency, rate), 2 * rate + 500)
    pieces = pulled(Sine(frequency, rate), 1, 7, rate - 20, 240, 1920, rate - 1_648)
    assert np.array_equal(whole, pieces)


def test_tone_is_as_exact_after_days_as_in_first_second() -> None:
    tone = Sine(440, 48_000)
    first = pulled(tone, 48_000)
    # Nothing of it grows with time: what it knows of the past is less than a second of frames.
    for _ in range(10):
        assert np.array_equal(pulled(tone, 48_000), first)
    assert tone.at == 0


def test_tone_belongs_to_module_and_never_underruns() -> None:
    tone = Sine(440, 48_000)
    assert tone.status().door == "module" and tone.status().format is None
    tone.short(100, True)
    assert pulled(tone, 1)[0, 0] == 0.0
