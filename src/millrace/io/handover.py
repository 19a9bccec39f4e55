"""A private unix socket on which other programs hand over descriptors, each with one line of JSON.

A request is taken from a single read. The kernel delivers descriptors with the first byte of the message they were sent
with, and a sender that writes its line in one `sendmsg` together with its descriptor has it delivered in one piece. A
connection that sends nothing is closed after a few seconds; at the limit, the one that has waited longest is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from millrace.errors import ConfigError, MillraceError
from millrace.io.clock import now_ns
from millrace.io.descriptors import Descriptors
from millrace.io.listeners import Listeners, bind_unix
from millrace.io.peers import is_ours
from millrace.io.pending import PendingConnection
from millrace.io.sockets import peer_uid
from millrace.io.turns import Turns
from millrace.text import parse_json

log = logging.getLogger("millrace.io")
REQUEST_MAX = 4096
FDS_MAX = 4
TIMEOUT_S = 5.0
WAITING_MAX = 64
Take = Callable[[dict[str, Any], int], msgspec.Struct]
"""(request, descriptor) to the answer. The descriptor is closed afterwards: to keep it, duplicate it."""


class Handover:
    """Serves `path` to this user and root."""

    def __init__(self, path: Path, take: Take, listeners: Listeners) -> None:
        self._path, self._take = path, take
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, tuple[asyncio.TimerHandle, PendingConnection]] = {}
        self._pending = listeners.pending
        self._listener = listeners.take(bind_unix(path), Turns(), self._accept)

    def _accept(self, sock: socket.socket) -> None:
        if not is_ours(peer_uid(sock)):
            sock.close()
            return
        if len(self._waiting) >= WAITING_MAX:
            self._drop(next(iter(self._waiting)))
        visitor = _Waiting(sock, self._drop)
        self._pending.arrive(visitor, now_ns())
        self._waiting[sock] = self._loop.call_later(TIMEOUT_S, self._drop, sock), visitor
        self._loop.add_reader(sock, self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(sock, REQUEST_MAX, FDS_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(sock)
            return
        try:
            # Closed in any case, also if the request was malformed: the sender has given them away, and there is no
            # other reference to them.
            with Descriptors(fds):
                answer = self._answer(data, fds)
            # The requester may be gone; what it handed over stays.
            with contextlib.suppress(OSError):
                sock.send(msgspec.json.encode(answer) + b"\n")
        finally:
            self._drop(sock)

    def _answer(self, data: bytes, fds: list[int]) -> msgspec.Struct | dict[str, str]:
        try:
            request = parse_json(data, "the request")
        except ConfigError:
            request = None
        if not isinstance(request, dict) or not fds:
            return {"error": "one line of JSON and one descriptor are expected"}
        try:
            return self._take(request, fds[0])
        except MillraceError as error:
            return {"error": str(error)}
        except Exception:
            # A bug in the daemon must cost at most this connection.
            log.exception("a descriptor was refused because of an internal error")
            return {"error": "an internal error; the daemon's log has it"}

    def _drop(self, sock: socket.socket) -> None:
        timer, visitor = self._waiting.pop(sock, (None, None))
        if timer is not None and visitor is not None:
            timer.cancel()
            self._pending.left(visitor)
            self._loop.remove_reader(sock)
            sock.close()

    def close(self) -> None:
        """Stop serving."""
        self._listener.close()
        for sock in list(self._waiting):
            self._drop(sock)
        self._path.unlink(missing_ok=True)


class _Waiting:
    """A connection that has not handed over anything yet, in the form that `PendingConnections` takes."""

    def __init__(self, sock: socket.socket, drop: Callable[[socket.socket], None]) -> None:
        self._sock, self._drop = sock, drop

    def is_closing(self) -> bool:
        """See `PendingConnection`."""
        return self._sock.fileno() < 0

    def abort(self) -> None:
        """See `PendingConnection`."""
        self._drop(self._sock)
