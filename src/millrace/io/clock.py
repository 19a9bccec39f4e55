"""The only place that reads the time."""

from __future__ import annotations

import time
from collections.abc import Callable

from millrace.units import HostNs

now_ns: Callable[[], HostNs] = time.monotonic_ns
"""Monotonic host time."""


def wall_ns() -> int:
    """Wall-clock time, for logs and for protocols whose messages carry it."""
    return time.time_ns()


worked_ns: Callable[[], HostNs] = time.thread_time_ns
"""CPU time of this thread. Time spent waiting, including for a processor, does not count."""
