"""A share: what one guest may take of the worker's time at a stretch, before the others have had theirs.

One thread serves all guests, so nobody is interrupted: whoever works for a guest does it in small steps, asks after
each whether the share is used up, and if so goes on in the next round. Time is what a clock of the processor
says, which is handed down: a thread that waited for the processor has used nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.units import NS_PER_MS, Frames, HostNs

SLICE_NS: HostNs = 3 * NS_PER_MS
RECENT_NS: HostNs = 200 * NS_PER_MS
HOPE_NS: HostNs = 200 * NS_PER_MS
"""Who is cut short and gets no nearer in this time never will."""
STALL_NS: HostNs = 100 * NS_PER_MS
"""Nobody had a turn for so long: the machine stood still."""


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


class Lag:
    """Whether a graph that is cut short only has to catch up, or gets no nearer however long it goes on."""

    def __init__(self) -> None:
        self._since_ns: HostNs = 0
        self._last_ns: HostNs = 0
        self._behind: Frames | None = None

    def caught_up(self) -> None:
        """It is where it should be."""
        self._behind = None

    def hopeless(self, now_ns: HostNs, behind: Frames) -> bool:
        """It was cut short, so far behind: whether it had better leave that out."""
        # Further behind after a stall of the machine is not its own doing.
        stalled, self._last_ns = now_ns - self._last_ns > STALL_NS, now_ns
        if self._behind is None or stalled:
            self._since_ns, self._behind = now_ns, behind
        elif now_ns - self._since_ns >= HOPE_NS:
            if behind >= self._behind:
                self._behind = None
                return True
            self._since_ns, self._behind = now_ns, behind
        return False
