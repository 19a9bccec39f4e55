"""WebSocket frames of sound and pictures, written without a task."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Sequence

from aiohttp import web

from millrace.absent import nothing
from millrace.outlets.queue import Passed
from millrace.server.http.reading import bound_unread, unwritten

UNSENT_BYTES_MAX = 48 * 1024
"""Bytes buffered in a listener's transport before its own queue, which can drop, takes over."""
SEND_BUFFER_BYTES = 32 * 1024
"""Kernel send buffer of a listener or watcher: small, so that a backlog builds up where it can be dropped."""


def _frame_header(size: int, opcode: int) -> bytes:
    """An unmasked, final WebSocket frame header (RFC 6455, section 5.2)."""
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((size,))
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2, "big")
    return first + b"\x7f" + size.to_bytes(8, "big")


class FrameWriter:
    """Writes whole WebSocket frames directly from the audio cycle, without a task.

    aiohttp's `send_bytes` is a coroutine, and waking a task for every packet of every listener costs more than the
    graph itself. Frames are written to the transport whole, so they never interleave with aiohttp's own.
    """

    def __init__(
        self, transport: asyncio.Transport, whole: web.WebSocketResponse, send_buffer: int | None = SEND_BUFFER_BYTES,
        wrote: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        """`send_buffer` is the kernel's, in bytes; None: as large as the kernel makes it. `wrote` is called when it
        writes."""
        self._transport, self._whole, self._wrote = transport, whole, wrote
        self._written = 0
        # So its protocol is told when there is room again exactly if there was none.
        transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX - 1)
        if send_buffer is not None:
            bound_unread(transport, send_buffer)

    def write(self, messages: Sequence[str | bytes]) -> None:
        """Write messages with one system call. Nothing may follow a Close frame (RFC 6455, section 5.5.1)."""
        if self._whole.closed or self._transport.is_closing():
            return
        self._wrote()
        parts: list[bytes] = []
        for message in messages:
            opcode, data = (1, message.encode()) if isinstance(message, str) else (2, message)
            parts += (_frame_header(len(data), opcode), data)
        data = b"".join(parts)
        self._written += len(data)
        self._transport.write(data)

    # What the kernel still has, the other machine has not acknowledged (tcp(7), SIOCOUTQ, which is TIOCOUTQ). Without
    # TLS that counts these very bytes, with it a few more; on a unix socket the memory that they take, which for small
    # messages is a multiple (unix(7)).
    def passed(self) -> Passed | None:
        """How many bytes were written, and have arrived at the other machine; None if the system can't say."""
        if self._transport.is_closing():
            # asyncio's transport of TLS can't be asked for its socket any more.
            return None
        raw, held = self._transport.get_extra_info("socket"), unwritten(self._transport)
        if raw is None or held is None:
            return None
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4)))
        except OSError:
            return None
        return Passed(self._written, self._written - waiting - held, raw.family != socket.AF_UNIX)

    def room(self) -> bool:
        """Whether more can be written without building up a backlog."""
        held = unwritten(self._transport)
        return held is not None and held < UNSENT_BYTES_MAX
