"""How full the line to a viewer is, as far as its rate says: what was sent, less what has left since."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs

LAN_RATE = 96_000_000
"""Bit/s from which a line takes any picture: 400 kB thirty times a second."""
SHARES_PER_S = 30
QUEUED_MAX_NS: HostNs = NS_PER_S // SHARES_PER_S
"""Nothing is sent while more than this is queued: it would only be older when it arrives."""


class Line:
    """One viewer's line, of `rate` bit/s."""

    def __init__(self, rate: int = LAN_RATE) -> None:
        self.rate = rate
        self._empty_ns: HostNs = 0

    @property
    def share(self) -> int:
        """Bytes of one picture of thirty a second."""
        return self.rate // (8 * SHARES_PER_S)

    def sent(self, size: int, now_ns: HostNs) -> None:
        """`size` bytes were queued."""
        self._empty_ns = max(self._empty_ns, now_ns) + size * 8 * NS_PER_S // self.rate

    def queued_ns(self, now_ns: HostNs) -> HostNs:
        """How long what is queued still takes."""
        return max(0, self._empty_ns - now_ns)

    def free_ns(self) -> HostNs:
        """When the next picture may be sent."""
        return self._empty_ns - QUEUED_MAX_NS
