"""The relation between two clocks, as a value."""

from __future__ import annotations

import msgspec

from millrace.units import HostNs


# Both directions are computed from the same three numbers, so going there and back gives the same instant but for
# rounding.
class ClockMap(msgspec.Struct, frozen=True):
    """y = y0 + (x − x0) × slope, in integer nanoseconds.

    The intercept is kept as a pair of instants: nanoseconds since boot exceed a float's 53 bits once they are
    multiplied.
    """

    slope: float = 1.0
    x0_ns: HostNs = 0
    y0_ns: HostNs = 0

    def forward(self, x_ns: HostNs) -> HostNs:
        """From the first clock to the second."""
        return self.y0_ns + round((x_ns - self.x0_ns) * self.slope)

    def inverse(self, y_ns: HostNs) -> HostNs:
        """From the second clock to the first."""
        return self.x0_ns + round((y_ns - self.y0_ns) / self.slope)

    @property
    def ppm(self) -> float:
        """How much faster the first clock runs; + means that it gains."""
        return (1.0 / self.slope - 1.0) * 1e6
