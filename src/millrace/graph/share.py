"""A share: how long the worker may serve one guest at a stretch before the others get their turn.

One thread serves all guests, and nothing is preempted: work for a guest is done in small steps. If the share is used up
after a step, the work continues in the next round. The clock is passed in. For graphs it is the thread's processor
time, so a thread that was waiting for a processor has used nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.units import NS_PER_MS, Frames, HostNs

Clock = Callable[[], HostNs]
SLICE_NS: HostNs = 2 * NS_PER_MS
RECENT_NS: HostNs = 200 * NS_PER_MS
SHORT_NS: HostNs = NS_PER_MS // 2
"""Work that took no longer than this is charged as if it had had the processor all that time."""
LIGHT_NS: HostNs = 25 * NS_PER_MS
"""A guest that used less than this recently takes no time from others, and may catch up in larger pieces."""
NO_PROGRESS_NS: HostNs = 150 * NS_PER_MS
"""A graph that is cut short and makes no progress while the thread works for this long never will."""


# What was used is booked when work ends (`leave`), so in between `left_ns` is what was left when it began; `over`
# compares it with the time since. It is asked between steps only, so a step is never interrupted, and a slice is
# overdrawn by at most one step.
class Slice:
    """The time that may be used in a round, by one clock."""

    __slots__ = ("_entered", "clock", "left_ns", "slice_ns", "used_ns")

    def __init__(self, clock: Clock = lambda: 0, slice_ns: HostNs = SLICE_NS) -> None:
        self.clock = clock
        self.slice_ns = self.left_ns = slice_ns
        self.used_ns: HostNs = 0
        """Since the beginning."""
        self._entered: HostNs = 0

    def renew(self, slice_ns: HostNs = 0) -> None:
        """Begin a new round, with the whole slice again or another one."""
        self.left_ns = slice_ns or self.slice_ns

    def enter(self) -> None:
        """Work for the guest begins."""
        self._entered = self.clock()

    def over(self) -> bool:
        """Whether the current work must continue in another round."""
        return self.clock() - self._entered >= self.left_ns

    def leave(self) -> HostNs:
        """Work for the guest ends for now; return how long it took."""
        used = self.clock() - self._entered
        self.left_ns, self.used_ns = self.left_ns - used, self.used_ns + used
        return used


class Share(Slice):
    """One graph's share of a round. `clock` measures how long the thread has worked."""

    __slots__ = ("_at_ns", "_entered_wall", "_wall", "heavy", "recent_ns")

    def __init__(self, clock: Clock = lambda: 0, wall: Clock | None = None, slice_ns: HostNs = SLICE_NS) -> None:
        super().__init__(clock, slice_ns)
        # Reading a thread's processor time is a system call. It can't exceed the wall time that passed, so the wall
        # clock is checked first.
        self._wall = wall or clock
        self.recent_ns: HostNs = 0
        """Time used recently (a leaky sum): the graph that used least runs first."""
        self.heavy = False
        """Whether it recently used at least about as much as the others that are due now."""
        self._entered_wall = self._at_ns = 0

    @property
    def light(self) -> bool:
        """Whether it used little recently; unknown, hence False, for a graph that has just been added."""
        return self.used_ns > 0 and self.recent_ns < LIGHT_NS

    def enter(self) -> None:
        """See `Slice`."""
        self._entered, self._entered_wall = self.clock(), self._wall()

    def over(self) -> bool:
        """See `Slice`."""
        # Both clocks must agree; the cheap one is asked first and nearly always says no.
        return self._wall() - self._entered_wall >= self.left_ns and super().over()

    def begin(self, light_ns: HostNs, clock_ns: HostNs) -> None:
        """Begin a new round and work in it, with the whole slice again, or `light_ns` if it used little recently.

        `clock_ns` is what the clock says.
        """
        self.left_ns = light_ns if self.light else self.slice_ns
        self._entered, self._entered_wall = clock_ns, self._wall()

    def ended(self, now_ns: HostNs) -> HostNs:
        """As `leave`, at the given time."""
        used = self._wall() - self._entered_wall
        if used > SHORT_NS:
            used = self.clock() - self._entered
        self.left_ns, self.used_ns = self.left_ns - used, self.used_ns + used
        # A leaky sum with the time constant RECENT_NS: a guest that works all the time stays near what it uses in that
        # time, one long cycle is soon forgotten, and nothing is left after a rest of that length.
        passed, self._at_ns = now_ns - self._at_ns, now_ns
        self.recent_ns += used - self.recent_ns * min(passed, RECENT_NS) // RECENT_NS
        return used


class Lag:
    """Decides whether a graph that is cut short will catch up, or gets no nearer however long it works.

    Only the graphs that work most, in a thread that had the processor, can be hopeless. The others are late because of
    those, and all are late if the machine does not schedule the thread.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._since: tuple[HostNs, HostNs, Frames] | None = None

    @property
    def cut(self) -> bool:
        """Whether it has been cut short since it last was on time, and is itself the cause."""
        return self._since is not None and self._share.heavy and not self._share.light

    def caught_up(self) -> None:
        """The graph is on time."""
        self._since = None

    def hopeless(self, now_ns: HostNs, behind: Frames) -> bool:
        """The graph was cut short `behind` frames late: whether it should skip them."""
        worked_ns = self._share.clock()
        since_ns, worked_then_ns, behind_then = self._since or (now_ns, worked_ns, behind)
        if self._since is not None and worked_ns - worked_then_ns < NO_PROGRESS_NS:
            return False
        self._since = now_ns, worked_ns, behind
        # The thread had the processor for more than half of the time, and this graph is one of those that used it. If
        # it is no nearer than before, more time will not help: skipping sound is the only way back to the present.
        busy = (worked_ns - worked_then_ns) * 2 > now_ns - since_ns > 0
        if busy and self._share.heavy and not self._share.light and behind >= behind_then:
            self._since = None
            return True
        return False
