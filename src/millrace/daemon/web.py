"""HTTP and WebSocket: listeners and the API, on TCP and on a private unix socket.

Who may: a unix peer may everything (the socket is private). On TCP a bearer token is required
unless the peer is on loopback. A request that a foreign web page made (its Origin is not this
host) is refused even from loopback: a browser would otherwise let any page listen in.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from millrace import __version__
from millrace.daemon import verbs
from millrace.daemon.doorspec import parse_door
from millrace.daemon.listener import ListenerSession
from millrace.daemon.views import guest_view
from millrace.errors import ConfigError, GraphError, MillraceError, PeerLost, ProtocolError
from millrace.io.clock import now_ns
from millrace.wire.peer.messages import MESSAGE_MAX, Fault, encode_message

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon

log = logging.getLogger("millrace.web")

LINE_BYTES_MAX = 48 * 1024
"""What may wait in a listener's line before its own queue (which can drop) takes over."""
SEND_BUFFER_BYTES = 32 * 1024
TICK_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _trusted(request: web.Request) -> bool:
    """A private unix socket, or loopback."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer or not isinstance(peer, tuple):
        return True
    try:
        return ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False


def _foreign_page(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _loopback_name(request: web.Request) -> bool:
    """DNS rebinding: a page's own host name may resolve to loopback; then Host tells."""
    host = urlsplit(f"//{request.host}").hostname or ""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Gate:
    """Lets requests in, or says no."""

    def __init__(self, token: str) -> None:
        self._token = token

    def check(self, request: web.Request) -> None:
        """Raise the HTTP refusal if this request may not."""
        if _foreign_page(request):
            raise web.HTTPForbidden(text="requests from other sites' pages are refused\n")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._token and hmac.compare_digest(given.encode(), self._token.encode()):
            return
        on_unix = request.transport is not None and not request.transport.get_extra_info("peername")
        if not _trusted(request) or not (on_unix or _loopback_name(request)):
            raise web.HTTPUnauthorized(
                text="a bearer token is needed from other machines: Authorization: Bearer TOKEN\n",
                headers={"WWW-Authenticate": 'Bearer realm="millrace"'},
            )


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


