"""Runs a session of whole messages over a transport whose writes may block, such as an aiohttp WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from millrace.errors import MillraceError
from millrace.io.timer import TimerRunner
from millrace.units import HostNs
from millrace.wire.contract import Session

Message = str | bytes


# Writing may wait for the peer, so it is done in one task; all other code only sets an event. The session's messages
# are taken when they can be written: those that are queued while a write waits go out after it, and deadlines run on in
# the meantime.
class MessageRunner:
    """Writes from a single task, so in order. `ended` is called once, with the error, if the peer misses a deadline."""

    def __init__(
        self,
        wire: Session[Message, list[Message]],
        write: Callable[[Message], Awaitable[None]],
        ended: Callable[[MillraceError], None],
    ) -> None:
        self._wire, self._write, self._ended = wire, write, ended
        self._over = False
        self._due = asyncio.Event()
        self._timer = TimerRunner(self, asyncio.get_running_loop())

    def flush(self) -> None:
        """The session has received something, or has something to send."""
        self._due.set()
        self._timer.rearm()

    async def run(self) -> None:
        """Write the session's messages until cancelled."""
        self.flush()
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                for message in self._wire.data_to_send():
                    await self._write(message)
        finally:
            self._timer.stop()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: the session's deadline."""
        return None if self._over else self._wire.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        try:
            self._wire.handle_timeout(now_ns)
        except MillraceError as error:
            self._over = True
            self._ended(error)
        else:
            self._due.set()
