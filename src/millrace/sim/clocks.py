"""Clocks that are deliberately wrong: a constant error, wander, jumps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from millrace.units import NS_PER_S

Times = NDArray[np.float64]
WANDER_PERIOD_S = 3600.0


@dataclass(frozen=True, slots=True)
class SimClock:
    """Reads t × (1 + ppm) plus a slow wander of at most `wander_ppm`, plus `jumps` of (at, by) ns.

    The wander models temperature: a sine with a period of an hour, and its own phase.
    """

    ppm: float = 0.0
    wander_ppm: float = 0.0
    phase: float = 0.0
    jumps: tuple[tuple[float, float], ...] = field(default=())

    def read(self, true_ns: Times) -> Times:
        """What the clock shows at true times, in ns since the start."""
        w = 2 * math.pi / (WANDER_PERIOD_S * NS_PER_S)
        swing = self.wander_ppm * 1e-6 / w
        shown = true_ns * (1 + self.ppm * 1e-6) + swing * (np.sin(w * true_ns + self.phase) - math.sin(self.phase))
        for at, by in self.jumps:
            shown = shown + by * (true_ns >= at)
        return shown

    def rate(self, true_ns: Times) -> Times:
        """Its rate at true times; 1 is correct."""
        w = 2 * math.pi / (WANDER_PERIOD_S * NS_PER_S)
        return 1 + self.ppm * 1e-6 + self.wander_ppm * 1e-6 * np.cos(w * true_ns + self.phase)

    # Newton's method. The clock's rate is within parts per million of 1, so each step divides the error by about a
    # million, and four exhaust double precision.
    def when(self, shown_ns: Times) -> Times:
        """The true times at which it shows these; not defined for clocks with jumps."""
        assert not self.jumps
        true = shown_ns / (1 + self.ppm * 1e-6)
        for _ in range(4):
            true = true - (self.read(true) - shown_ns) / self.rate(true)
        return true
