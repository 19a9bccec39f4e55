"""Known signals that tests play, so that the output can be checked."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples


def sine(seconds: float, hz: float = 997.0, rate: int = 48_000, channels: int = 2, level: float = 0.5) -> Samples:
    """(frames, channels) of a sine; 997 Hz has no simple relation to any rate."""
    t = np.arange(round(seconds * rate)) / rate
    mono = level * np.sin(2 * np.pi * hz * t)
    return np.repeat(mono[:, None], channels, axis=1).astype(np.float32)


def count(frames: int, channels: int = 2) -> Samples:
    """Numbered frames: as s16, frame n holds (n mod 32749) + 1 in every channel, so any loss shows."""
    numbers = (np.arange(frames) % 32749 + 1) / 32768
    return np.repeat(numbers[:, None], channels, axis=1).astype(np.float32)


def clicks(seconds: float, every_s: float = 0.5, rate: int = 48_000, channels: int = 2, level: float = 0.9) -> Samples:
    """Single-frame clicks on silence, the first at `every_s` / 2."""
    out = np.zeros((round(seconds * rate), channels), np.float32)
    out[round(every_s * rate / 2) :: round(every_s * rate)] = level
    return out
