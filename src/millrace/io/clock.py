"""The one place that reads time."""

from __future__ import annotations

import time

from millrace.units import HostNs


def now_ns() -> HostNs:
    """Monotonic host time."""
    return time.monotonic_ns()


def wall_ns() -> int:
    """Wall-clock time, for logs and for protocols whose messages carry it."""
    return time.time_ns()


def worked_ns() -> HostNs:
    """What this thread has computed: time in which it waited, for the processor too, does not count."""
    return time.thread_time_ns()
