"""Listening sockets: private by default, never on top of a living one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from millrace.errors import ConfigError
from millrace.io.peers import identity_of
from millrace.io.runner import Connection, StreamRunner
from millrace.rights.grants import Identity

SO_PEERPIDFD = 77
"""asm-generic/socket.h, Linux 6.5; Python has no name for it yet."""
Maker = Callable[[asyncio.Transport], Connection | None]


def private_dir(path: Path) -> Path:
    """Create `path` for this user alone; ConfigError if somebody else owns it or it is a link."""
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


def bind_unix(path: Path, mode: int = 0o600) -> socket.socket:
    """A unix socket at `path`, taking the place of a dead one; ConfigError if one lives there."""
    if len(os.fsencode(path)) > 107:
        raise ConfigError(
            f"the socket path {path} is too long for the system (107 bytes); use a shorter XDG_RUNTIME_DIR"
        )
    if path.exists() or path.is_symlink():
        _clear_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177 & ~mode | 0o177)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigError(f"no socket can be made at {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _clear_dead(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} is there and is no socket; remove it")
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


async def serve_unix(path: Path, make: Maker, mode: int = 0o600) -> asyncio.AbstractServer:
    """Serve byte connections on a unix socket."""
    listener = bind_unix(path, mode)
    return await asyncio.get_running_loop().create_unix_server(lambda: StreamRunner(make), sock=listener)


async def serve_tcp(host: str, port: int, make: Maker) -> asyncio.AbstractServer:
    """Serve byte connections on TCP, without Nagle's delay."""

    def prepared(transport: asyncio.Transport) -> Connection | None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return make(transport)

    try:
        return await asyncio.get_running_loop().create_server(lambda: StreamRunner(prepared), host, port)
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}; is it in use?") from None


def peer_identity(raw: socket.socket | None) -> Identity | None:
    """Who is at the other end of a unix socket, as the kernel says; None elsewhere."""
    if raw is None or raw.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        pidfd = raw.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return identity_of(pid, uid)
    try:
        return identity_of(pid, uid, pidfd)
    finally:
        os.close(pidfd)
