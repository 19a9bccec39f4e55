"""Persistent changes: each is on disk before it is acknowledged.

A change that can't be saved is not made, and one that can't be made is not saved: a refusal has no effect. Changes are
serialized by `turn`, so that none refers to a guest, sink or token that another has just removed. Of several changes
by the same principal only the first queues for `turn` (see `change`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from millrace.control.store import Store
from millrace.control.storefile import NotSaved
from millrace.errors import MillraceError
from millrace.io.clock import now_ns
from millrace.units import HostNs

log = logging.getLogger("millrace.store")
T = TypeVar("T")


class Stopping(NotSaved):
    """The daemon is stopping, and makes no more changes."""

    word = "busy"

    def __init__(self) -> None:
        super().__init__("the daemon is stopping; try again once it runs")


# The lock belongs to a task and not to a block, so that a command can hold it around the whole of a change, from its
# first check on, and the change itself, which may also be made without a command, takes it again at no cost.
class Turn:
    """Whose change is being made. The task that has the turn may enter it again."""

    def __init__(self) -> None:
        self.ended = False
        """Whether no more changes are made."""
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._depth = 0

    @property
    def mine(self) -> bool:
        """Whether the running task has it."""
        return self._holder is not None and self._holder is asyncio.current_task()

    async def take(self) -> None:
        """Wait for the turn; Stopping if no more changes are made."""
        await self._lock.acquire()
        self._holder = asyncio.current_task()
        if self.ended:
            self.leave()
            raise Stopping

    def hand_to(self, task: asyncio.Task[Any]) -> None:
        """Give the turn that the running task has to another task, until that leaves."""
        self._holder, self._depth = task, 1

    def leave(self) -> None:
        """Let the next change be made, even inside a block that entered: what is left to do needs no turn."""
        if self.mine:
            self._holder, self._depth = None, 0
            self._lock.release()

    async def over(self) -> None:
        """Wait until nobody has it, and let nobody have it again."""
        self.ended = True
        async with self._lock:
            pass

    async def __aenter__(self) -> None:
        if not self.mine:
            await self.take()
        self._depth += 1

    async def __aexit__(self, *_: object) -> None:
        if self.mine:
            self._depth -= 1
            if self._depth == 0:
                self.leave()


def _untold(trouble: str, asked_ns: HostNs) -> None:
    """Ignore failures; the requester gets the exception anyway."""


class StoreWriter:
    """Runs the store in a thread of its own, in order, so that a slow disk never delays sound."""

    def __init__(self, store: Store, not_kept: Callable[[str, HostNs], None] = _untold) -> None:
        """`not_kept` is called when a change can't be saved, with the reason and the time of the request."""
        self.store, self._not_kept = store, not_kept
        self.turn = Turn()
        """Held for the whole of a change, from checking the current state until it is made."""
        self._own: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[Any]] = set()
        self._thread = ThreadPoolExecutor(1, "millrace-store")

    def _only(self, who: Hashable) -> asyncio.Lock:
        # The weak dictionary keeps the lock only while somebody waits for it or holds it.
        return self._own.setdefault(who, asyncio.Lock())

    # A requester may go at any moment (an HTTP client that disconnects, a shutdown), and cancelling it would stop the
    # change between the disk and memory. So a change is a task of its own, which only waiting for the turn can prevent.
    async def change(self, who: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run all of `make` in a turn. At most one change of `who` queues for it, so that a flood can't starve others.

        Once begun it is completed, even if cancelled here.
        """
        if self.turn.mine:
            return await make()
        async with self._only(who):
            await self.turn.take()
            task = asyncio.get_running_loop().create_task(self._whole(make))
            self.turn.hand_to(task)
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                task.add_done_callback(_unattended)
                raise
        return task.result()

    async def _whole(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await make()
        finally:
            self.turn.leave()

    async def end(self) -> None:
        """Refuse further changes, and finish those that have begun."""
        await self.turn.over()
        while self._running:
            await asyncio.wait(self._running)

    # One thread runs the changes in the order in which they were requested, so the last value written is the last one
    # requested. Cancelling a caller does not stop what the thread has begun.
    async def write(self, change: Callable[..., T], *args: Any) -> T:
        """Run `change` and return once it is on disk; on failure ConfigError, and nothing is changed.

        NotSaved if the disk or the file is why.
        """
        asked = now_ns()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, change, *args)
        except NotSaved:
            self._not_kept(self.store.trouble, asked)
            raise

    def close(self) -> None:
        """Finish pending work and close the store."""
        self._thread.shutdown(wait=True)
        self.store.close()


def _unattended(change: asyncio.Task[Any]) -> None:
    """A change whose requester has gone is over: log its failure, unless it was a refusal."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, MillraceError):
        log.error("a change failed", exc_info=error)
