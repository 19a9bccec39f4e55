"""One timer per core: it fires at the core's next deadline."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from millrace.io.clock import now_ns
from millrace.io.timerfd import TimerFd
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.contract import Timed

log = logging.getLogger("millrace.io")

AFTER_FAILURE_S = 0.1
OVERDUE_NS = 100 * NS_PER_MS
READ_FIRST_S = 0.02
"""A deadline that is overdue by more than `OVERDUE_NS` is put off by this, so that what has arrived is read first."""


class RunObserver(Protocol):
    """Observes the runs of a core."""

    strain_ns: HostNs

    def ran(self, began_ns: HostNs) -> None:
        """The core was run."""
        ...

    def strain(self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs) -> None:
        """A run began more than `strain_ns` late, or took longer than that; the previous one ended at `before_ns`."""
        ...


# A daemon that was stopped for a while finds its deadlines over and its peers' messages unread. libuv runs timers
# before it reads, so every peer would be taken for silent. A core whose lateness is observed (`observer`) runs at once.
class TimerRunner:
    """Keeps one timer armed for a `Timed` core. A core whose constructor needs `rearm` is attached later by `drive`."""

    def __init__(
        self, core: Timed | None = None, loop: asyncio.AbstractEventLoop | None = None,
        observer: RunObserver | None = None,
    ) -> None:  # fmt: skip
        self._core, self._loop, self._observer = core, loop, observer
        self._exact: TimerFd | None = None
        self._handle: asyncio.Handle | TimerFd | None = None
        self._ended_at: HostNs = 0
        self._armed_for: HostNs | None = None
        self._armed_at: HostNs = 0
        self._put_off: HostNs | None = None
        """The deadline that was put off."""

    def drive(self, core: Timed, loop: asyncio.AbstractEventLoop, exact: bool = False) -> None:
        """Run this core from now on, in that loop; `exact`: by a kernel timer of its own, where there is one."""
        self._core, self._loop = core, loop
        if exact:
            try:
                self._exact = TimerFd(loop)
            except OSError as error:
                log.info("cycles begin up to 1 ms late on this system: %s", error)
        self.rearm()

    def rearm(self) -> None:
        """Arm the timer again; to be called whenever the core's next deadline may have changed."""
        if self._core is None or self._loop is None:
            return
        deadline = self._core.next_timeout()
        # Called after every packet, and the deadline is nearly always the same: then nothing is done.
        if deadline == self._armed_for and (self._handle is not None or deadline is None):
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for, self._armed_at = deadline, now_ns()
        if deadline is None:
            return
        if self._exact is not None:
            self._handle = self._exact.call_at(deadline, self._fire)
            return
        # libuv's timers count whole milliseconds and round down. Without rounding up here, the timer would fire early
        # at the end of every wait, and be armed again and again.
        delay_ms = max(0, -(-(deadline - self._armed_at) // NS_PER_MS))
        self._handle = self._loop.call_later(delay_ms / 1000, self._fire)

    def _fire(self) -> None:
        self._handle = None
        assert self._core is not None and self._loop is not None
        deadline, began = self._armed_for, now_ns()
        # If the deadline had already passed when it was set (a graph that resumes), count from then.
        late = began - max(deadline, self._armed_at) if deadline is not None else 0
        if self._observer is None and late > OVERDUE_NS and self._put_off != deadline:
            self._put_off = deadline
            self._handle = self._loop.call_later(READ_FIRST_S, self._fire)
            return
        try:
            self._core.handle_timeout(began)
        except Exception:
            # A bug must not stop the timer for good. The pause keeps it from spinning if the deadline stays the same.
            log.exception("internal error in a timer")
            if self._core is None:
                # Stopped before it failed.
                return
            # `_armed_for` stays, so `rearm` with the unchanged deadline leaves this pause alone.
            self._handle = self._loop.call_later(AFTER_FAILURE_S, self._fire)
            return
        before, self._ended_at = self._ended_at, now_ns()
        spent = self._ended_at - began
        self.rearm()
        observer = self._observer
        if observer is not None:
            observer.ran(began)
            if late > observer.strain_ns or spent > observer.strain_ns:
                observer.strain(late, spent, began, before)

    def stop(self) -> None:
        """Disarm for good."""
        # The core owns this timer: a cycle, which only a full collection would free (daemon/collector.py).
        self._core = self._observer = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._exact is not None:
            self._exact.close()
            self._exact = None
