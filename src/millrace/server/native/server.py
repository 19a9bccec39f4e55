"""The native protocol's listening sockets."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

from millrace.control.plane import ControlPlane, LocalGuests
from millrace.errors import BudgetError
from millrace.guest.guest import Guest
from millrace.io.clock import now_ns
from millrace.io.listeners import Listeners
from millrace.io.sockets import peer_subject
from millrace.rights.model import OWNER, Admits
from millrace.server.native.session import Entrance, NativeSession
from millrace.server.native.state import SessionState
from millrace.wire.native.messages import Fault, frame
from millrace.wire.native.session import awaiting_hello

log = logging.getLogger("millrace.native")
CONNECTIONS_MAX = 512


class NativeServer(Entrance):
    """Accepts connections on one socket: the daemon's own, or that of `guest`."""

    def __init__(
        self, plane: ControlPlane, guests: LocalGuests, listeners: Listeners, path: Path, bound: socket.socket,
        admits: Admits, guest: Guest | None = None,
    ) -> None:  # fmt: skip
        """Start accepting on `bound`, a listening socket at `path`, and take it over."""
        assert (guest is not None) is (admits is Admits.PROGRAMS)
        self.plane, self.guests, self.listeners = plane, guests, listeners
        self.guest, self.admits, self._path = guest, admits, path
        self.sessions: dict[NativeSession, None] = {}
        self.turns = plane.turns_of(OWNER) if guest is None else guest.turns
        self._acceptor = listeners.take(bound, self.turns, self._take)

    @property
    def label(self) -> str:
        """The guest and the door, for the log."""
        return f"guest {self.guest.name}, native" if self.guest else "the daemon's native socket"

    # A refused connection gets the reason in a single write that does not block: the message fits an empty socket
    # buffer. The socket is closed here, as no session has taken it.
    def _take(self, sock: socket.socket) -> None:
        if len(self.sessions) >= CONNECTIONS_MAX and not self._one_less():
            log.warning("%s: connection refused: %s already has %d", self.label, self._path, CONNECTIONS_MAX)
            refusal = Fault(0, "busy", f"{CONNECTIONS_MAX} connections at most; close one")
            with contextlib.suppress(OSError):
                sock.send(frame(refusal), socket.MSG_DONTWAIT)
            sock.close()
            return
        try:
            NativeSession(self, sock, SessionState(peer_subject(sock, self.admits), awaiting_hello(now_ns())))
        except BudgetError as error:
            log.warning("%s: connection refused: %s", self.label, error)
            with contextlib.suppress(OSError):
                sock.send(frame(Fault(0, "limit", str(error))), socket.MSG_DONTWAIT)
            sock.close()

    def _one_less(self) -> bool:
        """Drop the oldest connection that is closing or has not sent hello, to make room for a new one."""
        waits = next((session for session in self.sessions if session.closed or not session.state.greeted), None)
        if waits is not None:
            waits.abort()
        return waits is not None

    def close(self, why: str) -> None:
        """Stop accepting and end every connection."""
        self._acceptor.close()
        for session in list(self.sessions):
            session.end(why)
            session.connection.close()
        self._path.unlink(missing_ok=True)
