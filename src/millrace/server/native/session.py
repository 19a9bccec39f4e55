"""Sessions of the native protocol: authentication, calls and streams of one connection."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import ExitStack
from typing import Any, Protocol

from msgspec.structs import replace

from millrace.absent import nothing
from millrace.budget import CONNECTIONS, REQUESTS, UNREAD
from millrace.control.livesessions import Leave
from millrace.control.plane import ControlPlane, LocalGuests
from millrace.control.registry import Encode, native_frames
from millrace.control.requests import parsed
from millrace.doors.admission import Admission, Refused
from millrace.errors import BudgetError, MillraceError, PeerLost, ProtocolError, RightsError
from millrace.guest.guest import Guest
from millrace.guest.native import NativeStreams
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.io.listeners import Listeners
from millrace.io.senderidentity import SenderIdentity
from millrace.io.turns import Turns
from millrace.rights.grants import Identity, Permission, Verdict
from millrace.rights.model import OWNER, Admits, Principal, Right, show_rights
from millrace.rights.prompts import Prompt
from millrace.server.http.answers import as_msgpack
from millrace.server.native.calls import Calls
from millrace.server.native.own import OwnMethods
from millrace.server.native.state import SessionState
from millrace.symptoms import refusal, violation
from millrace.text import printable
from millrace.wire.native.messages import VERSION, Call, Fault, Hello, Message, Notice, Reply, Wait, Welcome
from millrace.wire.native.session import NativeWire

log = logging.getLogger("millrace.native")
SESSION_BYTES = 24 * 1024
"""Memory of a connection."""
INTERNAL = "an internal error; the daemon's log has it"


def code_of(error: Exception) -> str:
    """The protocol's code for an error."""
    return error.word if isinstance(error, MillraceError) else "internal"


class Entrance(Protocol):
    """The listening socket of a connection: the daemon's own, or that of `guest`."""

    plane: ControlPlane
    guests: LocalGuests
    """Those of this process, for streams."""
    listeners: Listeners
    guest: Guest | None
    admits: Admits
    turns: Turns
    sessions: dict[NativeSession, None]
    """Its connections, oldest first."""

    @property
    def label(self) -> str:
        """The guest and the door, for the log."""
        ...


