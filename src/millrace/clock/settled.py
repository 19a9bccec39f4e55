"""Whether an estimate that is reported again and again has come to rest."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs

WITHIN_PPM = 50.0
FOR_NS: HostNs = 10 * NS_PER_S


class Settling:
    """A rate in ppm. It has settled once all values of the last `FOR_NS` or longer lie within `WITHIN_PPM`.

    A value outside begins anew: it may be the first of the right ones.
    """

    def __init__(self) -> None:
        self._since_ns: HostNs | None = None
        self._now_ns: HostNs = 0
        self._low = self._high = 0.0

    def observe(self, ppm: float | None, now_ns: HostNs) -> None:
        """The present estimate, or that there is none."""
        self._now_ns = now_ns
        if ppm is None:
            self._since_ns = None
            return
        self._low, self._high = min(self._low, ppm), max(self._high, ppm)
        if self._since_ns is None or self._high - self._low > WITHIN_PPM:
            self._since_ns, self._low, self._high = now_ns, ppm, ppm

    @property
    def settled(self) -> bool:
        """Whether the last estimate can be told as a figure."""
        return self._since_ns is not None and self._now_ns - self._since_ns >= FOR_NS
