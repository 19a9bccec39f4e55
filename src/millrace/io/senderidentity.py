"""Which program speaks on a unix socket: not the one that connected it, but the process that writes.

SO_PEERCRED names the process that connected. What that runs is read from /proc a moment later, and in between it may
have left the socket to a child and become another program. So what was read counts as proven only once that very
process has written something *after* it was looked at, and still is the same program: the kernel puts the writer's
number on every message (SO_PASSCRED, unix(7)), and never joins what two have written in one read.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import replace

from millrace.io.peers import identity_of
from millrace.rights.grants import Identity

LOOKS_MAX = 4
"""Others that write are looked at in their turn; a program that passes a socket on and on stays unknown."""
_CREDENTIALS = struct.Struct("3i")


class SenderIdentity:
    """Watches the first reads of one connection: `reading` goes before each, `read` after it."""

    def __init__(self, fileno: int, identity: Identity, tell: Callable[[Identity], None]) -> None:
        self._fileno, self._tell = fileno, tell
        self._looks = 0
        self._writer = 0
        self._look(identity)

    @property
    def done(self) -> bool:
        """Whether it is known which program speaks, as far as it ever will be."""
        return self._looks == 0

    def _look(self, identity: Identity) -> None:
        """This is who is thought to speak, from the next byte on that is not here yet."""
        self._identity = identity
        self._looks += 1
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fileno, termios.FIONREAD, waiting)
        self._before = waiting[0]

    def reading(self) -> None:
        """See which process wrote what is read next."""
        self._writer = 0
        try:
            with socket.fromfd(self._fileno, socket.AF_UNIX, socket.SOCK_STREAM) as again:
                flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
                _, told, _, _ = again.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size), flags)
        except OSError:
            return
        for level, kind, data in told:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) == _CREDENTIALS.size:
                self._writer = _CREDENTIALS.unpack(data)[0]

    def read(self, size: int) -> None:
        """So much was read, all by that one."""
        if size <= self._before:
            self._before -= size
            return
        was = self._identity
        now = identity_of(self._writer, was.uid) if self._writer > 0 else Identity(0, was.uid)
        if self._writer == was.pid and now.names == was.names:
            self._known(replace(now, unproven=False))
        elif self._looks < LOOKS_MAX and self._writer > 0:
            self._look(now)
            self._tell(now)
        else:
            self._known(Identity(self._writer, was.uid))

    def _known(self, identity: Identity) -> None:
        self._looks = 0
        self._tell(identity)


def watch_writers(sock: socket.socket) -> None:
    """Have the kernel say which process writes, here and on what is accepted here."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
