"""Meters that produce one frame per period of a low rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import Frames


@dataclass(slots=True)
class MeterState:
    """The period that a meter has begun, as a value."""

    fill: float = 0.0
    frames: Frames = 0
    gathered: bytes = b""
    """Its peaks or sums by channel, as float32; set when it is frozen."""


class PeriodMeter:
    """Produces one frame per 1/rate second: the peak magnitude, for volume meters, or the mean.

    It starts with a new `state`, or continues from that of another with the same rates.
    """

    def __init__(self, rate_in: int, rate_out: int, peaks: bool, state: MeterState) -> None:
        self._step = rate_in / max(1, rate_out)
        self._peaks = peaks
        self._fill, self._frames = state.fill, state.frames
        self._gathered: Samples | None = np.frombuffer(state.gathered, np.float32) if state.frames else None

    def freeze(self) -> MeterState:
        """Its state, from which another can continue."""
        return MeterState(self._fill, self._frames, b"" if self._gathered is None else self._gathered.tobytes())

    def feed(self, block: Samples) -> Samples:
        """Feed (frames, channels); return the completed periods, one frame each."""
        out: list[Samples] = []
        at = 0
        while at < len(block):
            take = min(len(block) - at, max(1, round(self._step - self._fill)))
            self._gather(block[at : at + take])
            self._fill += take
            at += take
            if self._fill >= self._step - 0.5:
                assert self._gathered is not None
                out.append(self._gathered if self._peaks else self._gathered / np.float32(self._frames))
                self._fill -= self._step
                self._gathered, self._frames = None, 0
        return np.array(out, np.float32).reshape(len(out), block.shape[1])

    def _gather(self, part: Samples) -> None:
        own: Samples = np.abs(part).max(axis=0) if self._peaks else part.sum(axis=0)
        self._frames += len(part)
        if self._gathered is None:
            self._gathered = own
        else:
            self._gathered = np.maximum(self._gathered, own) if self._peaks else self._gathered + own
