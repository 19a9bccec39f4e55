"""A second-order delay-locked loop: tracks a phase and its rate through noise."""

from __future__ import annotations

import math


class Dll:
    """Phase and rate of a line, filtered with a given bandwidth.

    Each update predicts φ += ρ·dt, takes the error e = measured − φ, and corrects φ += b·e, ρ += c·e/dt.
    The error then obeys, per step, z² + (b + c − 2)·z + (1 − b) = 0. Compared with the poles
    z = exp(s·dt), s² + 2ζω·s + ω² = 0, for small ω·dt this gives b + c − 2 = −2 + 2ζω·dt and
    1 − b = 1 − 2ζω·dt + (ω·dt)², hence to first order

        b = 2ζω·dt,   c = (ω·dt)²,   ω = 2π × bandwidth.

    ζ = 1/√2 (b = √2·ω·dt) gives the flattest response; the constants are those of F. Adriaensen, "Using a DLL to filter
    time" (LAC 2005). Noise of variance σ² per update leaves about σ²·b·3/4 in φ, so a tenth of the bandwidth means a
    third of the noise and ten times the settling time. A rate that itself changes by a per second is tracked with a
    constant phase error of a/ω².
    """

    __slots__ = ("phase", "rate")

    def __init__(self, phase: float = 0.0, rate: float = 0.0) -> None:
        self.phase, self.rate = phase, rate

    # `dt_s` must be positive: the rate's correction is divided by it. The coefficients follow from the actual `dt_s` of
    # each update rather than from a nominal one, so updates may be irregular.
    def update(self, measured: float, dt_s: float, bandwidth_hz: float) -> float:
        """The phase was measured `dt_s` after the last update; return the error. The unit of phase is arbitrary."""
        # Above ω·dt = 0.7 the first-order constants would leave the loop's region of stability.
        step = min(2 * math.pi * bandwidth_hz * dt_s, 0.7)
        self.phase += self.rate * dt_s
        error = measured - self.phase
        self.phase += math.sqrt(2) * step * error
        self.rate += step * step * error / dt_s
        return error
