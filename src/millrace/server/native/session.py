"""Native connections: by which socket they come, what they ask, and their streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from millrace.budget import CONNECTIONS
from millrace.control.plane import ControlPlane
from millrace.control.registry import Encode, native_frames
from millrace.control.requests import parsed
from millrace.control.visits import Leave
from millrace.doors.admission import Admission, Refused
from millrace.errors import BudgetError, MillraceError, PeerLost, ProtocolError, RightsError
from millrace.guest.guest import Guest
from millrace.guest.native import NativeStreams
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.io.listeners import bind_unix
from millrace.io.sockets import peer_subject
from millrace.io.witness import Witness
from millrace.rights.grants import Identity, Permission, Verdict
from millrace.rights.model import NOBODY, OWNER, Admits, Principal, Right, show_rights
from millrace.rights.prompts import Answer, Prompt
from millrace.server.http.answers import as_msgpack
from millrace.server.native.own import OwnMethods
from millrace.text import printable
from millrace.wire.native.messages import (
    VERSION,
    Call,
    Fault,
    Hello,
    Message,
    Notice,
    Reply,
    Wait,
    Welcome,
    frame,
)
from millrace.wire.native.session import NativeWire

log = logging.getLogger("millrace.native")
CONNECTIONS_MAX = 512
SESSION_BYTES = 24 * 1024
"""What a connection takes."""
ASKED_MAX = 16
"""Requests of one connection that may wait for somebody's answer."""
CALL_BYTES = 512
"""What a call that waits takes besides its arguments."""
ARGS_BYTES_MAX = 64 * 1024
"""As much as a request over HTTP may bring."""
CALLS_MAX = 1024
"""Calls of one connection that may wait at a time."""
INTERNAL = "an internal error; the daemon's log has it"


def code_of(error: Exception) -> str:
    """A refusal's code."""
    return error.word if isinstance(error, MillraceError) else "internal"


class NativeServer:
    """Accepts on one socket: the daemon's own, or `guest`'s."""

    def __init__(self, plane: ControlPlane, path: Path, admits: Admits, guest: Guest | None = None) -> None:
        assert (guest is not None) is (admits is Admits.PROGRAMS)
        self.plane, self.guest, self.admits, self._path = plane, guest, admits, path
        self.sessions: dict[NativeSession, None] = {}
        """In the order in which they came."""
        self.turns = plane.owners if guest is None else guest.turns
        self._acceptor = plane.listeners.take(bind_unix(path, watched=True), self.turns, self._take)

    @property
    def label(self) -> str:
        """The guest and the door, as the log has them."""
        return f"guest {self.guest.name}, native" if self.guest else "the daemon's native socket"

    def _take(self, sock: socket.socket) -> None:
        if len(self.sessions) >= CONNECTIONS_MAX and not self._one_less():
            log.warning("connection refused: %s has its %d already", self._path, CONNECTIONS_MAX)
            refusal = Fault(0, "busy", f"{CONNECTIONS_MAX} connections are the most; close one")
            with contextlib.suppress(OSError):
                sock.send(frame(refusal), socket.MSG_DONTWAIT)
            sock.close()
            return
        try:
            NativeSession(self, sock)
        except BudgetError as error:
            log.warning("%s: connection refused: %s", self.label, error)
            with contextlib.suppress(OSError):
                sock.send(frame(Fault(0, "limit", str(error))), socket.MSG_DONTWAIT)
            sock.close()

    def _one_less(self) -> bool:
        """A connection that is on its way out, or has been silent for longest, makes room for one that may come in."""
        waits = next((session for session in self.sessions if session.closed or not session.greeted), None)
        if waits is not None:
            waits.abort()
        return waits is not None

    def close(self, why: str) -> None:
        """Stop accepting, and end every connection."""
        self._acceptor.close()
        for session in list(self.sessions):
            session.end(why)
            session.line.close()
        self._path.unlink(missing_ok=True)


