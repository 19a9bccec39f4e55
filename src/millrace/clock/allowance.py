"""A limit on how much media may arrive in a given time: it can't arrive much faster than real time for long."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs

FASTER = 1.05
"""How fast media may arrive in the long run, relative to real time: faster than any clock runs (RATE_MAX, drift.py)."""
AHEAD_NS = 10 * NS_PER_S
"""How much a connection may deliver at once after a stall."""


# A token bucket in media time: it starts full, fills with the local clock, and a packet takes its own duration out of
# it. A sender whose clock is fast by the most that playout follows (3 %, FOLLOW_MAX in pace.py) never empties it, and
# after a stall up to `ahead_ns` may arrive at once. What does not fit is refused whole and costs nothing, so a flood
# can't push the allowance below zero and delay what comes after it. A clock that goes back adds nothing.
class Allowance:
    """How much media may arrive now, in ns of duration. It grows with time, up to `ahead_ns`."""

    def __init__(self, ahead_ns: HostNs = AHEAD_NS) -> None:
        self._most = self._left = float(ahead_ns)
        self._at_ns: HostNs | None = None

    def passed(self, now_ns: HostNs) -> None:
        """Account for the time passed until `now_ns`."""
        since_ns = 0 if self._at_ns is None else max(0, now_ns - self._at_ns)
        self._at_ns = now_ns
        self._left = min(self._most, self._left + since_ns * FASTER)

    def take(self, ns: HostNs) -> bool:
        """Take `ns` if that much is left."""
        if ns > self._left:
            return False
        self._left -= ns
        return True

    def is_full(self, now_ns: HostNs) -> bool:
        """Whether it is as a new one."""
        self.passed(now_ns)
        return self._left >= self._most


class Allowances:
    """An allowance per name, which outlives whatever has that name now."""

    def __init__(self, ahead_ns: HostNs = AHEAD_NS) -> None:
        self._ahead_ns = ahead_ns
        self._of: dict[str, Allowance] = {}

    def __len__(self) -> int:
        return len(self._of)

    def take(self, name: str, ns: HostNs, now_ns: HostNs) -> bool:
        """Take `ns` if that name has so much left."""
        own = self._of.get(name)
        if own is None:
            self._of = {other: one for other, one in self._of.items() if not one.is_full(now_ns)}
            own = self._of[name] = Allowance(self._ahead_ns)
        own.passed(now_ns)
        return own.take(ns)
