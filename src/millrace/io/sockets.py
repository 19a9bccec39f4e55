"""Identifies a socket's peer, and handles what only this user may read: directories and secrets."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from millrace.errors import ConfigError
from millrace.io.peers import identity_of, is_ours
from millrace.rights.grants import Identity, Subject
from millrace.rights.model import Admits

log = logging.getLogger("millrace.io")
EVERYWHERE = ("", "::", "0.0.0.0")
"""Hosts that mean all addresses of this machine."""
SO_PEERPIDFD = 77
"""From asm-generic/socket.h, Linux 6.5; Python has no constant for it yet."""


def private_dir(path: Path) -> Path:
    """Create a directory that only this user can access; ConfigError if somebody else owns it or it is a link."""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigError(f"{path} must be a directory of this user; remove it or set XDG_RUNTIME_DIR")
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of this user") from None
    return path


def own_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in a file that only this user can read. Makes a new one if there is none, or others could read it."""
    try:
        # O_NONBLOCK, because opening a FIFO would wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), errors="replace") as file:
            status, kept = os.fstat(file.fileno()), file.read(200).strip()
        if kept and stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return kept
    except FileNotFoundError:
        pass
    except OSError as error:
        # Other errors may be temporary, so don't replace the file. ELOOP means a symbolic link: replace that.
        if error.errno != errno.ELOOP:
            raise ConfigError(f"{path}: {error.strerror}") from None
    made = make()
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(f"{made}\n")
    except OSError as error:
        # A partly written secret would be easier to guess.
        path.unlink(missing_ok=True)
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    return made


# Probes begin after a third of the time, and four of them a sixth apart fill the rest. Probes are not sent while data
# is unacknowledged: TCP_USER_TIMEOUT covers that case.
def keep_alive(sock: socket.socket, seconds: int) -> None:
    """Have the kernel detect within `seconds` that the other host is gone, as after a power cut (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, seconds // 3),
        (socket.TCP_KEEPINTVL, seconds // 6),
        (socket.TCP_KEEPCNT, 4),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def outward_address() -> str:
    """This host's outgoing address, from its routing table; nothing is sent. Empty if there is no route."""
    for family, beyond in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((beyond, 9))
            return str(probe.getsockname()[0])
    return ""


def reachable_host(host: str) -> str:
    """The host to connect to for a bound address: those that mean every address are only for binding."""
    return (outward_address() or "127.0.0.1") if host in EVERYWHERE else host


def _credentials(raw: socket.socket | None) -> tuple[int, int] | None:
    """(pid, uid) of the process that connected a unix socket, from the kernel; None for other sockets."""
    if raw is None or raw.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def peer_uid(raw: socket.socket | None) -> int | None:
    """The user that connected a unix socket; None for other sockets."""
    found = _credentials(raw)
    return None if found is None else found[1]


# The pidfd refers to the process itself, the PID only to the process that has that number now. Kernels before 6.5 have
# no SO_PEERPIDFD; there the look-up relies on the PID alone.
def peer_identity(raw: socket.socket | None) -> Identity | None:
    """The process that connected a unix socket, from the kernel; None for other sockets."""
    found = _credentials(raw)
    if found is None or raw is None:
        return None
    pid, uid = found
    try:
        pidfd = raw.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return identity_of(pid, uid)
    try:
        return identity_of(pid, uid, pidfd)
    finally:
        os.close(pidfd)


def peer_subject(raw: socket.socket | None, admits: Admits) -> Subject:
    """Determines the subject of a connection, once, for every request made over it.

    The kernel's credentials count only if the listening socket admits clients by them. Otherwise a connection that came
    over TCP, and was passed on through a socket pair, would look like this process itself.
    """
    identity = None if admits is Admits.NOBODY else peer_identity(raw)
    if identity is None:
        return Subject(address=_peer_address(raw))
    return Subject(identity, ours=is_ours(identity.uid))


def _peer_address(raw: socket.socket | None) -> str:
    """The other host's address; empty if the connection has none."""
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        return str(raw.getpeername()[0])
    except OSError:
        # It has gone already.
        return ""


def why_not_unix(error: OSError, path: str) -> str:
    """Why no unix socket was reached. Linux refuses the connection, too, if the file is not a socket."""
    refused = error.errno == errno.ECONNREFUSED and not path.startswith("\0")
    return "it is not a socket" if refused and not Path(path).is_socket() else error.strerror or str(error)
