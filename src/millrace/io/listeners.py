"""Listening sockets. All binding and accepting happens in this file, so that connections can't use up all descriptors.

Unix sockets are private by default, and never replace one that is in use.
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
from millrace.io.runner import Connection, Make, Released, StreamRunner, Watch
from millrace.io.senderidentity import watch_writers
from millrace.io.sockets import keep_alive
from millrace.io.timer import TimerRunner
from millrace.io.turns import Turns
from millrace.wire.contract import Runner

log = logging.getLogger("millrace.io")
RESERVE = 64
"""Descriptors reserved for other uses than new connections: files, machines, and streams of logged-in clients."""
BACK_OFF_S = 0.5
GONE_S = 300
"""Connections end this long after their host vanished without closing them. A host that only slept may continue."""
HANDSHAKE_S = 10.0
# Connections that the kernel holds until they are accepted. A guest that starts a hundred programs connects them all at
# once, and a non-blocking connect to a unix socket whose queue is full fails (EAGAIN).
BACKLOG = 1024
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Take = Callable[[socket.socket], None]
MakeProtocol = Callable[[], asyncio.BaseProtocol]
Runners = dict[StreamRunner, Connection]


def descriptors() -> int:
    """How many descriptors this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listeners:
    """The listening sockets of one daemon, and their connections that have not logged in yet."""

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
        """Pass each connection to `take`, which must report it to `pending`."""
        return Acceptor(sock, self.pending, turns, take)

    def serve(
        self, sock: socket.socket, turns: Turns, make: MakeProtocol, tls: ssl.SSLContext | None = None
    ) -> Acceptor:
        """Run a protocol on each connection, which is pending until it has logged in."""
        return Acceptor(sock, self.pending, turns, Joining(self, make, tls).take)

    def serve_cores(
        self, sock: socket.socket, turns: Turns, make: Make, watch: Watch, whose: str, among: Runners
    ) -> Acceptor:
        """Run a sans-IO core on each connection, which is pending until the core is `known`. `whose` is for the log."""
        entered, gone = self.pending.enter, self.pending.left
        return self.serve(sock, turns, lambda: StreamRunner(make, turns, entered, gone, watch, whose, among))

    def resume_core(
        self, released: Released, turns: Turns, make: Callable[[Runner], Connection], watch: Watch, whose: str,
        among: Runners,
    ) -> None:  # fmt: skip
        """The same for a connection that was handed on, with the core that continues it, which is made at once."""
        core: Connection
        entered, gone = self.pending.enter, self.pending.left
        runner = StreamRunner(lambda *_: core, turns, entered, gone, watch, whose, among, released.received)
        core = make(runner)
        Joining(self, lambda: runner, None).take(released.sock)

    def stop(self) -> None:
        """The daemon is shutting down."""
        self._timer.stop()


class Acceptor:
    """Accepts connections on one listening socket, which it owns: one per step, charged to its guest.

    Otherwise a thousand simultaneous connections would all be handled before anything else could run.
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
        """The address it listens on."""
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
                # The listener stays readable, so without a pause the loop would spin.
                log.error("can't accept connections: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._resume = self._loop.call_later(BACK_OFF_S, self._listen)
            return
        if self._room_for(sock):
            sock.setblocking(False)
            try:
                self._take(sock)
            except BaseException:
                sock.close()
                raise
        else:
            sock.close()

    def _room_for(self, sock: socket.socket) -> bool:
        """Whether `sock` may stay. If descriptors run short, pending connections are closed to make room.

        The kernel assigns the lowest free number, so a high one means that nearly all below are taken. From then on,
        for the next `RESERVE` connections, each new one displaces a pending one: that frees a low number, so the number
        of the next connection says nothing about the shortage. A high number displaces two, to gain ground.
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
        """Stop listening. Accepted connections continue."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()


class Joining:
    """Takes connections from the acceptor to their protocols, through the TLS handshake if there is one."""

    def __init__(self, listeners: Listeners, make: MakeProtocol, tls: ssl.SSLContext | None) -> None:
        self._listeners, self._make, self._tls = listeners, make, tls
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, sock: socket.socket) -> None:
        """See `Take`."""
        task = asyncio.get_running_loop().create_task(self._join(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # From the moment it is accepted a connection is listed as pending under one name or another: first as a handshake,
    # then as its transport. Otherwise connections that stall in TLS could not be closed to free descriptors.
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
            # A client that can't do TLS, or has disconnected.
            log.debug("a connection was lost before it was accepted: %s", error)
            sock.close()
            return
        finally:
            self._listeners.pending.left(shaking)
        if shaking.aborted:
            transport.abort()
        else:
            self._listeners.arrive(transport)


class Handshake:
    """A connection that has no transport yet, in the form that `PendingConnections` takes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.aborted = False

    def is_closing(self) -> bool:
        """See `PendingConnection`."""
        return self._sock.fileno() < 0

    def abort(self) -> None:
        """See `PendingConnection`: a TLS handshake fails at once; without TLS the protocol is not started."""
        self.aborted = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


# -- binding: private by default, never replacing a socket in use -------------------------------


def bind_unix(path: Path, mode: int = 0o600, watched: bool = False) -> socket.socket:
    """A listening unix socket at `path`. Replaces a stale one; ConfigError if something listens there.

    With `watched`, the kernel reports the writer of each message: see io/senderidentity.py.
    """
    if len(os.fsencode(path)) > 107:
        raise ConfigError(f"the socket path {path} is too long (107 bytes at most); use a shorter XDG_RUNTIME_DIR")
    if path.exists() or path.is_symlink():
        _clear_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Without this, others could connect between bind and chmod.
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


# A socket file outlives its daemon. A connection attempt shows whether a process still listens there: it is refused if
# none does. In the runtime directory, two daemons that start at once can't both find it dead: its lock is taken first.
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
    """Sockets that listen on every address of `host`, all on the same port; OSError if there is no address.

    '' and '::' mean all addresses of both families, with one socket each, so that IPv4 peers have IPv4 addresses rather
    than mapped IPv6 ones.
    """
    everywhere = host in ("", "::")
    infos = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")] if everywhere else _resolved(host)
    made: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in infos:
        try:
            made.append(_bound(family, address, made[0].getsockname()[1] if made else port))
        except OSError as error:
            # This host may lack one of the address families; any other error counts.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                close_all(made)
                raise
            failed = error
    if not made:
        raise failed or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return made


def bind_udp(host: str, port: int) -> socket.socket:
    """A datagram socket at the first address of `host`; OSError if there is none."""
    family, address = _resolved(host)[0]
    return _bound(family, address, port, socket.SOCK_DGRAM)


def is_here(address: str) -> bool:
    """Whether it is one of this host's addresses: only those can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def close_all(sockets: list[socket.socket]) -> None:
    """Close the sockets."""
    for one in sockets:
        one.close()


def _resolved(host: str) -> list[tuple[int, str]]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(errno.EADDRNOTAVAIL, getattr(error, "strerror", None) or str(error)) from None
    return list(dict.fromkeys((int(info[0]), _scoped(info[4])) for info in infos))


def _scoped(address: tuple[Any, ...]) -> str:
    """The address as text, with its scope: a link-local address is useless without its interface."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host


def _bound(family: int, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # For TCP this lets a daemon start again while connections of the last one are in TIME_WAIT. For UDP it
            # would let two sockets share a port.
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
