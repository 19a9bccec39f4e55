"""Accepting connections: the one place where doors open, so that none of them can use up the daemon's descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

from millrace.io.clock import now_ns
from millrace.io.doorstep import Doorstep, Visitor
from millrace.io.runner import Connection, StreamRunner, TimerRunner, Watch
from millrace.io.turns import Turns

log = logging.getLogger("millrace.io")
RESERVE = 64
"""Descriptors kept free of connections: for files, machines, and streams of those who are in."""
BACK_OFF_S = 0.5
HANDSHAKE_S = 10.0
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Take = Callable[[socket.socket], None]
Make = Callable[[asyncio.Transport], Connection | None]
MakeProtocol = Callable[[], asyncio.BaseProtocol]


def descriptors() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listeners:
    """The doorstep of one daemon, on which the connections of all its listening sockets wait to be let in."""

    def __init__(self) -> None:
        self.doorstep = Doorstep()
        self._timer = TimerRunner(self.doorstep, asyncio.get_running_loop())

    def arrive(self, visitor: Visitor) -> None:
        """See `Doorstep.arrive`."""
        self.doorstep.arrive(visitor, now_ns())
        self._timer.rearm()

    def rest(self, visitor: Visitor) -> None:
        """See `Doorstep.rest`."""
        self.doorstep.rest(visitor, now_ns())
        self._timer.rearm()

    def take(self, sock: socket.socket, turns: Turns, take: Take) -> Acceptor:
        """Hand each connection to `take`, which tells the doorstep of it."""
        return Acceptor(sock, self.doorstep, turns, take)

    def serve(
        self, sock: socket.socket, turns: Turns, make: MakeProtocol, tls: ssl.SSLContext | None = None
    ) -> Acceptor:
        """Run a protocol on each connection. It stands on the doorstep until somebody calls it in."""
        return Acceptor(sock, self.doorstep, turns, Joining(self, make, tls).take)

    def serve_cores(self, sock: socket.socket, turns: Turns, make: Make, watch: Watch, whose: str) -> Acceptor:
        """Run a sans-IO core on each connection: it is in when the core knows who it is. `whose` is for the log."""
        entered, gone = self.doorstep.enter, self.doorstep.left
        return self.serve(sock, turns, lambda: StreamRunner(make, turns, entered, gone, watch, whose))

    def stop(self) -> None:
        """The daemon ends."""
        self._timer.stop()


class Acceptor:
    """Takes connections from one listening socket, which it owns, one in a step and at its guest's expense.

    Without that a thousand connections made at once would all be looked at before anything else goes on.
    """

    first = False

    def __init__(self, listener: socket.socket, doorstep: Doorstep, turns: Turns, take: Take) -> None:
        self._listener, self._doorstep, self._turns, self._take = listener, doorstep, turns, take
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._refusing = False
        listener.setblocking(False)
        self._listen()

    @property
    def address(self) -> Any:
        """Where it listens."""
        return self._listener.getsockname()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._readable)

    def _readable(self) -> None:
        if self._turns.ready():
            with self._turns:
                self._accept()
        else:
            self._loop.remove_reader(self._listener)
            self._turns.wait(self)

    def work(self) -> bool:
        """See `Worker`."""
        if self._listener.fileno() >= 0:
            self._listen()
            self._accept()
        return True

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _SHORT and not self._doorstep.make_room():
                # The listener stays readable: without a pause the loop would do nothing else.
                log.error("no connection can be taken: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._resume = self._loop.call_later(BACK_OFF_S, self._listen)
            return
        if self._room_for(sock):
            sock.setblocking(False)
            self._take(sock)
        else:
            sock.close()

    def _room_for(self, sock: socket.socket) -> bool:
        """The lowest free number is given to each descriptor: a high one says that those below are taken.

        Then somebody goes for each who comes, for a while: who goes leaves a low number free, which says nothing. At a
        high one two go, so that it does not get worse.
        """
        limit, doorstep = descriptors(), self._doorstep
        near = sock.fileno() >= limit - min(RESERVE, limit // 4)
        if near:
            doorstep.pressed = RESERVE
        elif not doorstep.pressed:
            return True
        doorstep.pressed -= 1
        room = doorstep.make_room() or not near
        if near and room:
            doorstep.make_room()
        if not room and not self._refusing:
            log.error("no more connections are taken: the %d descriptors are in use (ulimit -n)", limit)
        self._refusing = not room
        return room

    def close(self) -> None:
        """Take no more. Connections go on."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()


class Joining:
    """Connections on their way from the acceptor to their protocols, through TLS where there is some."""

    def __init__(self, listeners: Listeners, make: MakeProtocol, tls: ssl.SSLContext | None) -> None:
        self._listeners, self._make, self._tls = listeners, make, tls
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, sock: socket.socket) -> None:
        """See `Take`."""
        task = asyncio.get_running_loop().create_task(self._join(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, sock: socket.socket) -> None:
        shaking = Handshake(sock)
        self._listeners.arrive(shaking)
        timeout = HANDSHAKE_S if self._tls is not None else None
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._make, sock, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError as error:
            # A stranger who can't do TLS, or has gone.
            log.debug("a connection ended before it began: %s", error)
            sock.close()
            return
        finally:
            self._listeners.doorstep.left(shaking)
        if shaking.aborted:
            transport.abort()
        else:
            self._listeners.arrive(transport)


class Handshake:
    """A connection that has no transport yet, as the doorstep wants it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.aborted = False

    def is_closing(self) -> bool:
        """See `Visitor`."""
        return self._sock.fileno() < 0

    def abort(self) -> None:
        """See `Visitor`: the handshake fails at once, and what has none is not begun."""
        self.aborted = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