class Web:
    """The daemon's HTTP side."""

    def __init__(self, daemon: Daemon, token: str) -> None:
        self._daemon = daemon
        self._gate = Gate(token)
        self.refused = 0
        self._sockets: dict[ListenerSession, web.WebSocketResponse] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[bool]] = set()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MESSAGE_MAX, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/api/v1/state", self._state),
                web.post("/api/v1/set", self._set),
                web.post("/api/v1/move", self._move),
                web.post("/api/v1/links", self._link),
                web.delete("/api/v1/links", self._unlink),
                web.post("/api/v1/guests", self._guest_add),
                web.delete("/api/v1/guests/{guest}", self._guest_remove),
                web.post("/api/v1/guests/{guest}/doors", self._attach),
                web.delete("/api/v1/doors/{door}", self._detach),
                web.post("/api/v1/guests/{guest}/sinks", self._sink_add),
                web.delete("/api/v1/guests/{guest}/sinks/{sink}", self._sink_remove),
                web.get("/health", self._health),
                web.get("/{guest}", self._listen),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._gate.check(request)
        except web.HTTPException:
            self.refused += 1
            raise
        try:
            return await handler(request)
        except verbs.NotFound as error:
            return web.json_response({"error": str(error)}, status=404)
        except (ConfigError, GraphError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _body(self, request: web.Request, *required: str) -> dict[str, Any]:
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ConfigError("the request's body is not JSON") from None
        if not isinstance(body, dict) or any(key not in body for key in required):
            raise ConfigError(f"the request's body must be an object with {', '.join(required)}")
        return body

    # -- the API -----------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "version": __version__})

    async def _state(self, request: web.Request) -> web.Response:
        guests = [guest_view(guest) for guest in self._daemon.guests.values()]
        state = {"version": __version__, "listen": self._daemon.address, "refused": self.refused, "guests": guests}
        return web.json_response(state)

    async def _set(self, request: web.Request) -> web.Response:
        body = await self._body(request, "target", "settings")
        settings = body["settings"]
        if not isinstance(settings, dict):
            raise ConfigError("settings must be an object of strings")
        texts = {str(key): str(value) for key, value in settings.items()}
        verbs.change(self._daemon, str(body["target"]), texts, body.get("guest"))
        return web.json_response({"ok": True})

    async def _move(self, request: web.Request) -> web.Response:
        body = await self._body(request, "target", "to")
        verbs.move(self._daemon, str(body["target"]), str(body["to"]), body.get("guest"))
        return web.json_response({"ok": True})

    async def _link(self, request: web.Request) -> web.Response:
        body = await self._body(request, "source", "to")
        matrix = verbs.parse_matrix(body.get("matrix"))
        verbs.link(self._daemon, str(body["source"]), str(body["to"]), matrix, body.get("guest"))
        return web.json_response({"ok": True})

    async def _unlink(self, request: web.Request) -> web.Response:
        body = await self._body(request, "source", "to")
        verbs.unlink(self._daemon, str(body["source"]), str(body["to"]), body.get("guest"))
        return web.json_response({"ok": True})

    async def _guest_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, "name")
        options = {key: body[key] for key in ("rate", "channels") if body.get(key) is not None}
        guest = await self._daemon.add_guest(str(body["name"]), options)
        return web.json_response(guest_view(guest))

    async def _guest_remove(self, request: web.Request) -> web.Response:
        await self._daemon.remove_guest(request.match_info["guest"])
        return web.json_response({"ok": True})

    async def _attach(self, request: web.Request) -> web.Response:
        body = await self._body(request, "door")
        texts = {key: str(body.get(key) or "") for key in ("vm", "password", "ca_file")}
        spec = parse_door(str(body["door"]), **texts)
        return web.json_response(self._daemon.attach(request.match_info["guest"], spec).view())

    async def _detach(self, request: web.Request) -> web.Response:
        await self._daemon.detach(f"door/{request.match_info['door']}")
        return web.json_response({"ok": True})

    async def _sink_add(self, request: web.Request) -> web.Response:
        guest = self._daemon.guest(request.match_info["guest"])
        body = await self._body(request, "name")
        sink = verbs.add_sink(guest, str(body["name"]), str(body.get("description", "")))
        return web.json_response({"id": sink.key, "name": sink.name})

    async def _sink_remove(self, request: web.Request) -> web.Response:
        verbs.remove_sink(self._daemon.guest(request.match_info["guest"]), request.match_info["sink"])
        return web.json_response({"ok": True})

    # -- listeners ---------------------------------------------------------------------------

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        guest = self._daemon.guest(request.match_info["guest"])
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(
                text=f"this is a WebSocket: millrace listen ws://{request.host}/{guest.name}\n"
            )
        socket_ = web.WebSocketResponse(max_msg_size=MESSAGE_MAX, compress=False)
        await socket_.prepare(request)
        assert request.transport is not None
        line = Line(request.transport)
        address = request.remote or "local"
        session = ListenerSession(guest, self._daemon.ids.take(), address, line.write, line.room, now_ns())
        guest.sessions.append(session)
        self._sockets[session] = socket_
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            await self._serve(session, socket_)
        finally:
            del self._sockets[session]
            guest.sessions.remove(session)
            session.closed()
        return socket_

    async def _serve(self, session: ListenerSession, socket_: web.WebSocketResponse) -> None:
        async for message in socket_:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            try:
                session.receive(message.data, now_ns())
            except (ProtocolError, MillraceError) as error:
                log.warning("listener %s: %s", session.address, error)
                session.outlet.send(encode_message(Fault("protocol", str(error), fatal=True)))
                break
            if session.closing:
                break
        await socket_.close()

    async def _tick(self) -> None:
        """One task serves the timers of all listeners, while there are any."""
        while self._sockets:
            await asyncio.sleep(TICK_S)
            now = now_ns()
            for session, socket_ in list(self._sockets.items()):
                try:
                    session.tick(now)
                except PeerLost as error:
                    log.info("listener %s: %s", session.address, error)
                    # Without waiting for its answer: it gives none.
                    if session.closing:
                        continue
                    session.closing = True
                    closing = asyncio.get_running_loop().create_task(socket_.close())
                    self._closing.add(closing)
                    closing.add_done_callback(self._closing.discard)
        self._ticker = None
