"""A kernel timer (timerfd_create(2)) that an event loop waits for: exact to some microseconds.

libuv's timers, and so uvloop's, count whole milliseconds: what is to happen at a deadline happens 0.6 ms later in the
median. For a cycle of sound of 2.5 ms that is a quarter of it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

from millrace.units import NS_PER_S, HostNs

CLOCK_MONOTONIC = 1
"""The clock of `now_ns`."""
TFD_CLOEXEC, TFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
TFD_TIMER_ABSTIME = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Times(ctypes.Structure):
    """itimerspec(3): the interval, which is not used, and when the timer expires; 0 disarms it."""

    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class TimerFd:
    """One callback at a time, at a time of `now_ns`. `close` must be called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """OSError where the system has no such timers."""
        if not sys.platform.startswith("linux"):
            raise OSError("only Linux has timerfd_create")
        libc = ctypes.CDLL(None, use_errno=True)
        self._set = libc.timerfd_settime
        self._set.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Times), ctypes.c_void_p)
        self._times = _Times()
        self._callback: Callable[[], None] | None = None
        self._loop, self._fd = loop, libc.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self._fd < 0:
            raise _last_error("timerfd_create")
        loop.add_reader(self._fd, self._expired)

    # The expiry need not be read: to set the timer again clears it.
    def call_at(self, deadline_ns: HostNs, callback: Callable[[], None]) -> TimerFd:
        """Call this, instead of what was to be called before, at the deadline; soon if that has passed."""
        self._callback = callback
        self._arm(max(1, deadline_ns))
        return self

    def cancel(self) -> None:
        """Call nothing."""
        self._callback = None
        self._arm(0)

    def close(self) -> None:
        """Call nothing any more, and close the descriptor."""
        self._callback = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self, at_ns: HostNs) -> None:
        if self._fd < 0:
            return
        value = self._times.value
        value.seconds, value.nanoseconds = divmod(at_ns, NS_PER_S)
        if self._set(self._fd, TFD_TIMER_ABSTIME, self._times, None) < 0:
            raise _last_error("timerfd_settime")

    def _expired(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
        if self._callback is None:
            # Otherwise the descriptor would stay readable, and the loop never sleep.
            self._arm(0)


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
