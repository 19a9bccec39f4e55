"""HTTP and WebSocket: listeners and the API, on TCP and on a private unix socket.

Every request comes from a holder (daemon/gate.py); each handler demands the right it takes. What a holder may
not see is answered as if it were not there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web
from prometheus_client import CONTENT_TYPE_LATEST

from millrace.daemon import page, verbs
from millrace.daemon.api import HOLDER, Api, holder_of
from millrace.daemon.events import EventStream
from millrace.daemon.gate import COOKIE, Gate
from millrace.daemon.listener import ListenerSession
from millrace.daemon.metrics import exposition
from millrace.errors import ConfigError, GraphError, MillraceError, PeerLost, ProtocolError, RightsError
from millrace.io.clock import now_ns
from millrace.rights.model import Certificate, Right
from millrace.wire.peer.messages import MESSAGE_MAX, Fault, encode_message

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon

log = logging.getLogger("millrace.web")

LINE_BYTES_MAX = 48 * 1024
"""What may wait in a listener's line before its own queue (which can drop) takes over."""
SEND_BUFFER_BYTES = 32 * 1024
TICK_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _frame_header(size: int, opcode: int) -> bytes:
    """An unmasked, final WebSocket frame header (RFC 6455, section 5.2)."""
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((size,))
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2, "big")
    return first + b"\x7f" + size.to_bytes(8, "big")


class Line:
    """Writes whole WebSocket frames from the cycle, with no task in between.

    aiohttp's `send_bytes` is a coroutine; waking a task for every packet of every listener costs
    more than the graph does. Frames go to the transport whole, so they never mix with aiohttp's own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def write(self, messages: Sequence[str | bytes]) -> None:
        """Put messages on the line, with one system call."""
        parts: list[bytes] = []
        for message in messages:
            opcode, data = (1, message.encode()) if isinstance(message, str) else (2, message)
            parts += (_frame_header(len(data), opcode), data)
        if not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def room(self) -> bool:
        """Whether it can take more without piling up."""
        return self._transport.get_write_buffer_size() < LINE_BYTES_MAX


BROKEN_OFF = (None, WSCloseCode.ABNORMAL_CLOSURE)
"""Without the WebSocket's own goodbye (RFC 6455, section 7.1.5)."""


