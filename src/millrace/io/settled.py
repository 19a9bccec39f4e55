"""Waits until a peer that sends in bursts has paused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millrace.absent import nothing
from millrace.io.clock import now_ns
from millrace.units import NS_PER_MS, HostNs

MOST_NS: HostNs = 8 * NS_PER_MS


# A pass of the event loop reads once from each socket that has something to be read. So a whole pass in which nothing
# came means that the socket is empty; no timer could tell that so soon. `_look` runs once in each pass, before the
# sockets are read.
class Settled:
    """Calls `then` as soon as nothing has come for a pass of the event loop, after `MOST_NS` at the latest."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._came = False
        self._since_ns: HostNs = 0
        self._handle: asyncio.Handle | None = None

    def came(self) -> None:
        """Something has come, and more may follow."""
        self._came = True
        if self._handle is None:
            self._since_ns = now_ns()
            self._again()

    def _again(self) -> None:
        self._handle = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        if self._came and now_ns() - self._since_ns < MOST_NS:
            self._came = False
            self._again()
            return
        self._handle, self._came = None, False
        self._then()

    def close(self) -> None:
        """Never call `then` again. Whoever owns this is often what it belongs to: a cycle (daemon/collector.py)."""
        self._then = nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
