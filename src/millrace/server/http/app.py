"""HTTP and WebSocket: listeners and the API, on TCP and on a private unix socket.

Each listening socket has a gate (server/http/authentication.py) that authenticates requests. Each handler demands the
right it needs. Objects that a principal may not see are reported as missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from urllib.parse import quote

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from millrace.control.plane import ControlPlane, LocalGuests
from millrace.errors import ConfigError, GraphError, RightsEnded, RightsError
from millrace.guest.guest import Guest
from millrace.io.listeners import Listeners
from millrace.io.metered import charge
from millrace.rights.model import Certificate, Principal
from millrace.server.http import assets as page
from millrace.server.http.answers import refusal_of, send
from millrace.server.http.api import ADDRESS, PREFIX, PRINCIPAL, Api, charged, principal_of
from millrace.server.http.attend import LISTENER, VIEWER, Attendants
from millrace.server.http.authentication import (
    INVALID,
    ForeignPage,
    Gate,
    NetworkGate,
    PrivateGate,
    credential,
)
from millrace.server.http.origins import Addresses, parse_host
from millrace.server.http.watchers import Watchers
from millrace.symptoms import Symptom, refusal, refused_request
from millrace.text import clean_utf8, printable, quoted
from millrace.wire.peer.messages import MESSAGE_MAX, REASON

log = logging.getLogger("millrace.web")

PROXIES_MAX = 16
"""Untrusted proxies that are reported."""
REFUSALS = (400, 401, 403, 429)

GATE = web.RequestKey("gate", Gate)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _check_headers(request: web.Request) -> None:
    """Refuse headers that are not UTF-8 (they decode to surrogates, which fail to encode) and bad Host headers."""
    for name, value in request.headers.items():
        if not (value.isascii() if name.lower().startswith("sec-websocket-") else clean_utf8(value)):
            raise web.HTTPBadRequest(text=f"the header {printable(name)} is not valid text\n")
    host = request.headers.get("Host")
    if host and parse_host(host) is None:
        raise web.HTTPBadRequest(text=f"Host: {quoted(host)} is neither HOST nor HOST:PORT\n")


def _no_command(request: web.Request) -> str:
    return f"there is no {request.method} {printable(request.path)}; GET {PREFIX}/openapi.json lists what there is"


# The path of a request, from the outside in. `_counted` decides whether its connection is pending (may be closed
# after a timeout, or when descriptors run short) or belongs to a principal. `_guarded` authenticates, except for the
# page's files, the two health checks and signing in, which authenticates by itself. From then on the principal's
# share of time is charged, and each route demands the right it needs.
#
# A listener's or viewer's connection leaves this path: see attend.py.
class Web:
    """The daemon's HTTP server."""

    def __init__(
        self, plane: ControlPlane, guests: LocalGuests, listeners: Listeners, addresses: Addresses,
        certificates: Sequence[Certificate],
    ) -> None:  # fmt: skip
        self._plane, self._guests, self._listeners = plane, guests, listeners
        self._private = PrivateGate(plane, addresses)
        self._network = NetworkGate(plane, addresses, certificates)
        self._api = Api(plane)
        self._attendants = Attendants(plane, guests)
        self._framers = sorted(map(str, addresses.allowed))
        """Origins whose pages may show a desktop in a frame."""
        self._proxies: set[str] = set()
        """Untrusted proxies that have been reported."""
        self._watchers = Watchers(plane, guests)

    def private(self) -> web.Application:
        """The application for the daemon's own unix socket."""
        return self._application(self._private)

    def network(self) -> web.Application:
        """The application for TCP."""
        return self._application(self._network)

    def _application(self, gate: Gate) -> web.Application:
        """All routes, behind a gate."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guarded(gate, request, handler)

        app = web.Application(client_max_size=MESSAGE_MAX, middlewares=[self._counted, guarded])
        mine = [
            web.get("/api/v1/events", self._watchers.events), web.get("/api/v1/thumbnails", self._watchers.thumbnails),
            web.get("/metrics", self._metrics),
            web.get("/health", self._health), web.get("/ready", self._ready),
            web.get("/", page.serve), web.get(f"/page/{page.EMBEDDED}", self._embedded),
            web.get("/page/{name}", page.serve),
            web.post("/session", self._session), web.delete("/session", self._sign_out),
            web.get("/{guest}", self._listen), web.get("/{guest}/screen", self._watch),
        ]  # fmt: skip
        app.add_routes([*self._api.routes(), *mine])
        return app

    # A connection is reused by further requests. After an authenticated one it rests and may be closed to make room,
    # oldest first; after any other it is a stranger's again, with a stranger's deadline, whatever it was before.
    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a connection as pending except while it serves an authenticated peer."""
        listeners, transport = self._listeners, request.transport
        try:
            _check_headers(request)
            return await handler(request)
        finally:
            if transport is not None and PRINCIPAL in request:
                listeners.rest(transport)
            elif transport is not None:
                listeners.arrive(transport)

    async def _known(self, principal: Principal, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve an authenticated request, and charge it and those after it on this connection to the principal."""
        request[PRINCIPAL], turns = principal, self._plane.turns_of(principal)
        if request.transport is not None:
            self._listeners.pending.enter(request.transport)
            charge(request.transport, turns)

        async def serve() -> web.StreamResponse:
            return await handler(request)

        with closing(charged(request, self._plane.budget_of(principal), principal.key)):
            return await turns.do(serve())

    async def _guarded(self, gate: Gate, request: web.Request, handler: Handler) -> web.StreamResponse:
        # Match on the handler rather than the path, which can be spelled in many ways.
        serves = request.match_info.handler
        if serves in (page.serve, self._embedded, self._health, self._ready):
            return await handler(request)
        request[GATE], request[ADDRESS] = gate, gate.address(request)
        try:
            # A sign-in link is valid only in its own handler, which authenticates by itself.
            if serves == self._session:
                return await handler(request)
            with self._plane.strangers:
                principal = gate.principal(request)
            self._note_proxy(gate.untrusted_proxy(request))
            return await self._known(principal, request, handler)
        except web.HTTPException as error:
            if error.status in REFUSALS:
                # Delay the connection's next request until the strangers' share permits it, however many there are.
                await self._plane.strangers.turn()
                self._turned_away(gate, request, error)
            # aiohttp's own refusals of a handshake quote the header as it came.
            error.text = "\n".join(printable(line, len(line)) for line in (error.text or "").split("\n"))
            if error.status >= 400 and request.path.startswith(f"{PREFIX}/"):
                # API errors have the form in the API's description, wherever they are raised.
                why = _no_command(request) if error.status in (404, 405) else (error.text or "").strip()
                error.text, error.content_type = json.dumps({"error": why}), "application/json"
            raise
        except RightsError as error:
            self._plane.forbidden()
            what = f"{request.method} {request.path}"
            self._plane.report(refusal("", principal_of(request).key, what, str(error)))
            log.warning("principal %s: %s: %s %s", principal_of(request).key, error, request.method, request.path)
            headers = INVALID if isinstance(error, RightsEnded) else None
            return web.json_response(refusal_of(error), status=error.status, headers=headers)
        except (ConfigError, GraphError) as error:
            headers = {REASON: quote(printable(error), safe=" ',;:()/")}
            return web.json_response(refusal_of(error), status=error.status, headers=headers)

    # A page that opens does not know whether anything admits it (a session, a certificate), so it asks: a request that
    # claims nothing and gets 401 is not a sign of trouble.
    def _turned_away(self, gate: Gate, request: web.Request, error: web.HTTPException) -> None:
        """Report a refused request, unless it only lacks a credential."""
        if error.status == 401 and credential(request) is None:
            return
        cause = "foreign page" if isinstance(error, ForeignPage) else "malformed" if error.status == 400 else "refused"
        what, why = f"{error.status} {request.method} {request.path}", (error.text or "").strip()
        self._plane.report(refused_request(cause, gate.address(request), what, why))

    def _note_proxy(self, peer: str) -> None:
        """Report a proxy that is not trusted, once: the setting can't change while the daemon runs."""
        if peer and peer not in self._proxies and len(self._proxies) < PROXIES_MAX:
            self._proxies.add(peer)
            self._plane.report(Symptom("rights", "untrusted proxy", "", "", {"who": peer}))

    async def _embedded(self, request: web.Request) -> web.Response:
        """Serve the page for frames of other pages."""
        return await page.serve_embedded(self._framers)

    async def _session(self, request: web.Request) -> web.Response:
        """Sign a page in: exchange its token or link for a session that it may store."""
        principal, session = request[GATE].session(request)
        told = {"you": principal.key} | ({} if session is None else {"session": session})
        return web.json_response(told, headers={"Cache-Control": "no-store"})

    async def _sign_out(self, request: web.Request) -> web.Response:
        """Sign a page out: end its session and what runs on it."""
        principal = principal_of(request)
        if not principal.session:
            raise web.HTTPBadRequest(text="no session to end: this request used a token, or no credential\n")
        await self._plane.sign_out(principal)
        return web.json_response({"ok": True}, headers={"Cache-Control": "no-store"})

    def end_watchers(self, why: str) -> None:
        """The daemon stops: who watches the objects or the thumbnails is told why."""
        self._watchers.end_all(why)

    def end_attendants(self) -> None:
        """The daemon stops: the connections of listeners and viewers, who know it by now, are closed."""
        self._attendants.end_all()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        principal = principal_of(request)
        text = self._plane.metrics(principal)
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return await send(request, text, headers, self._plane.budget_of(principal), principal.key)

    async def _health(self, request: web.Request) -> web.Response:
        """Liveness. Needs no token, for load balancers, and reveals nothing else."""
        return web.json_response({"ok": True}, headers={"Cache-Control": "no-store"})

    async def _ready(self, request: web.Request) -> web.Response:
        """Readiness: 503 if changes can't be saved. The reason is in the state, for those who may see it."""
        ready = self._plane.ready
        return web.json_response({"ready": ready}, status=200 if ready else 503, headers={"Cache-Control": "no-store"})

    # -- listeners and viewers -----------------------------------------------------------------

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        return await self._attendants.serve(request, LISTENER, principal_of(request), request[ADDRESS])

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        return await self._attendants.serve(request, VIEWER, principal_of(request), request[ADDRESS])

    async def end_guest(self, guest: Guest, why: str) -> None:
        """A guest is gone: disconnect its listeners and viewers."""
        await self._attendants.end_guest(guest, why)