class Web:
    """The daemon's HTTP side."""

    def __init__(self, daemon: Daemon, token: str, certificates: Sequence[Certificate] = ()) -> None:
        self._daemon = daemon
        self._gate = Gate(token, daemon.access, certificates)
        self._api = Api(daemon.commands, daemon.turns_of)
        self._sockets: dict[ListenerSession, web.WebSocketResponse] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[bool]] = set()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MESSAGE_MAX, middlewares=[self._guarded])
        mine = [
            web.get("/api/v1/events", self._events), web.get("/metrics", self._metrics), web.get("/ready", self._ready),
            web.get("/", page.serve), web.get("/page/{name}", page.serve), web.post("/session", self._session),
            web.get("/{guest}", self._listen),
        ]  # fmt: skip
        app.add_routes([*self._api.routes(), *mine])
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/" or request.path.startswith("/page/"):
            return await handler(request)
        try:
            request[HOLDER] = self._gate.holder(request)
        except web.HTTPException as error:
            self._daemon.doctor.refused("", request.remote or "unix", f"{error.status} {request.method} {request.path}")
            raise
        try:
            return await handler(request)
        except RightsError as error:
            self._daemon.forbidden += 1
            self._daemon.doctor.refused("", holder_of(request).key, f"{request.method} {request.path}")
            log.warning("%s: %s %s", error, request.method, request.path)
            return web.json_response({"error": str(error)}, status=403)
        except verbs.NotFound as error:
            return web.json_response({"error": str(error)}, status=404)
        except (ConfigError, GraphError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _session(self, request: web.Request) -> web.Response:
        """A page's own way in: a browser can't send a token with a WebSocket, so it gets a cookie for it."""
        answer = web.json_response({"you": holder_of(request).key}, headers={"Cache-Control": "no-store"})
        made = self._gate.session(request)
        if made:
            answer.set_cookie(COOKIE, made, httponly=True, samesite="Strict", secure=request.secure, path="/")
        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """The registry, as it changes; `?kinds=stream,listener` for some of it."""
        kinds = request.query.get("kinds")
        line = web.WebSocketResponse(heartbeat=20.0, max_msg_size=4096)
        await line.prepare(request)
        wanted = frozenset(kinds.split(",")) if kinds else None
        await EventStream(self._daemon.registry, holder_of(request), wanted).serve(line)
        return line

    async def _metrics(self, request: web.Request) -> web.Response:
        holder = holder_of(request)
        guests = self._daemon.commands.visible(holder)
        text = exposition(self._daemon, guests, whole=holder.may(Right.SEE))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _ready(self, request: web.Request) -> web.Response:
        """Whether sound can flow and changes are kept: 503 and why, if not."""
        trouble = self._daemon.store.trouble
        return web.json_response({"ready": not trouble, "trouble": trouble}, status=503 if trouble else 200)

    # -- listeners ---------------------------------------------------------------------------

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        holder = holder_of(request)
        guest = self._daemon.commands.guest(holder, request.match_info["guest"], Right.HEAR)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(
                text=f"this is a WebSocket: millrace listen ws://{request.host}/{guest.name}\n"
            )
        socket_ = web.WebSocketResponse(max_msg_size=MESSAGE_MAX, compress=False)
        await socket_.prepare(request)
        assert request.transport is not None
        line = Line(request.transport)
        address = request.remote or "local"
        id_ = self._daemon.ids.take()
        session = ListenerSession(guest, id_, address, line.write, line.room, now_ns(), holder)
        guest.sessions.append(session)
        guest.on_listener("new", session)
        self._sockets[session] = socket_
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            await self._serve(session, socket_)
        finally:
            del self._sockets[session]
            guest.sessions.remove(session)
            guest.on_listener("remove", session)
            session.closed()
        return socket_

    async def _serve(self, session: ListenerSession, socket_: web.WebSocketResponse) -> None:
        async for message in socket_:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            try:
                with session.guest.turns:
                    session.receive(message.data, now_ns())
                await session.guest.turns.turn()
            except (ProtocolError, MillraceError) as error:
                log.warning("listener %s: %s", session.address, error)
                self._daemon.doctor.violated(session.guest.name, session.outlet.key, error, "listener")
                session.outlet.send(encode_message(Fault("protocol", str(error), fatal=True)))
                session.closing = True
            if session.closing:
                break
        if socket_.close_code in BROKEN_OFF and not session.closing:
            self._daemon.doctor.left(session)
        await socket_.close()

    def refused(self) -> int:
        """Requests that were not let in."""
        return self._gate.refused

    def end_holder(self, key: str, why: str) -> None:
        """A holder's rights have ended: so does what runs by them, at once."""
        for session, socket_ in list(self._sockets.items()):
            if session.holder.key == key and not session.closing:
                session.farewell(why, again=False)
                self._end(session, socket_)

    def _end(self, session: ListenerSession, socket_: web.WebSocketResponse) -> None:
        """Close without waiting for an answer, and take its sound away now."""
        session.closing = True
        session.closed()
        closing = asyncio.get_running_loop().create_task(socket_.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _tick(self) -> None:
        """One task serves the timers of all listeners, while there are any."""
        while self._sockets:
            await asyncio.sleep(TICK_S)
            self._daemon.access.end_expired()
            now = now_ns()
            for session, socket_ in list(self._sockets.items()):
                try:
                    session.tick(now)
                except PeerLost as error:
                    log.info("listener %s: %s", session.address, error)
                    if not session.closing:
                        self._daemon.doctor.gone_silent(session, str(error))
                        self._end(session, socket_)
        self._ticker = None
