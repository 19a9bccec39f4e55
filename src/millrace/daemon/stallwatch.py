"""A deadline again and again while pictures move, by which it is noticed that the daemon did not run, or was busy.

The cycles of sound show that by themselves. A guest that is only watched has none, and while nothing is painted there
is nothing to be late: then there is no deadline, and an idle daemon is not woken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeAlias

from millrace.guest.guest import Guest
from millrace.io.timer import TimerRunner
from millrace.units import NS_PER_MS, HostNs

INTERVAL_NS = 50 * NS_PER_MS
MOVING = 10
"""Pictures of one encoder in the last second: with fewer, a stall is hardly seen."""
Late: TypeAlias = Callable[[HostNs, HostNs, HostNs, HostNs, HostNs], None]
"""See `Diagnosis.stalled`."""
Spent: TypeAlias = tuple[HostNs, HostNs]
"""This thread's processor time, and how long it has waited for a processor."""


def moving(guests: Iterable[Guest]) -> bool:
    """Whether any guest's pictures move."""
    recents = (group.pictures.counts.recent for guest in guests for group in guest.viewers.groups)
    return any(recent is not None and recent.made >= MOVING for recent in recents)


class StallWatch:
    """The deadlines of one worker, while its pictures move."""

    strain_ns = 100 * NS_PER_MS

    def __init__(self, late: Late, spent: Callable[[], Spent], loop: asyncio.AbstractEventLoop) -> None:
        self._late, self._spent = late, spent
        self._due_ns: HostNs | None = None
        self._now = self._before = spent()
        self._timer = TimerRunner(self, loop, self)

    def second(self, moves: bool, now_ns: HostNs) -> None:
        """Once a second: whether pictures move, so whether to go on."""
        if moves != (self._due_ns is not None):
            self._due_ns = now_ns + INTERVAL_NS if moves else None
            self._now = self._spent()
            self._timer.rearm()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        return self._due_ns

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self._due_ns = now_ns + INTERVAL_NS
        self._before, self._now = self._now, self._spent()

    def ran(self, began_ns: HostNs) -> None:
        """See `RunObserver`: nothing, if it was in time."""

    def strain(self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs) -> None:
        """See `RunObserver`."""
        cpu_ns, waited_ns = (now - before for now, before in zip(self._now, self._before, strict=True))
        self._late(late_ns, began_ns, before_ns, cpu_ns, waited_ns)

    def stop(self) -> None:
        """Disarm for good."""
        self._timer.stop()
