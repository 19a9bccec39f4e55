"""What may come in a time: nothing that is measured in time can come much faster than time passes."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs

FASTER = 1.05
"""A clock as far off as this is still a clock; see RATE_MAX of clock/drift.py."""
AHEAD_NS = 10 * NS_PER_S
"""What a line that stood still may bring at once."""


class Allowance:
    """How much may come now, in ns of it. It grows with time, and is never more than `ahead_ns`."""

    def __init__(self, ahead_ns: HostNs = AHEAD_NS) -> None:
        self._most = self._left = float(ahead_ns)
        self._at_ns: HostNs | None = None

    def passed(self, now_ns: HostNs) -> None:
        """It is now `now_ns`."""
        since_ns = 0 if self._at_ns is None else max(0, now_ns - self._at_ns)
        self._at_ns = now_ns
        self._left = min(self._most, self._left + since_ns * FASTER)

    def take(self, ns: HostNs) -> bool:
        """Take so much, if there is as much."""
        if ns > self._left:
            return False
        self._left -= ns
        return True
