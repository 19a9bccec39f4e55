"""Persistent changes: each is written to disk first and then made.

A change that can't be saved is not made, and one that can't be made is not saved: a refusal has no effect. Changes are
serialized by `turn`, so that none refers to a guest, sink or token that another has just removed. Of several changes
by the same principal only the first queues for `turn` (see `turn_of`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from millrace.control.store import Store
from millrace.errors import ConfigError
from millrace.io.clock import now_ns
from millrace.units import HostNs

T = TypeVar("T")


def _untold(trouble: str, asked_ns: HostNs) -> None:
    """Ignore failures; the requester gets the exception anyway."""


class StoreWriter:
    """Runs the store in a thread of its own, in order, so that a slow disk never delays sound."""

    def __init__(self, store: Store, not_kept: Callable[[str, HostNs], None] = _untold) -> None:
        """`not_kept` is called when a change can't be saved, with the reason and the time of the request."""
        self.store, self._not_kept = store, not_kept
        self.turn = asyncio.Lock()
        """Held for the whole of a change, from checking the current state until it is made."""
        self._own: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._thread = ThreadPoolExecutor(1, "millrace-store")

    @asynccontextmanager
    async def turn_of(self, who: str) -> AsyncIterator[None]:
        """Hold `turn`, queueing at most one change of `who` for it, so that a flood of them can't starve others."""
        # The weak dictionary keeps the lock only while somebody waits for it or holds it.
        own = self._own.setdefault(who, asyncio.Lock())
        async with own, self.turn:
            yield

    # One thread runs the changes in the order in which they were requested, so the last value written is the last one
    # requested. Cancelling a caller does not stop a change that the thread has begun. It may then be on disk without
    # having been made, which is why a caller that must not leave it so completes the change in a `finally`
    # (`Worker.remove_sink`).
    async def write(self, change: Callable[..., T], *args: Any) -> T:
        """Run `change` and return once it is on disk; on failure ConfigError, and nothing is changed."""
        asked = now_ns()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, change, *args)
        except ConfigError:
            if self.store.trouble:
                self._not_kept(self.store.trouble, asked)
            raise

    @asynccontextmanager
    async def keeping(self, change: Callable[[], object], otherwise: Callable[[], object]) -> AsyncIterator[None]:
        """Save a change, which the block then makes; if the block fails, save `otherwise` instead."""
        await self.write(change)
        try:
            yield
        except BaseException:
            await self.write(otherwise)
            raise

    def close(self) -> None:
        """Finish pending work and close the store."""
        self._thread.shutdown(wait=True)
        self.store.close()
