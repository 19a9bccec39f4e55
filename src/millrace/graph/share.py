"""A share: what one guest may take of the worker's time at a stretch, before the others have had theirs.

One thread serves all guests, so nobody is interrupted: work for a guest is done in small steps. Where the share
is used up after one of them, the work goes on in the next round. The clock is handed down. That of a graph is the
processor's: a thread that waited for the processor has used nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.units import NS_PER_MS, Frames, HostNs

Clock = Callable[[], HostNs]
SLICE_NS: HostNs = 2 * NS_PER_MS
RECENT_NS: HostNs = 200 * NS_PER_MS
LIGHT_NS: HostNs = 25 * NS_PER_MS
"""A guest that has used less than this lately takes no other's time, and may catch up in larger pieces."""
HOPE_NS: HostNs = 150 * NS_PER_MS
"""A graph that is cut short, and makes no progress while the thread works so long, never will."""


class Slice:
    """What may be used in a round, by one clock."""

    __slots__ = ("_entered", "clock", "left_ns", "slice_ns", "used_ns")

    def __init__(self, clock: Clock = lambda: 0, slice_ns: HostNs = SLICE_NS) -> None:
        self.clock = clock
        self.slice_ns = self.left_ns = slice_ns
        self.used_ns: HostNs = 0
        """Since the beginning."""
        self._entered: HostNs = 0

    def renew(self, slice_ns: HostNs = 0) -> None:
        """A new round: the whole slice again, or another."""
        self.left_ns = slice_ns or self.slice_ns

    def enter(self) -> None:
        """Work for the guest begins."""
        self._entered = self.clock()

    def over(self) -> bool:
        """Whether the work that was begun must go on in another round."""
        return self.clock() - self._entered >= self.left_ns

    def leave(self) -> HostNs:
        """Work for the guest ends, for now; returns how long it took."""
        used = self.clock() - self._entered
        self.left_ns, self.used_ns = self.left_ns - used, self.used_ns + used
        return used


class Share(Slice):
    """One graph's share of a round. `clock` tells what the thread has worked."""

    __slots__ = ("_at_ns", "_entered_wall", "_wall", "heavy", "recent_ns")

    def __init__(self, clock: Clock = lambda: 0, wall: Clock | None = None, slice_ns: HostNs = SLICE_NS) -> None:
        super().__init__(clock, slice_ns)
        # Asking what a thread has worked takes a system call; no more than has passed by a clock on the wall.
        self._wall = wall or clock
        self.recent_ns: HostNs = 0
        """Lately: the one that has used least is served first."""
        self.heavy = False
        """Whether it has lately used about as much as others that have something to do now, or more."""
        self._entered_wall = self._at_ns = 0

    @property
    def light(self) -> bool:
        """Whether it has used little lately; of one that has just come that is not known."""
        return self.used_ns > 0 and self.recent_ns < LIGHT_NS

    def enter(self) -> None:
        """See `Slice`."""
        self._entered, self._entered_wall = self.clock(), self._wall()

    def over(self) -> bool:
        """See `Slice`."""
        return self._wall() - self._entered_wall >= self.left_ns and super().over()

    def begin(self, light_ns: HostNs) -> None:
        """A new round, and work in it: the whole slice again, or `light_ns` if it has used little lately."""
        self.left_ns = light_ns if self.light else self.slice_ns
        self._entered, self._entered_wall = self.clock(), self._wall()

    def ended(self, now_ns: HostNs) -> HostNs:
        """As `leave`, at that time."""
        used = self.clock() - self._entered
        self.left_ns, self.used_ns = self.left_ns - used, self.used_ns + used
        # A leaky sum with the time constant RECENT_NS: a guest that works all the time stays near what it uses in so
        # long, one long cycle is soon forgotten, and of a guest that rested so long nothing is held.
        passed, self._at_ns = now_ns - self._at_ns, now_ns
        self.recent_ns += used - self.recent_ns * min(passed, RECENT_NS) // RECENT_NS
        return used


class Lag:
    """Whether a graph that is cut short only has to catch up, or gets no nearer however much it works.

    That is so for those that work most, in a thread that had the processor: the others are late because of these, and
    all are late where the machine gives the thread no time.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._since: tuple[HostNs, HostNs, Frames] | None = None

    @property
    def cut(self) -> bool:
        """Whether it has been cut short since it last was where it should be, and not for others."""
        return self._since is not None and self._share.heavy and not self._share.light

    def caught_up(self) -> None:
        """It is where it should be."""
        self._since = None

    def hopeless(self, now_ns: HostNs, behind: Frames) -> bool:
        """It was cut short, so far behind: whether it had better leave that out."""
        worked_ns = self._share.clock()
        since_ns, worked_then_ns, behind_then = self._since or (now_ns, worked_ns, behind)
        if self._since is not None and worked_ns - worked_then_ns < HOPE_NS:
            return False
        self._since = now_ns, worked_ns, behind
        # The thread had the processor for more than half of the time, and this graph is one of those that used it: if
        # it is no nearer than before, more time will not help, and leaving sound out is the only way back to now.
        busy = (worked_ns - worked_then_ns) * 2 > now_ns - since_ns > 0
        if busy and self._share.heavy and not self._share.light and behind >= behind_then:
            self._since = None
            return True
        return False
