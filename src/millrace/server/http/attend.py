"""Connections that last: listeners and viewers, from their handshake until they leave or their rights end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from aiohttp import WSCloseCode, web

from millrace.control.plane import ControlPlane, LocalGuests
from millrace.errors import MillraceError, PeerLost
from millrace.guest.encoders import load_encoders
from millrace.guest.guest import Guest
from millrace.guest.home import Home
from millrace.guest.listener import ListenerSession
from millrace.guest.notfound import NotFound
from millrace.guest.places import Held, Wanted, make_room
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns
from millrace.io.metered import charge, when_relieved
from millrace.io.timer import TimerRunner
from millrace.outlets.queue import Write
from millrace.rights.model import Principal, Right
from millrace.server.http.authentication import SUBPROTOCOL
from millrace.server.http.events import WebSocket, hang_up, messages
from millrace.server.http.frames import SEND_BUFFER_BYTES, FrameWriter
from millrace.server.http.ticker import Ticker
from millrace.symptoms import Evidence, Symptom, violation
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.peer.messages import MESSAGE_MAX
from millrace.wire.peer.pictures import SCREEN_SUBPROTOCOL

log = logging.getLogger("millrace.web")

DEADLINE_GRID_NS = 250 * NS_PER_MS
"""Grid to which deadlines are rounded up: see `Deadlines`."""
BROKEN_OFF = (None, WSCloseCode.ABNORMAL_CLOSURE)
"""Close codes of a connection that ended without a Close frame (RFC 6455, section 7.1.5)."""


class Attendee(Protocol):
    """The session of a listener or a viewer."""

    address: str
    closing: bool

    @property
    def principal(self) -> Principal:
        """Whose it is."""
        ...

    @property
    def guest(self) -> Home:
        """Its guest."""
        ...

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        ...

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Process one message; a MillraceError ends the session."""
        ...

    def relieved(self) -> None:
        """Its connection has room again after it was full."""
        ...

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        ...

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`; PeerLost if the peer is gone."""
        ...

    def tick(self, now_ns: HostNs) -> bool:
        """See `Ticked`."""
        ...

    def stop(self, why: str) -> Sequence[str | bytes]:
        """Its rights have ended. Cheap: it is sent nothing from now on but what this returns, which tells it why."""
        ...

    def fault(self, error: MillraceError) -> None:
        """Tell the peer which error ends the session."""
        ...

    def silent(self, stage: str, cause: str, evidence: Evidence, now_ns: HostNs) -> Symptom:
        """A symptom dated back to the peer's last message."""
        ...

    def closed(self) -> None:
        """The connection or its rights are gone."""
        ...

    def forget(self) -> None:
        """Let go of the connection."""
        ...


class Kind(NamedTuple):
    """A kind of connection: what it is called, the right it needs, and the command that makes one."""

    name: str
    right: Right
    protocols: tuple[str, ...]
    send_buffer: int | None
    """Of the kernel; None: as large as the kernel makes it. What is acknowledged can't build up a backlog there."""
    command: str


LISTENER = Kind("listener", Right.HEAR, (SUBPROTOCOL,), SEND_BUFFER_BYTES, "millrace listen {url}/{guest}")
VIEWER = Kind("viewer", Right.WATCH, (SCREEN_SUBPROTOCOL, SUBPROTOCOL), None, "millrace view {url}/{guest}")


class Attended(NamedTuple):
    """A WebSocket, a function that aborts its connection, the kind and number of its session, and what writes to it."""

    websocket: web.WebSocketResponse
    cut: Callable[[], None]
    kind: Kind
    write: Write
    number: int


class Deadlines:
    """A session's deadlines, in the form that timers use; a silent peer is lost.

    They need no millisecond accuracy, so they are rounded up to a grid shared by all sessions: a thousand idle
    listeners with keepalives wake the daemon four times a second instead of 125 times.
    """

    def __init__(self, session: Attendee, lost: Callable[[PeerLost], None]) -> None:
        self._session, self._lost = session, lost

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        deadline = None if self._session.closing else self._session.next_timeout()
        return None if deadline is None else -(-deadline // DEADLINE_GRID_NS) * DEADLINE_GRID_NS

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        try:
            self._session.handle_timeout(now_ns)
        except PeerLost as error:
            self._lost(error)


class Call(NamedTuple):
    """A `Worker` of a guest's turns that calls something once."""

    call: Callable[[], None]
    first: bool = False

    def work(self) -> bool:
        """See `Worker`."""
        self.call()
        return True


# A request of a listener or viewer lasts as long as its session. Its rights may end before that, so it registers with
# the plane (`enter`) and is ended from there.
class Attendants:
    """All listeners and viewers of the server."""

    def __init__(self, plane: ControlPlane, guests: LocalGuests) -> None:
        self._plane, self._guests = plane, guests
        self._sockets: dict[Attendee, Attended] = {}
        self._parting: dict[Attendee, Sequence[str | bytes]] = {}
        """Those that were stopped and are still connected, and what tells them why."""
        self._ticker = Ticker(self._failed)
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self, request: web.Request, kind: Kind, principal: Principal, address: str) -> web.StreamResponse:
        """Serve one connection of that kind, from its handshake to its end."""
        guest = self._guests.guest(principal, request.match_info["guest"], kind.right)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            way = kind.command.format(url=self._plane.place.url, guest=guest.name)
            raise web.HTTPUpgradeRequired(text=f"this is a WebSocket: {way}\n")
        if kind is VIEWER:
            await load_encoders()
        websocket = WebSocket(guest.turns, max_msg_size=MESSAGE_MAX, compress=False, protocols=kind.protocols)
        transport = request.transport
        if transport is None:
            # The client disconnected while the request waited for its turn; nobody reads this response.
            raise web.HTTPBadRequest(text="the connection is gone\n")
        charge(transport, guest.turns)
        number = self._guests.take_id()
        wake = self._ticker.waker(number)
        writer = FrameWriter(transport, websocket, kind.send_buffer, wake)
        session = self._session(kind, guest, principal, address, number, writer, wake)
        when_relieved(transport, partial(guest.turns.wait, Call(session.relieved)))
        try:
            await websocket.prepare(request)
            await self._attend(guest, session, Attended(websocket, transport.abort, kind, writer.write, number))
        finally:
            session.closed()
            session.forget()
        return websocket

    def _session(
        self, kind: Kind, guest: Guest, principal: Principal, address: str, number: int, writer: FrameWriter,
        wake: Callable[[], None],
    ) -> Attendee:  # fmt: skip
        write, room, now = writer.write, writer.room, now_ns()
        if kind is VIEWER:
            always = self._make_room(guest, principal)
            return ViewerSession(guest.viewers, number, address, write, room, now, principal, writer.passed, always)
        return ListenerSession(guest, number, address, write, room, now, principal, self._displace, wake)

    def _make_room(self, guest: Guest, principal: Principal) -> bool:
        """If the guest has no room for one more viewer of `principal`, let whoever has most give one up, if fair."""
        wanted = Wanted(VIEWER.name, principal, guest.name)
        return make_room(wanted, guest.viewers.has_room, partial(self._viewers, guest), self._plane.report)

    # The newest is asked, but whoever types last of all. One in its handshake can't be told anything yet, so it is not
    # asked for its place.
    def _viewers(self, guest: Guest) -> list[Held]:
        """The places that viewers have."""
        full, here = f"guest {guest.name} is full: this viewer made room for another", list[Held]()
        for one in sorted(guest.viewers.connected, key=lambda one: not one.keyboard.held):
            stays = one.closing or one not in self._sockets
            here.append(Held(VIEWER.name, one.principal, 1, None if stays else partial(self._displace, one, full)))
        return here

    # Its place and its memory are needed now, before it is its turn to be told.
    def _displace(self, session: Attendee, why: str) -> None:
        self._dismiss(session, why)
        session.closed()

    # Leaving undoes the steps of arriving in reverse order; `closed` may already have been called when the session
    # was ended from elsewhere.
    async def _attend(self, guest: Guest, session: Attendee, attended: Attended) -> None:
        """Serve a session from its arrival until it leaves."""
        try:
            # The handshake may have taken seconds: the guest may be gone by now, or the rights.
            if self._guests.guest(session.principal, guest.name, attended.kind.right) is not guest:
                raise NotFound(f"guest {guest.name} was removed")
            leave = self._plane.enter(session.principal, lambda why: self._dismiss(session, why), lambda guest: None)
        except MillraceError as error:
            session.fault(error)
            await hang_up(attended.websocket, attended.cut)
            return
        if isinstance(session, ListenerSession):
            guest.listener_changed("new", session)
        self._sockets[session] = attended
        self._ticker.enter(attended.number, session)
        deadlines = Deadlines(session, lambda error: self._lost(session, attended, error))
        timer = TimerRunner(deadlines, asyncio.get_running_loop())
        try:
            # In a task of its own, each message resumes this coroutine alone, and not the dozen of a request as well.
            await guest.turns.task(lambda: self._serve(session, attended, timer))
        finally:
            timer.stop()
            leave()
            del self._sockets[session]
            self._ticker.leave(attended.number)
            if isinstance(session, ListenerSession):
                guest.listener_changed("remove", session)
            session.closed()

    async def _serve(self, session: Attendee, attended: Attended, timer: TimerRunner) -> None:
        websocket, name = attended.websocket, attended.kind.name
        timer.rearm()
        async for message in messages(websocket, session.guest.turns):
            # It may have been ended while this message waited for its turn.
            if session.closing:
                break
            try:
                session.receive(message.data, now_ns())
            except MillraceError as error:
                log.warning("guest %s, %s %s: %s", session.guest.name, name, session.address, error)
                # A refusal is no violation; one for want of memory was reported by the budget that has no room.
                if error.listener_word not in ("settings", "graph", "limit"):
                    self._plane.report(violation(session.guest.name, session.key, error, name))
                session.fault(error)
                session.closing = True
            timer.rearm()
            if session.closing:
                break
        if websocket.close_code in BROKEN_OFF and not session.closing:
            self._plane.report(Symptom(name, "left", session.guest.name, session.key))
        self._part(session)
        await hang_up(websocket, attended.cut)

    # Hundreds of them may be one principal's. So they are stopped at once, and disconnected in their guest's turns.
    def _dismiss(self, session: Attendee, why: str) -> None:
        """One has lost its rights: it does and is sent nothing from now on."""
        if self._stop(session, why):
            session.guest.turns.wait(Call(partial(self._part, session)))

    def _stop(self, session: Attendee, why: str) -> bool:
        """Stop one that is to be parted from; False if it was stopped before."""
        if session.closing:
            return False
        session.closing = True
        self._parting[session] = session.stop(why)
        return True

    def _part(self, session: Attendee) -> None:
        """Disconnect one that was stopped, unless it has left meanwhile."""
        told, attended = self._parting.pop(session, None), self._sockets.get(session)
        if told is not None and attended is not None:
            attended.write(told)
            self._end(session, attended)

    async def end_guest(self, guest: Guest, why: str) -> None:
        """A guest is gone: disconnect its listeners and viewers, in its turns."""
        sessions = [session for session in self._sockets if session.guest is guest]
        for session in sessions:
            self._stop(session, why)
        for session in sessions:
            await guest.turns.turn()
            with guest.turns:
                self._part(session)

    def end_all(self) -> None:
        """The daemon stops, and has told them that: close their connections, for which their requests would wait."""
        for session, attended in list(self._sockets.items()):
            if not session.closing:
                self._end(session, attended)

    def _end(self, session: Attendee, attended: Attended) -> None:
        """Stop the sound or picture now, and close the WebSocket in the background."""
        session.closing = True
        session.closed()
        hanging_up = hang_up(attended.websocket, attended.cut)
        closing = asyncio.get_running_loop().create_task(session.guest.turns.do(hanging_up))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _lost(self, session: Attendee, attended: Attended, error: PeerLost) -> None:
        """A peer has disappeared without closing."""
        log.info("guest %s, %s %s: %s", session.guest.name, attended.kind.name, session.address, error)
        if not session.closing:
            self._plane.report(session.silent("network", "gone silent", {"error": str(error)}, now_ns()))
            self._end(session, attended)

    # An internal error must end at most this one session.
    def _failed(self, session: Attendee, error: Exception) -> None:
        """A session's tick has raised."""
        attended = self._sockets.get(session)
        if attended is None:
            return
        if isinstance(error, PeerLost):
            self._lost(session, attended, error)
            return
        who = f"guest {session.guest.name}, {attended.kind.name} {session.address}"
        if isinstance(error, MillraceError):
            log.warning("%s: ended: %s", who, error)
        else:
            log.error("%s: ended because of an internal error", who, exc_info=error)
        if not session.closing:
            self._end(session, attended)
