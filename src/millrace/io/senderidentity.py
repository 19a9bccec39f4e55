"""Identifies the program that writes to a unix socket, which need not be the one that connected it.

SO_PEERCRED names the process that connected. Its program is read from /proc a moment later; in between, the process may
have passed the socket to a child and executed another program. So the identity counts as proven only once that same
process has written something *after* it was looked up, and still runs the same program. The kernel attaches the
writer's PID to every message (SO_PASSCRED, unix(7)), and never merges the data of two writers into one read.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from collections.abc import Callable

from msgspec.structs import replace

from millrace.io.peers import identity_of
from millrace.rights.grants import Identity

UNSEEN = -1
"""No process: who has written could not be seen. 0 is one without a number in this PID namespace."""
LOOKS_MAX = 4
"""How many writers are looked up in turn. A program that keeps passing its socket on stays unknown."""
_CREDENTIALS = struct.Struct("3i")


class SenderIdentity:
    """Watches the first reads of one connection. Call `reading` before each read and `read` after it."""

    def __init__(self, fileno: int, identity: Identity, tell: Callable[[Identity], None]) -> None:
        self._fileno, self._tell = fileno, tell
        self._looks = 0
        self._writer = UNSEEN
        self._look(identity)

    @property
    def done(self) -> bool:
        """Whether the result is final: the program is either known, or given up on as unknown."""
        return self._looks == 0

    def _look(self, identity: Identity) -> None:
        """Assume this identity. Only bytes that have not arrived yet can prove it, so skip those already queued."""
        self._identity = identity
        self._looks += 1
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fileno, termios.FIONREAD, waiting)
        self._before = waiting[0]

    # The transport reads without control messages, so the writer is looked at first, with MSG_PEEK, on a duplicate of
    # the descriptor. What the transport reads next is by that writer alone, because the kernel ends a read where the
    # writer changes.
    def reading(self) -> None:
        """Find out which process wrote the data that is read next."""
        self._writer = UNSEEN
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
        """`size` bytes were read, all written by that process."""
        if size <= self._before:
            self._before -= size
            return
        # Program and PID must both be the same: a PID may have been reused, or its process may have exec'ed another
        # program, since it was looked up. Otherwise the look-up starts over with the writer, up to LOOKS_MAX times.
        was = self._identity
        seen = self._writer != UNSEEN
        now = identity_of(self._writer, was.uid) if seen else Identity(0, was.uid)
        if self._writer == was.pid and now.names == was.names:
            self._known(replace(now, unproven=False))
        elif self._looks < LOOKS_MAX and seen:
            self._look(now)
            self._tell(now)
        else:
            self._known(Identity(max(self._writer, 0), was.uid))

    def _known(self, identity: Identity) -> None:
        self._looks = 0
        self._tell(identity)


def watch_writers(sock: socket.socket) -> None:
    """Have the kernel report the writing process, on this socket and on the connections it accepts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
