"""Who watches the objects or thumbnails: their connections, and which of them gives up its memory if there is no more.

A principal of one guest is charged to that guest, so its tokens share what the guest may hold for watchers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

from aiohttp import web

from millrace.absent import nothing
from millrace.budget import WATCHERS, Budget
from millrace.control.plane import ControlPlane, LocalGuests
from millrace.control.registry import parse_kinds
from millrace.guest.places import Held, Wanted, in_budget, make_room
from millrace.rights.model import Principal
from millrace.server.http.api import principal_of
from millrace.server.http.authentication import SUBPROTOCOL
from millrace.server.http.events import EventStream, WebSocket
from millrace.server.http.frames import SEND_BUFFER_BYTES
from millrace.server.http.reading import bound_unread
from millrace.server.http.wall import MESSAGE_MAX as WALL_MAX
from millrace.server.http.wall import Wall

READ_SOON = 4 * 1024
"""So many of the bytes that wait for a watcher were charged when it came: a change or two, of which all are told in the
same moment. Who reads them is not weighed again for each, however full the guest is by then."""
WATCHER_BYTES = 24 * 1024 + READ_SOON
"""Memory of a watcher, besides what more waits for it."""
FORWARD = "a proxy must forward the Upgrade and Connection headers"
DISPLACED = "no room for so many that watch: this connection made room for another"


def _demand_websocket(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise web.HTTPUpgradeRequired(text=f"this is a WebSocket; {FORWARD}\n")


def _cut(request: web.Request) -> Callable[[], None]:
    """What aborts its connection."""
    return nothing if request.transport is None else request.transport.abort


class Place:
    """What one watcher holds of a budget, on behalf of a principal."""

    def __init__(self, principal: Principal, budget: Budget, what: str, always: bool) -> None:
        """BudgetError if there is no room; `always`: see `make_room`."""
        self.principal, self.budget = principal, budget
        self.account = budget.open(what, {"itself": WATCHER_BYTES}, WATCHERS, always=always)
        self.connected = False
        """Whether its handshake is over. Before, it can't be told anything, so it is not asked for what it holds."""


class Watchers:
    """All of the server."""

    def __init__(self, plane: ControlPlane, guests: LocalGuests) -> None:
        self._plane, self._guests = plane, guests
        self._watchers: dict[Place, EventStream | Wall] = {}
        """In the order in which they came."""

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream the registry and its changes; `?kinds=stream,listener` selects kinds."""
        _demand_websocket(request)
        kinds = request.query.get("kinds")
        wanted = parse_kinds(kinds.split(",")) if kinds else None
        principal = principal_of(request)
        turns = self._plane.turns_of(principal)
        # No compression: a compressor takes 260 KiB per watcher (zlib's manual, deflateInit2), and aiohttp compresses
        # large messages in a separate task, whose failure goes unnoticed if the watcher has left meanwhile.
        websocket = WebSocket(turns, heartbeat=20.0, max_msg_size=4096, compress=False, protocols=(SUBPROTOCOL,))
        place = self._place(principal, "watcher")
        with closing(place.account):
            watcher = EventStream(self._plane, principal, wanted, partial(self._hold, place), turns, _cut(request))
            await self._serve(place, watcher, websocket, request)
        return websocket

    async def thumbnails(self, request: web.Request) -> web.StreamResponse:
        """Stream thumbnails of the guests that a wall has in view."""
        _demand_websocket(request)
        principal = principal_of(request)
        turns = self._plane.turns_of(principal)
        websocket = WebSocket(turns, heartbeat=20.0, max_msg_size=WALL_MAX, compress=False, protocols=(SUBPROTOCOL,))
        place = self._place(principal, "wall")
        with closing(place.account):
            await self._serve(place, Wall(self._guests, principal, turns, _cut(request)), websocket, request)
        return websocket

    def _place(self, principal: Principal, what: str) -> Place:
        """A place for one more; BudgetError if there is no room, and nobody gives any up."""
        budget = self._plane.budget_of(principal)
        always = self._make_room(principal, budget, WATCHER_BYTES)
        return Place(principal, budget, what, always)

    def _hold(self, place: Place, size: int) -> bool:
        """Hold so many bytes for what waits; False if there is no room, and nobody gives any up."""
        more = max(0, size - READ_SOON)
        self._make_room(place.principal, place.budget, more - place.account.part("waiting"))
        return place.account.fits("waiting", more)

    def _make_room(self, who: Principal, budget: Budget, more: int) -> bool:
        """If a budget has no room for so much more of a principal, whoever holds most there gives some up, if fair."""
        wanted = Wanted("watcher", who, min(who.guests, default=""), more)
        room = in_budget(budget, more, WATCHERS)
        return make_room(wanted, room, partial(self._held, budget), self._plane.report)

    def _held(self, budget: Budget) -> list[Held]:
        """What watchers hold of a budget."""
        here = (place for place in self._watchers if place.budget is budget)
        return [
            Held("watcher", one.principal, one.account.held, partial(self._displace, one) if one.connected else None)
            for one in here
        ]

    # What it holds is needed now, and not when it has been told so.
    def _displace(self, place: Place) -> None:
        watcher = self._watchers.pop(place)
        if isinstance(watcher, EventStream) and watcher.is_behind():
            watcher.give_up()
        else:
            watcher.end(DISPLACED)
        place.account.close()

    async def _serve(
        self, place: Place, watcher: EventStream | Wall, websocket: WebSocket, request: web.Request
    ) -> None:
        """Serve who watches the objects or the thumbnails until it leaves, or its rights or the daemon end."""
        leave = self._plane.enter(watcher.principal, watcher.end, watcher.lose)
        self._watchers[place] = watcher
        try:
            await websocket.prepare(request)
            place.connected = True
            bound_unread(request.transport, SEND_BUFFER_BYTES)
            await watcher.serve(websocket)
        finally:
            self._watchers.pop(place, None)
            leave()

    def end_all(self, why: str) -> None:
        """The daemon stops: who watches is told why."""
        for watcher in self._watchers.values():
            watcher.end(why)
