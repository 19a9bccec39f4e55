"""Feeds another protocol in turns, so that parsing HTTP and WebSockets is charged to the sender."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from millrace.absent import nothing
from millrace.io.turns import Turns

STEP_BYTES = 4 * 1024
"""How much is read and parsed in one step: several hundred of the smallest messages."""


class Metered(asyncio.BufferedProtocol):
    """Passes data on to `inner` a step at a time, charged to `turns`; see `charge` for clients that are identified."""

    first = False
    _buffer = memoryview(bytearray(STEP_BYTES))

    def __init__(self, inner: asyncio.Protocol, turns: Turns) -> None:
        self._inner, self.turns = inner, turns
        self._relieved: Callable[[], None] = nothing
        """Called whenever the connection has room again after it was full."""
        self._transport: asyncio.Transport | None = None
        self._kept = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        data = bytes(self._buffer[:nbytes])
        if self._kept or not self.turns.ready():
            self._kept += data
            if self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()
            self.turns.wait(self)
        else:
            with self.turns:
                self._inner.data_received(data)

    # Called within a round of the guest, which charges it. Data that waited goes first, then reading is resumed; the
    # inner protocol may have paused the transport meanwhile for its own reasons, and then it is left paused.
    def work(self) -> bool:
        """See `Worker`."""
        kept, self._kept = self._kept, b""
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        if kept:
            self._inner.data_received(kept)
        # aiohttp pauses the transport too; in that case it also resumes it.
        paused = any(getattr(self._inner, name, False) for name in ("_reading_paused", "_buffer_paused"))
        if not transport.is_closing() and not paused:
            transport.resume_reading()
        return True

    def eof_received(self) -> bool | None:
        """See asyncio."""
        # Outside of any turn: the protocol must get its last data before the end of file.
        if self._kept:
            kept, self._kept = self._kept, b""
            self._inner.data_received(kept)
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._inner.resume_writing()
        self._relieved()

    def when_relieved(self, then: Callable[[], None]) -> None:
        """See the function."""
        self._relieved = then

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._transport, self._relieved = None, nothing
        self._inner.connection_lost(exc)


def charge(transport: asyncio.Transport | None, turns: Turns) -> None:
    """Charge what this connection receives from now on to `turns`."""
    protocol = transport.get_protocol() if transport is not None else None
    if isinstance(protocol, Metered):
        protocol.turns = turns


def when_relieved(transport: asyncio.Transport, then: Callable[[], None]) -> None:
    """Call `then` whenever this connection has room again after it was full, until it is lost."""
    protocol = transport.get_protocol()
    if isinstance(protocol, Metered):
        protocol.when_relieved(then)
