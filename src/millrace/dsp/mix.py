"""Gains, ramps and the limiter, for mixed blocks."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import Frames

CUBIC_NORM = 0x10000
"""PulseAudio's 100 % (`PA_VOLUME_NORM`)."""


def cubic_to_gain(volume: int) -> float:
    """PulseAudio's software volume to a linear gain: the cube of the fraction."""
    return float((volume / CUBIC_NORM) ** 3)


def gain_to_cubic(gain: float) -> int:
    """A linear gain to PulseAudio's volume; the inverse of `cubic_to_gain`."""
    return round(gain ** (1 / 3) * CUBIC_NORM) if gain > 0 else 0


def peak(flat: Samples) -> float:
    """The largest magnitude in a flat float32 array; 0.0 means digital silence."""
    if not len(flat):
        return 0.0
    return float(max(np.maximum.reduce(flat), -np.minimum.reduce(flat)))


def ramp(frames: int) -> Samples:
    """0 → 1 over `frames`, as a column, ending at exactly 1."""
    return (np.arange(1, frames + 1, dtype=np.float32) / np.float32(frames))[:, None]


# The gain slides over the whole block that exceeds full scale, since a step would be a click; so a peak early in the
# block meets a gain that is still too high. Such peaks are bent. The curve has slope 1 at the knee, where it meets the
# unchanged samples without a corner, and never exceeds 1.0. The gain is 1.0 exactly when nothing is limited, and then
# samples pass bit-exact.
class Limiter:
    """Keeps a mix within full scale without hard edges; leaves it unchanged while it is within.

    When a block peaks over 1.0, the gain slides down to 1/peak, and later back up by at most the factor `RELEASE` per
    `release_frames`, however long the blocks are. Peaks that still exceed 1.0 during the slide are bent by tanh over
    the top 3 dB instead of being clipped.
    """

    RELEASE = 1.05
    KNEE = 0.7

    def __init__(self, release_frames: Frames, gain: float = 1.0) -> None:
        self._release_frames, self.gain = release_frames, gain

    def apply(self, block: Samples, level: float) -> None:
        """Limit `block` (frames, channels) in place; `level` is its peak."""
        if level <= 1.0 and self.gain == 1.0:
            return
        release = self.RELEASE ** (len(block) / self._release_frames)
        target = min(1.0, self.gain * release, 1.0 / level if level > 0 else 1.0)
        slope = np.float32(self.gain) + ramp(len(block)) * np.float32(target - self.gain)
        block *= slope
        self.gain = target if target < 0.9999 else 1.0
        if peak(block.reshape(-1)) > 1.0:
            self._bend(block)

    def _bend(self, block: Samples) -> None:
        """Compress everything above the knee smoothly into the range up to 1.0."""
        room = np.float32(1.0 - self.KNEE)
        size = np.abs(block)
        bent = self.KNEE + room * np.tanh((size - self.KNEE) / room)
        np.copyto(block, np.copysign(bent, block), where=size > self.KNEE)
