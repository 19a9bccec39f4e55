"""Listening: only this file binds sockets, and only what it accepts comes in, so that nothing uses up the descriptors.

Sockets are private by default, and never made on top of a living one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError
from millrace.io.clock import now_ns
from millrace.io.pending import PendingConnection, PendingConnections
from millrace.io.runner import Connection, StreamRunner, TimerRunner, Watch
from millrace.io.senderidentity import watch_writers
from millrace.io.sockets import keep_alive
from millrace.io.turns import Turns

log = logging.getLogger("millrace.io")
RESERVE = 64
"""Descriptors kept free of connections: for files, machines, and streams of those that are in."""
BACK_OFF_S = 0.5
GONE_S = 300
"""The connections of a host that has gone without a word end after that; one that slept for a while goes on."""
HANDSHAKE_S = 10.0
BACKLOG = 1024
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Take = Callable[[socket.socket], None]
Make = Callable[[asyncio.Transport], Connection | None]
MakeProtocol = Callable[[], asyncio.BaseProtocol]


def descriptors() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listeners:
    """The connections of all listening sockets of one daemon that have not logged in yet."""

    def __init__(self) -> None:
        self.pending = PendingConnections()
        self._timer = TimerRunner(self.pending, asyncio.get_running_loop())

    def arrive(self, visitor: PendingConnection) -> None:
        """See `PendingConnections.arrive`."""
        self.pending.arrive(visitor, now_ns())
        self._timer.rearm()

    def rest(self, visitor: PendingConnection) -> None:
        """See `PendingConnections.rest`."""
        self.pending.rest(visitor, now_ns())
        self._timer.rearm()

    def take(self, sock: socket.socket, turns: Turns, take: Take) -> Acceptor:
        """Hand each connection to `take`, which reports it to `pending`."""
        return Acceptor(sock, self.pending, turns, take)

    def serve(
        self, sock: socket.socket, turns: Turns, make: MakeProtocol, tls: ssl.SSLContext | None = None
    ) -> Acceptor:
        """Run a protocol on each connection. It is pending until it has logged in."""
        return Acceptor(sock, self.pending, turns, Joining(self, make, tls).take)

    def serve_cores(self, sock: socket.socket, turns: Turns, make: Make, watch: Watch, whose: str) -> Acceptor:
        """Run a sans-IO core on each connection: it is in when the core knows its program. `whose` is for the log."""
        entered, gone = self.pending.enter, self.pending.left
        return self.serve(sock, turns, lambda: StreamRunner(make, turns, entered, gone, watch, whose))

    def stop(self) -> None:
        """The daemon ends."""
        self._timer.stop()


class Acceptor:
    """Takes connections from one listening socket, which it owns, one in a step and at its guest's expense.

    Without that a thousand connections made at once would all be looked at before anything else goes on.
    """

    first = False

    def __init__(self, listener: socket.socket, pending: PendingConnections, turns: Turns, take: Take) -> None:
        self._listener, self._pending, self._turns, self._take = listener, pending, turns, take
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
            if error.errno in _SHORT and not self._pending.make_room():
                # The listener stays readable: without a pause the loop would do nothing else.
                log.error("can't accept connections: %s", error.strerror)
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

        Then one goes for each that comes, for a while: it leaves a low number free, which says nothing. At a
        high one two go, so that it does not get worse.
        """
        limit, pending = descriptors(), self._pending
        near = sock.fileno() >= limit - min(RESERVE, limit // 4)
        if near:
            pending.pressed = RESERVE
        elif not pending.pressed:
            return True
        pending.pressed -= 1
        room = pending.make_room() or not near
        if near and room:
            pending.make_room()
        if not room and not self._refusing:
            log.error("not accepting connections: all %d file descriptors are in use (ulimit -n)", limit)
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
                keep_alive(sock, GONE_S)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._make, sock, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError as error:
            # A stranger that can't do TLS, or has gone.
            log.debug("a connection ended before it began: %s", error)
            sock.close()
            return
        finally:
            self._listeners.pending.left(shaking)
        if shaking.aborted:
            transport.abort()
        else:
            self._listeners.arrive(transport)


class Handshake:
    """A connection that has no transport yet, as `PendingConnections` sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.aborted = False

    def is_closing(self) -> bool:
        """See `PendingConnection`."""
        return self._sock.fileno() < 0

    def abort(self) -> None:
        """See `PendingConnection`: the handshake fails at once, and what has none is not begun."""
        self.aborted = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


# -- binding: private by default, never on top of a living one ----------------------------------


def bind_unix(path: Path, mode: int = 0o600, watched: bool = False) -> socket.socket:
    """A unix socket at `path`, taking the place of a dead one; ConfigError if one lives there.

    With `watched` the kernel says of each message who wrote it: see io/senderidentity.py.
    """
    if len(os.fsencode(path)) > 107:
        raise ConfigError(f"the socket path {path} is too long (107 bytes at most); use a shorter XDG_RUNTIME_DIR")
    if path.exists() or path.is_symlink():
        _clear_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177 & ~mode | 0o177)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        if watched:
            watch_writers(listener)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't create a socket at {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _clear_dead(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} exists and is not a socket; remove it")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError as error:
        if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ConfigError(f"{path}: {error.strerror}") from None
        path.unlink(missing_ok=True)
    else:
        raise ConfigError(f"{path}: another daemon answers there; stop it, or use another XDG_RUNTIME_DIR")
    finally:
        probe.close()


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`, on one port; OSError where there is none.

    '' and '::' are all addresses of both families, a socket each: an IPv4 peer then is one, and no mapped IPv6 one.
    """
    everywhere = host in ("", "::")
    infos = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")] if everywhere else _resolved(host)
    made: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in infos:
        try:
            made.append(_bound(family, address, made[0].getsockname()[1] if made else port))
        except OSError as error:
            # A host without one of the families has none of its addresses; any other reason counts.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                close_all(made)
                raise
            failed = error
    if not made:
        raise failed or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return made


def bind_udp(host: str, port: int) -> socket.socket:
    """A socket for datagrams at the first address of `host`; OSError where there is none."""
    family, address = _resolved(host)[0]
    return _bound(family, address, port, socket.SOCK_DGRAM)


def is_here(address: str) -> bool:
    """Whether it is an address of this host: no other can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def close_all(sockets: list[socket.socket]) -> None:
    """Close them."""
    for one in sockets:
        one.close()


def _resolved(host: str) -> list[tuple[int, str]]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(errno.EADDRNOTAVAIL, getattr(error, "strerror", None) or str(error)) from None
    return list(dict.fromkeys((int(info[0]), _scoped(info[4])) for info in infos))


def _scoped(address: tuple[Any, ...]) -> str:
    """A link's own address is nothing without its link."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host


def _bound(family: int, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(socket.getaddrinfo(address, port, family, kind)[0][4])
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
