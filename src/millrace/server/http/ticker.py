"""The work of each second for listeners and viewers. Whoever rests is left alone until something is sent to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from millrace.errors import bare
from millrace.io.clock import now_ns
from millrace.io.turns import Stretch
from millrace.units import HostNs

log = logging.getLogger("millrace.server")

TICK_S = 1.0


class Ticked(Protocol):
    """A session with something to do about once a second."""

    def tick(self, now_ns: HostNs) -> bool:
        """Do it. Returns whether there is nothing to do until something is sent; an error ends the session."""
        ...


T = TypeVar("T", bound=Ticked)


# Most of a thousand listeners wait for sound, and only to look at each once a second would be a large part of the work
# of a daemon that plays nothing.
class Ticker(Generic[T]):
    """Ticks sessions once a second, each known by a number. One task, as long as there are any."""

    def __init__(self, failed: Callable[[T, Exception], None]) -> None:
        """`failed` is told the session whose tick raised, and the error."""
        self._failed = failed
        self._sessions: dict[int, T] = {}
        self._awake: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def waker(self, number: int) -> Callable[[], None]:
        """What is to be called whenever something is sent to the session of that number, or its sound has failed."""
        return partial(self._wake, number)

    # During its handshake something may be sent to one that never enters.
    def _wake(self, number: int) -> None:
        if number in self._sessions:
            self._awake.add(number)

    def enter(self, number: int, session: T) -> None:
        """Tick a session from now on."""
        self._sessions[number] = session
        self._awake.add(number)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def leave(self, number: int) -> None:
        """A session has ended."""
        self._sessions.pop(number, None)
        self._awake.discard(number)

    async def _run(self) -> None:
        while self._sessions:
            await asyncio.sleep(TICK_S)
            stretch = Stretch()
            for number in list(self._awake):
                if stretch.over():
                    await asyncio.sleep(0)
                try:
                    self._tick(number)
                except Exception:
                    # A bug at one session's end must not be the end of all the others' ticks.
                    log.exception("internal error at the end of a session")
        self._task = None

    def _tick(self, number: int) -> None:
        session = self._sessions.get(number)
        if session is None:
            # It left while others were ticked.
            return
        try:
            if session.tick(now_ns()):
                self._awake.discard(number)
        except Exception as error:
            self._failed(session, error)
            # It was raised in a frame that holds it, and the session may keep it: a cycle (daemon/collector.py).
            bare(error)