class NativeSession:
    """One connection. It has no rights until it has said hello and is authorized."""

    def __init__(self, server: NativeServer, sock: socket.socket) -> None:
        self.server, self._plane = server, server.plane
        self.subject = peer_subject(sock, server.admits)
        budget = self._plane.budget_of(OWNER) if server.guest is None else server.guest.admission.budget
        self.account = budget.open("connection", {"itself": SESSION_BYTES}, CONNECTIONS)
        self.principal = NOBODY
        self._leave: Leave = lambda: None
        self.kinds: frozenset[str] | None = None
        self.encode: Encode = native_frames
        self.name = ""
        self.ready = self.token = False
        self.closed = False
        self.greeted = False
        self._calls: deque[tuple[int, Call]] = deque()
        self._called = self._asked = 0
        self._worker: asyncio.Task[None] | None = None
        self.wire = NativeWire(daemon=True, began_ns=now_ns())
        self.streams = NativeStreams(self)
        self._methods = self.streams.methods | OwnMethods(self, self._plane).table
        server.sessions[self] = None
        self._plane.joined(self)
        self._plane.listeners.arrive(self)
        self.line = FdStream(
            sock, self.wire, self._after, self._ended, last_word=self._last_word, turns=server.turns,
            may_wait=lambda unsent: self.account.fits("unread", unsent, CONNECTIONS), whose=server.label,
            gone=self._gone,
        )  # fmt: skip

        if self.subject.identity.unproven:
            self.line.witness = Witness(sock.fileno(), self.subject.identity, self._identified)

    def _identified(self, identity: Identity) -> None:
        """The program that speaks is known; a token speaks for its owner."""
        guest = self.server.guest
        if self.token or not Admission.identify(self.subject, identity) or guest is None:
            return
        if self.ready and not guest.admission.allows(Permission.CONNECT, self.subject):
            self.end(f"{identity} has no grant to connect to guest {guest.name}", "rights")
        else:
            self.streams.end_forbidden(guest)

    def is_closing(self) -> bool:
        """See `Visitor`."""
        return self.closed

    def abort(self) -> None:
        """See `Visitor`: others need its descriptor."""
        self.end("no hello came, and others wait")
        self.line.close()

    # -- out -------------------------------------------------------------------------------------

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message when the loop comes round."""
        if self.closed:
            for fd in fds:
                os.close(fd)
            return
        self.wire.send_message(message, fds)
        self.line.flush_soon()

    def reply(self, serial: int, value: Any = None) -> None:
        """Answer a call."""
        self.send(Reply(serial, value))

    def guest(self, name: str, right: Right) -> Guest:
        """See `guest.native.Session`."""
        return self._plane.guest(self.principal, name, right)

    def send_objects(self, made: bytes) -> None:
        """See `Watcher`."""
        if not self.closed:
            self.wire.send_frame(made)
            self.line.flush_soon()

    def end(self, why: str, code: str = "busy") -> None:
        """End the connection, and say why."""
        if self.closed:
            return
        if code == "rights":
            # What was to be told is for somebody who may know it.
            self.line.forget()
        self.wire.send_message(Fault(0, code, why))
        self.line.finish()
        self._cease()

    def _last_word(self, why: Exception) -> None:
        if isinstance(why, PeerLost):
            self.wire.send_message(Fault(0, "busy", str(why)))
        elif isinstance(why, MillraceError):
            code = code_of(why)
            self.wire.send_message(Fault(0, code if code != "internal" else "protocol", printable(why)))
        else:
            self.wire.send_message(Fault(0, "internal", INTERNAL))

    def _ended(self, why: Exception) -> None:
        if isinstance(why, ProtocolError):
            log.warning("%s: connection of %s ended: %s", self.server.label, self.subject.identity, why)
            guest = self.server.guest
            self._plane.violated(guest.name if guest else "", str(self.subject.identity), why)
        elif isinstance(why, BudgetError):
            log.warning("%s: connection of %s ended: %s", self.server.label, self.subject.identity, why)
        elif not isinstance(why, PeerLost):
            log.error("%s: connection of %s ended: %s", self.server.label, self.subject.identity, why)
        self._cease()

    def _cease(self) -> None:
        """Nothing more is done for it, though it may have to read its last words yet."""
        if self.closed:
            return
        self.closed = True
        self._leave()
        self._plane.listeners.doorstep.left(self)
        self._plane.registry.unwatch(self)
        self._plane.prompts.forget(self.subject)
        self.streams.close()
        self._plane.release(self)
        self.wire.close()
        # A call that has begun is finished: half of one would be kept and not made.
        self._calls.clear()

    def _gone(self) -> None:
        """The socket is closed: it takes nothing any more."""
        self._cease()
        self.account.close()
        self.server.sessions.pop(self, None)

    # -- in --------------------------------------------------------------------------------------

    def _after(self) -> None:
        self.account.hold("message", self.wire.partial_bytes, CONNECTIONS)
        for message, _ in self.wire.events():
            if self.closed:
                return
            if isinstance(message, Hello):
                self._hello(message)
            elif isinstance(message, Call):
                self._call(message)

    def _hello(self, hello: Hello) -> None:
        if self.greeted:
            self.end("hello was said already", "protocol")
            return
        self.greeted = True
        self._plane.listeners.doorstep.enter(self)
        self.name = hello.name[:100]
        if hello.version < 1:
            why = f"version {hello.version} of the native protocol is not known; this daemon speaks {VERSION}"
            self.end(why, "protocol")
            return
        try:
            self._authorize(hello)
        except MillraceError as error:
            self.end(str(error), code_of(error))

    def _authorize(self, hello: Hello) -> None:
        """Who this is: by a token, by the daemon's own socket, or as a program of the socket's guest."""
        guest = self.server.guest
        if hello.token:
            identity = self.subject.identity
            principal = self._plane.access.let_in(hello.token, f"uid {identity.uid}")
            # Rules name a token, whatever program has it.
            self.token = True
            self.subject.identity = replace(identity, sandbox=principal.key.replace("/", ":"), unproven=False)
            self._welcome(principal)
            return
        if not self.subject.ours:
            raise RightsError("without a token only the daemon's own user is let in")
        if self.server.admits is Admits.OWNER:
            self._welcome(OWNER)
            return
        assert guest is not None
        if guest.admission.authorize(Permission.CONNECT, self, now_ns(), self._let_in):
            self._welcome(guest.admission.principal)

    def await_answer(self, again: Answer) -> Answer:
        """See `Asker`."""
        if self._asked >= ASKED_MAX:
            raise BudgetError(f"{ASKED_MAX} requests of this connection wait for an answer already")
        self._asked += 1

        def answered(allow: bool) -> None:
            self._asked -= 1
            again(allow)

        return answered

    def waits(self, prompt: Prompt) -> None:
        """See `Asker`: the client is told."""
        self.send(Wait(prompt.key, prompt.what.value))

    def _let_in(self, allow: bool) -> None:
        guest = self.server.guest
        assert guest is not None
        if allow:
            self._welcome(guest.admission.principal)
        else:
            self.end("the request to connect was denied, or not answered in time", "rights")

    def _welcome(self, principal: Principal) -> None:
        self._leave = self._plane.enter(principal, lambda why: self.end(why, "rights"), self._lose)
        self.principal, self.ready = principal, True
        self.line.turns = self._plane.turns_of(principal)
        guests = [guest.name for guest in self._plane.visible(principal)]
        self.send(Welcome(VERSION, principal.key, show_rights(principal.rights), guests[:1000]))

    def _lose(self, guest: str) -> None:
        """A guest was removed: the next of its name is another."""
        self.principal = self.principal.without(guest)

    def end_forbidden(self, guest: Guest) -> None:
        """The grants have changed: what they forbid ends."""
        own = self.server.guest is guest and not self.principal.may(Right.ADMIN, guest.name)
        if own and guest.admission.verdict(Permission.CONNECT, self.subject) is Verdict.DENY:
            self.end("the grant to connect was taken away", "rights")
        else:
            self.streams.end_forbidden(guest)

    def claim_changed(self, name: str, have: bool) -> None:
        """See `Claimant`."""
        self.send(Notice(0, "claim-got" if have else "claim-lost", name))

    def refuse(self, serial: int, error: Exception) -> None:
        """Answer a call with why not."""
        if isinstance(error, RightsError):
            log.warning("%s: %s: %s", self.server.label, self.subject.identity, error)
            self._plane.forbidden()
        if isinstance(error, RightsError) and not isinstance(error, Refused):
            guest = self.server.guest
            self._plane.refused(guest.name if guest else "", str(self.subject.identity), str(error))
        self.send(Fault(serial, code_of(error), str(error)))

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, call: Call) -> None:
        if not self.ready:
            self.send(Fault(call.serial, "rights", "not let in yet: say hello, and wait for the welcome"))
            return
        if len(self._calls) >= CALLS_MAX:
            self.send(Fault(call.serial, "busy", f"{CALLS_MAX} calls wait already"))
            return
        size = len(bytes(call.args))
        if size > ARGS_BYTES_MAX:
            self.send(Fault(call.serial, "limit", f"arguments of {size} bytes; {ARGS_BYTES_MAX} at most"))
            return
        if not self.account.fits(("call", self._called), CALL_BYTES + size):
            self.send(Fault(call.serial, "limit", f"no room for this call: {self.account.held} bytes wait already"))
            return
        self._calls.append((self._called, call))
        self._called += 1
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Calls are done one after another, in the order in which they came."""
        while self._calls:
            number, call = self._calls.popleft()
            try:
                await self.line.turns.do(self._do(call))
            except MillraceError as error:
                self.refuse(call.serial, error)
            except Exception:
                log.exception("%s: call %s of %s", self.server.label, call.method, self.subject.identity)
                self.send(Fault(call.serial, "internal", INTERNAL))
            self.account.hold(("call", number), 0)
        self._worker = None

    async def _do(self, call: Call) -> None:
        if self.server.guest is not None:
            self.server.guest.admission.demand_known(self.subject)
        own = self._methods.get(call.method)
        if own is not None:
            takes, run = own
            run(call.serial, parsed(takes, call.args))
            return
        value = await self._plane.run(self.principal, call.method, call.args)
        self.send(Reply(call.serial, await as_msgpack(value)))
