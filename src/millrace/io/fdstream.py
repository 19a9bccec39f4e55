"""Sockets over which file descriptors are sent: asyncio's own transports can't."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from millrace.errors import PeerLost, RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.units import HostNs
from millrace.wire.qemu.dbus import Chunk

log = logging.getLogger("millrace.io")
RECEIVE_BYTES = 256 * 1024
UNSENT_MAX = 4 * 1024 * 1024


class ChunkConnection(Protocol):
    """A sans-IO core whose output carries descriptors."""

    def receive(self, data: memoryview, now_ns: HostNs) -> None:
        """Bytes have come; RemoteProtocolError ends the connection."""
        ...

    def chunks_to_send(self) -> list[Chunk]:
        """What to write now."""
        ...


class FdStream:
    """Runs one core on one connected unix socket, which it owns.

    `after` is called when the core has taken bytes and before its answer goes out; `ended` once, with why.
    """

    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __init__(
        self, sock: socket.socket, core: ChunkConnection, after: Callable[[], None], ended: Callable[[Exception], None]
    ) -> None:
        self._sock, self._core, self._after, self._ended = sock, core, after, ended
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Chunk] = deque()
        self._writing = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)
        self.flush()

    def _readable(self) -> None:
        try:
            size = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(PeerLost(str(error.strerror)))
            return
        if size == 0:
            self._end(PeerLost("the connection ended"))
            return
        try:
            self._core.receive(self._buffer[:size], now_ns())
            self._after()
        except RemoteProtocolError as error:
            self._end(error)
        except Exception as error:
            # A bug of ours must cost at most the connection that met it.
            log.exception("connection ended by an internal error")
            self._end(error)
        else:
            self.flush()

    def flush(self) -> None:
        """Write what the core has to say."""
        self._waiting.extend(self._core.chunks_to_send())
        if not self._writing:
            self._write()

    def _write(self) -> None:
        if self._sock.fileno() < 0:
            return
        while self._waiting:
            chunk = self._waiting[0]
            try:
                sent = socket.send_fds(self._sock, [chunk.data], chunk.fds)
            except (BlockingIOError, InterruptedError):
                self._await_room()
                return
            except OSError as error:
                self._end(PeerLost(str(error.strerror)))
                return
            if sent < len(chunk.data):
                self._waiting[0] = Chunk(chunk.data[sent:])
            else:
                self._waiting.popleft()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _await_room(self) -> None:
        if sum(len(chunk.data) for chunk in self._waiting) > UNSENT_MAX:
            self._end(PeerLost("the other side does not read"))
        elif not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock, self._write)

    def _end(self, why: Exception) -> None:
        if self._sock.fileno() >= 0:
            self.close()
            self._ended(why)

    def close(self) -> None:
        """Close the socket; `ended` is not called."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            if self._writing:
                self._loop.remove_writer(self._sock)
            self._sock.close()
