"""Changes that outlive the daemon: each is on disk first, and made then.

What can't be kept is not made, and what can't be made is not kept: a refusal has no effect. Changes are made one at a
time (`turn`), so that none is about a guest, sink or token that another has just taken away. Of what one principal
asks for at a time, only the first waits among the others' (`turn_of`).
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
    """Nobody asks what was not kept, but who asked for it."""


class StoreWriter:
    """Runs the store's work in one thread of its own, in order: a disk that is slow holds up no sound."""

    def __init__(self, store: Store, not_kept: Callable[[str, HostNs], None] = _untold) -> None:
        """`not_kept` hears why something was not, and when that was asked for."""
        self.store, self._not_kept = store, not_kept
        self.turn = asyncio.Lock()
        """Held while a change is made, from looking at what is there until it is made."""
        self._own: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._thread = ThreadPoolExecutor(1, "millrace-store")

    @asynccontextmanager
    async def turn_of(self, who: str) -> AsyncIterator[None]:
        """The same, for one of whom only the first waits for it: however many they ask for, others come in between."""
        # It lasts as long as somebody waits for it or holds it.
        own = self._own.setdefault(who, asyncio.Lock())
        async with own, self.turn:
            yield

    async def write(self, change: Callable[..., T], *args: Any) -> T:
        """Do it, and come back when it is on disk. ConfigError where it can't be; then nothing is changed."""
        asked = now_ns()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, change, *args)
        except ConfigError:
            if self.store.trouble:
                self._not_kept(self.store.trouble, asked)
            raise

    @asynccontextmanager
    async def keeping(self, change: Callable[[], object], otherwise: Callable[[], object]) -> AsyncIterator[None]:
        """Keep a change, which the block then makes; if it can't, `otherwise` is kept instead."""
        await self.write(change)
        try:
            yield
        except BaseException:
            await self.write(otherwise)
            raise

    def close(self) -> None:
        """Finish what is waiting."""
        self._thread.shutdown(wait=True)
        self.store.close()
