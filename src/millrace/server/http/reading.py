"""Whether a peer reads what it is sent, judged by what it has taken, whichever buffer holds the rest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from millrace.io.runner import unread

READ_S = 30.0
"""Within this time a peer must take some of what it is sent: what `SLOWEST` makes in a quarter of it."""
SLOWEST = 1024
"""Bytes a second."""


# Left alone, the kernel takes megabytes of its own memory for each, which nobody is charged for.
def bound_unread(transport: asyncio.Transport | None, size: int) -> None:
    """Have the kernel hold about so many bytes for the peer to read: the rest waits where it is charged."""
    raw = None if transport is None else transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def unwritten(transport: asyncio.Transport) -> int | None:
    """Bytes that the transport holds; None if it can't say any more, since it was closed twice."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError as error:
        # asyncio's transport of TLS has let go of what it asks (`close` in CPython 3.11's sslproto.py). uvloop's, which
        # the daemon has where there is uvloop, still answers.
        if error.obj is not None:
            raise
        return None


def waiting(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken: those that the transport holds, and those that the kernel holds.

    The kernel takes megabytes at once, so what the transport holds alone says nothing for minutes on a slow line.
    """
    held = unwritten(transport)
    if held is None or (not held and transport.is_closing()):
        return 0
    return held + unread(transport)


def _nothing() -> int:
    return 0


class ReadInTime:
    """TimeoutError if the peer takes too little for READ_S. `written` is how much was written so far, if that grows."""

    # No closure looks again and again: one that refers to itself is a cycle, which would keep the whole connection.
    def __init__(self, transport: asyncio.Transport | None, written: Callable[[], int] = _nothing) -> None:
        self._transport, self._written = transport, written
        self._limit = asyncio.timeout(READ_S)
        self._taken: int | None = None

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._look()

    async def __aexit__(self, *error: object) -> None:
        self._timer.cancel()
        self._written = _nothing
        await self._limit.__aexit__(*error)  # type: ignore[arg-type]

    def _look(self) -> None:
        loop, step_s = asyncio.get_running_loop(), READ_S / 4
        taken = self._written() - (0 if self._transport is None else waiting(self._transport))
        if self._taken is None:
            self._taken = taken
        elif taken >= self._taken + SLOWEST * step_s:
            self._limit.reschedule(loop.time() + READ_S)
            self._taken = taken
        self._timer = loop.call_later(step_s, self._look)