class NativeSession:
    """One connection. It has no rights until it has sent hello and is authorized.

    It starts with a new `state`, or continues with the state of another session that was frozen.
    """

    def __init__(self, server: Entrance, sock: socket.socket, state: SessionState) -> None:
        self.server, self._plane, self.state = server, server.plane, state
        self.subject = state.subject
        if server.guest is None:
            budget, who = self._plane.budget_of(OWNER), OWNER.key
        else:
            admission = server.guest.admission
            budget, who = admission.budget, admission.whose(self.subject)
        self.account = budget.open("connection", {"itself": SESSION_BYTES}, CONNECTIONS, who)
        self._leave: Leave = nothing
        self.encode: Encode = native_frames
        self.closed = self._freezing = False
        self._calls = Calls(state, self.account)
        self.await_answer = self._calls.await_answer
        self._worker: asyncio.Task[None] | None = None
        self.wire = NativeWire(daemon=True, state=state.wire)
        self.streams = NativeStreams(self)
        self._methods = self.streams.methods | OwnMethods(self, self._plane).table
        server.sessions[self] = None
        server.guests.joined(self)
        self.server.listeners.arrive(self)
        self.connection = FdStream(
            sock, self.wire, self._after, self._ended, last_word=self._last_word, turns=server.turns,
            may_wait=lambda unsent: self.account.fits("unread", unsent, UNREAD), whose=server.label,
            gone=self._gone, outgoing=state.outgoing,
        )  # fmt: skip
        self.is_behind = self.connection.is_behind
        if self.subject.identity.unproven:
            self.connection.sender = SenderIdentity(sock.fileno(), self.subject.identity, self._identified)
        try:
            if not self.closed:
                self._go_on()
                self.connection.flush()
        except MillraceError as error:
            self.end(str(error), code_of(error))

    def _go_on(self) -> None:
        """Continue from `state`."""
        state = self.state
        self.streams.resume(state.streams, self.server.guests.visible(OWNER))
        state.streams.clear()
        self._calls.resume()
        if state.greeted:
            self.server.listeners.pending.enter(self)
        if state.ready:
            state.principal = self._renewed()
            self._enter()
            self._plane.resume(self, state.held)
        elif state.greeted:
            self._admit()
        if state.ready and self.server.guest is not None:
            self.end_forbidden(self.server.guest.name)
        self._after()
        self._work_soon()

    def _renewed(self) -> Principal:
        """Its current rights; RightsError if there are none left."""
        if self.state.token:
            return self._plane.renewed(self.principal)
        return OWNER if self.server.guest is None else self.server.guest.admission.principal

    async def freeze(self) -> tuple[SessionState, socket.socket]:
        """Detach from the connection and return its state and socket, with which another session continues.

        A running call is finished first. The client notices nothing. PeerLost if it disconnects meanwhile.
        """
        self._freezing = True
        if self._worker is not None:
            await self._worker
        if self.closed:
            raise PeerLost("the connection ended before it was handed on")
        self.state.streams = self.streams.freeze()
        self.state.held = self._plane.held(self)
        sock, self.state.outgoing = self.connection.hand_on()
        self.closed = True
        self._leave_all()
        self._forgotten()
        return self.state, sock

    @property
    def name(self) -> str:
        """The program's own name for itself."""
        return self.state.name

    @property
    def principal(self) -> Principal:
        """The principal with whose rights it acts."""
        return self.state.principal

    @property
    def kinds(self) -> frozenset[str] | None:
        """See `Watcher`."""
        return self.state.kinds

    def watch(self, kinds: frozenset[str] | None) -> None:
        """See `Connection`."""
        self.state.kinds = kinds
        self._plane.watch(self)

    def _identified(self, identity: Identity) -> None:
        """The sender has been identified: apply its program's rules. With a token, the token's rules apply instead."""
        guest = self.server.guest
        if self.state.token or not Admission.identify(self.subject, identity) or guest is None:
            return
        if self.state.ready and not guest.admission.allows(Permission.CONNECT, self.subject):
            self.end(f"{identity} has no grant to connect to guest {guest.name}", "rights")
        else:
            self.streams.end_forbidden(guest.name)

    def is_closing(self) -> bool:
        """See `PendingConnection`."""
        return self.closed

    def abort(self) -> None:
        """See `PendingConnection`: its descriptor is needed for others."""
        self.end("no hello arrived, and others are waiting")
        self.connection.close()

    # -- sending ---------------------------------------------------------------------------------

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message; it is sent on the next pass of the event loop."""
        if self.closed:
            for fd in fds:
                os.close(fd)
            return
        self.wire.send_message(message, fds)
        self.connection.flush_soon()

    def reply(self, serial: int, value: Any = None) -> None:
        """Answer a call."""
        self.send(Reply(serial, value))

    def guest(self, name: str, right: Right) -> Guest:
        """See `guest.native.Session`."""
        return self.server.guests.guest(self.principal, name, right)

    def send_objects(self, made: bytes) -> None:
        """See `Watcher`."""
        if not self.closed:
            self.wire.send_frame(made)
            self.connection.flush_soon()

    def give_up(self) -> None:
        """See `Watcher`."""
        self.end(INTERNAL, "internal")

    def end(self, why: str, code: str = "busy") -> None:
        """End the connection with a reason."""
        if self.closed:
            return
        if code == "rights":
            # Without rights, it must not receive the messages still queued for it.
            self.connection.forget()
        self.wire.send_message(Fault(0, code, why))
        self.connection.finish()
        self._cease()

    def _last_word(self, why: Exception) -> None:
        if not isinstance(why, MillraceError):
            self.wire.send_message(Fault(0, "internal", INTERNAL))
            return
        code = "busy" if isinstance(why, PeerLost) else code_of(why)
        self.wire.send_message(Fault(0, code if code != "internal" else "protocol", printable(why)))

    def _ended(self, why: Exception) -> None:
        if isinstance(why, ProtocolError):
            log.warning("%s: connection of %s ended: %s", self.server.label, self.subject.identity, why)
            guest = self.server.guest
            self._plane.report(violation(guest.name if guest else "", str(self.subject.identity), why))
        elif not isinstance(why, PeerLost):
            level = logging.WARNING if isinstance(why, BudgetError) else logging.ERROR
            log.log(level, "%s: connection of %s ended: %s", self.server.label, self.subject.identity, why)
        self._cease()

    def _cease(self) -> None:
        """Stop serving it. The final messages may still have to be sent."""
        if self.closed:
            return
        self.closed = True
        self._leave_all()
        self.wire.close()
        # Only queued calls are dropped. A running one finishes, or its change could be saved but not made.
        self.state.calls.clear()

    def _leave_all(self) -> None:
        # Each is done whatever becomes of the others, the last named first.
        with ExitStack() as leaving:
            leaving.callback(self._plane.release, self)
            leaving.callback(self.streams.close)
            leaving.callback(self.server.listeners.pending.left, self)
            leaving.callback(self._leave)

    def _gone(self) -> None:
        """The socket is closed: release what is left."""
        self._forgotten()
        self._cease()

    def _forgotten(self) -> None:
        self.account.close()
        self._methods = {}  # They are bound to this: a cycle, which only a full collection frees (daemon/collector.py).
        self.server.sessions.pop(self, None)

    # -- receiving -------------------------------------------------------------------------------

    def _after(self) -> None:
        self.account.hold("message", self.wire.partial_bytes, REQUESTS)
        for message, _ in self.wire.events():
            if self.closed:
                return
            if isinstance(message, Hello):
                self._hello(message)
            elif isinstance(message, Call):
                self._call(message)

    def _hello(self, hello: Hello) -> None:
        if self.state.greeted:
            self.end("hello was already sent", "protocol")
            return
        self.state.greeted = True
        self.server.listeners.pending.enter(self)
        self.state.name = hello.name[:100]
        if hello.version < 1:
            self.end(f"version {hello.version} of the native protocol is not supported: use {VERSION}", "protocol")
            return
        try:
            self._authorize(hello)
        except MillraceError as error:
            self.end(str(error), code_of(error))

    def _authorize(self, hello: Hello) -> None:
        """Authenticate: by a token, by the daemon's own socket, or as a program of the socket's guest."""
        if hello.token:
            identity = self.subject.identity
            principal = self._plane.let_in(hello.token, f"uid {identity.uid}")
            # Grants then apply to the token's name, whatever program uses it.
            self.state.token = True
            self.subject.identity = replace(identity, sandbox=principal.key.replace("/", ":"), unproven=False)
            self._welcome(principal)
            return
        if not self.subject.ours:
            raise RightsError("a token is needed: only the daemon's own user connects without one")
        if self.server.admits is Admits.OWNER:
            self._welcome(OWNER)
            return
        self._admit()

    def _admit(self) -> None:
        """Admit it by the grants of the socket's guest, perhaps after a prompt."""
        guest = self.server.guest
        assert guest is not None
        if guest.admission.authorize(Permission.CONNECT, self, now_ns(), self._let_in):
            self._welcome(guest.admission.principal)

    def waits(self, prompt: Prompt) -> None:
        """See `Asker`: tell the client that it has to wait."""
        self.send(Wait(prompt.key, prompt.what.value))

    def _let_in(self, allow: bool) -> None:
        guest = self.server.guest
        assert guest is not None
        if allow:
            self._welcome(guest.admission.principal)
        else:
            self.end("the request to connect was denied, or not answered in time", "rights")

    def _welcome(self, principal: Principal) -> None:
        self.state.principal, self.state.ready = principal, True
        self._enter()
        guests = self._plane.names(principal)
        self.send(Welcome(VERSION, principal.key, show_rights(principal.rights), guests[:1000]))

    def _enter(self) -> None:
        """Register the authenticated session under its principal."""
        principal = self.principal
        if self.server.guest is None:
            self.account.belong(principal.key)
        self._leave = self._plane.enter(principal, lambda why: self.end(why, "rights"), self._lose)
        self.connection.turns = self._plane.turns_of(principal)

    def _lose(self, guest: str) -> None:
        """A guest was removed: a later one of the same name is a different guest."""
        self.state.principal = self.principal.without(guest)

    def end_forbidden(self, guest: str) -> None:
        """The grants of a guest have changed: end what they now forbid."""
        own = self.server.guest
        bound = own if own is not None and own.name == guest and not self.principal.may(Right.ADMIN, guest) else None
        if bound is not None and bound.admission.verdict(Permission.CONNECT, self.subject) is Verdict.DENY:
            self.end("the grant to connect was revoked", "rights")
        else:
            self.streams.end_forbidden(guest)

    def claim_changed(self, name: str, have: bool) -> None:
        """See `Claimant`."""
        self.send(Notice(0, "claim-got" if have else "claim-lost", name))

    def refuse(self, serial: int, error: Exception, method: str = "a stream") -> None:
        """Answer a call of `method` with an error."""
        if isinstance(error, RightsError):
            log.warning("%s: %s: %s", self.server.label, self.subject.identity, error)
            self._plane.forbidden()
        if isinstance(error, RightsError) and not isinstance(error, Refused):
            guest = self.server.guest
            named = guest.name if guest else ""
            self._plane.report(refusal(named, str(self.subject.identity), method, str(error)))
        self.send(Fault(serial, code_of(error), str(error) if isinstance(error, MillraceError) else INTERNAL))

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, call: Call) -> None:
        if not self.state.ready:
            self.send(Fault(call.serial, "rights", "not authenticated yet: send hello and wait for welcome"))
            return
        if (fault := self._calls.add(call)) is not None:
            self.send(fault)
            return
        self._work_soon()

    def _work_soon(self) -> None:
        if self._worker is None and self._calls and not self._freezing:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Run queued calls one at a time, in order."""
        while self._calls and not self._freezing:
            number, call = self._calls.take()
            try:
                await self.connection.turns.do(self._do(number, call))
            except MillraceError as error:
                self.refuse(call.serial, error, call.method)
            except Exception:
                log.exception("%s: call %s of %s", self.server.label, call.method, self.subject.identity)
                self.send(Fault(call.serial, "internal", INTERNAL))
            self._calls.done(number)
        self._worker = None

    async def _do(self, number: int, call: Call) -> None:
        if self.server.guest is not None:
            self.server.guest.admission.demand_known(self.subject)
        if (own := self._methods.get(call.method)) is not None:
            takes, run = own
            with self._calls.running(number, call):
                run(call.serial, parsed(takes, call.args))
            return
        self.send(Reply(call.serial, await as_msgpack(await self._plane.run(self.principal, call.method, call.args))))
