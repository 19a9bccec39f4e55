"""A call that is put off again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millrace.absent import nothing


class Later:
    """Calls `then` once, a time after `begin` was called last."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._handle: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        """Whether it is to call."""
        return self._handle is not None

    def begin(self, seconds: float) -> None:
        """Call then, and not before."""
        self._cancel()
        self._handle = asyncio.get_running_loop().call_later(seconds, self._due)

    def _due(self) -> None:
        self._handle = None
        self._then()

    def close(self) -> None:
        """Never call. Whoever owns this is often what `then` belongs to: a cycle (daemon/collector.py)."""
        self._cancel()
        self._then = nothing

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
