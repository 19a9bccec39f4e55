"""A share: what one guest may take of the worker's time at a stretch, before the others have had theirs.

One thread serves all guests, so nobody is interrupted: whoever works for a guest does it in small steps, asks after
each whether the share is used up, and if so goes on in the next round. Time is what a clock of the processor
says, which is handed down: a thread that waited for the processor has used nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.units import NS_PER_MS, HostNs

SLICE_NS: HostNs = 3 * NS_PER_MS
RECENT_NS: HostNs = 200 * NS_PER_MS


class Share:
    """One guest's share of a round."""

    __slots__ = ("_at_ns", "_clock", "_entered", "left_ns", "recent_ns", "slice_ns", "used_ns")

    def __init__(self, clock: Callable[[], HostNs] = lambda: 0, slice_ns: HostNs = SLICE_NS) -> None:
        self._clock = clock
        self.slice_ns = self.left_ns = slice_ns
        self.used_ns: HostNs = 0
        """Since the beginning."""
        self.recent_ns: HostNs = 0
        """Lately: who has used least is served first."""
        self._entered = self._at_ns = 0

    def renew(self) -> None:
        """A new round: the whole slice again."""
        self.left_ns = self.slice_ns

    def enter(self) -> None:
        """Work for the guest begins."""
        self._entered = self._clock()

    def over(self) -> bool:
        """Whether the work that was begun must go on in another round."""
        return self._clock() - self._entered >= self.left_ns

    def leave(self, now_ns: HostNs) -> HostNs:
        """Work for the guest ends, for now; returns how long it took."""
        used = self._clock() - self._entered
        self.left_ns -= used
        self.used_ns += used
        passed, self._at_ns = now_ns - self._at_ns, now_ns
        self.recent_ns += used - self.recent_ns * min(passed, RECENT_NS) // RECENT_NS
        return used
