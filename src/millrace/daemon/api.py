"""The API: each handler finds what is meant among what its caller may see, demands the right, and does it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from millrace import __version__
from millrace.daemon import verbs
from millrace.daemon.access import token_view
from millrace.daemon.doorspec import parse_door
from millrace.daemon.guest import Guest
from millrace.daemon.verbs import NotFound
from millrace.daemon.views import guest_view
from millrace.errors import ConfigError
from millrace.rights.grants import ANY, parse_capture
from millrace.rights.model import ALL_GUESTS, Holder, Right, parse_rights
from millrace.rights.tokens import parse_expiry

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon

TOKEN_DAYS = "30d"
HOLDER = web.RequestKey("holder", Holder)


def holder_of(request: web.Request) -> Holder:
    """Who asks."""
    return request[HOLDER]


async def body_of(request: web.Request, *required: str) -> dict[str, Any]:
    """The request's JSON object; ConfigError says what is wrong with it."""
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ConfigError("the request's body is not JSON") from None
    if not isinstance(body, dict) or any(key not in body for key in required):
        raise ConfigError(f"the request's body must be an object with {', '.join(required)}")
    return body


class Api:
    """Handlers of /api/v1."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        return [
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
            web.get("/api/v1/grants", self._grants),
            web.post("/api/v1/guests/{guest}/grants", self._grant),
            web.get("/api/v1/tokens", self._tokens),
            web.post("/api/v1/tokens", self._token_new),
            web.post("/api/v1/tokens/{token}/rotate", self._token_rotate),
            web.delete("/api/v1/tokens/{token}", self._token_revoke),
            web.get("/health", self._health),
        ]

    def _visible(self, holder: Holder) -> list[Guest]:
        return [guest for guest in self._daemon.guests.values() if holder.may(Right.SEE, guest.name)]

    def guest(self, holder: Holder, name: str, right: Right) -> Guest:
        """A guest in which `holder` has `right`. One that they may not see is not there."""
        seen = self._visible(holder)
        found = next((guest for guest in seen if guest.name == name), None)
        if found is None:
            raise NotFound(f"there is no guest {name!r}; there are: {', '.join(g.name for g in seen) or 'none'}")
        holder.demand(right, name)
        return found

    def _home(self, holder: Holder, key: str, guest: Any, right: Right) -> str:
        """The name of the guest in which `key` is, among those that `holder` may see."""
        wanted = None if guest is None else str(guest)
        home = verbs.home_of(self._visible(holder), key, wanted)
        holder.demand(right, home.name)
        return home.name

    # -- looking -----------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True, "version": __version__})

    async def _state(self, request: web.Request) -> web.Response:
        holder = holder_of(request)
        guests = [guest_view(guest) for guest in self._visible(holder)]
        state: dict[str, Any] = {"version": __version__, "listen": self._daemon.address, "guests": guests}
        state["you"] = holder.key
        if holder.may(Right.ADMIN):
            state |= {"refused": self._daemon.refused(), "trouble": self._daemon.store.trouble}
        return web.json_response(state)

    # -- changing ----------------------------------------------------------------------------

    async def _set(self, request: web.Request) -> web.Response:
        body = await body_of(request, "target", "settings")
        settings = body["settings"]
        if not isinstance(settings, dict):
            raise ConfigError("settings must be an object of strings")
        target = str(body["target"])
        home = self._home(holder_of(request), target, body.get("guest"), Right.CONTROL)
        texts = {str(key): str(value) for key, value in settings.items()}
        verbs.change(self._daemon, target, texts, home)
        await self._daemon.keep_level(home, target)
        return web.json_response({"ok": True})

    async def _move(self, request: web.Request) -> web.Response:
        body = await body_of(request, "target", "to")
        target = str(body["target"])
        home = self._home(holder_of(request), target, body.get("guest"), Right.CONTROL)
        verbs.move(self._daemon, target, str(body["to"]), home)
        return web.json_response({"ok": True})

    async def _link(self, request: web.Request) -> web.Response:
        body = await body_of(request, "source", "to")
        source = str(body["source"])
        home = self._home(holder_of(request), source, body.get("guest"), Right.LINK)
        verbs.link(self._daemon, source, str(body["to"]), verbs.parse_matrix(body.get("matrix")), home)
        return web.json_response({"ok": True})

    async def _unlink(self, request: web.Request) -> web.Response:
        body = await body_of(request, "source", "to")
        source = str(body["source"])
        home = self._home(holder_of(request), source, body.get("guest"), Right.LINK)
        verbs.unlink(self._daemon, source, str(body["to"]), home)
        return web.json_response({"ok": True})

    async def _sink_add(self, request: web.Request) -> web.Response:
        guest = self.guest(holder_of(request), request.match_info["guest"], Right.LINK)
        body = await body_of(request, "name")
        sink = verbs.add_sink(guest, str(body["name"]), str(body.get("description", "")))
        return web.json_response({"id": sink.key, "name": sink.name})

    async def _sink_remove(self, request: web.Request) -> web.Response:
        guest = self.guest(holder_of(request), request.match_info["guest"], Right.LINK)
        verbs.remove_sink(guest, request.match_info["sink"])
        return web.json_response({"ok": True})

    # -- guests and their machines -------------------------------------------------------------

    async def _guest_add(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        body = await body_of(request, "name")
        options = {key: body[key] for key in ("rate", "channels") if body.get(key) is not None}
        guest = await self._daemon.add_guest(str(body["name"]), options)
        return web.json_response(guest_view(guest))

    async def _guest_remove(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        await self._daemon.remove_guest(request.match_info["guest"])
        return web.json_response({"ok": True})

    async def _attach(self, request: web.Request) -> web.Response:
        guest = self.guest(holder_of(request), request.match_info["guest"], Right.ADMIN)
        body = await body_of(request, "door")
        texts = {key: str(body.get(key) or "") for key in ("vm", "password", "ca_file")}
        spec = parse_door(str(body["door"]), **texts)
        return web.json_response(self._daemon.attach(guest.name, spec).view())

    async def _detach(self, request: web.Request) -> web.Response:
        holder, key = holder_of(request), f"door/{request.match_info['door']}"
        for guest in self._visible(holder):
            if any(attachment.key == key for attachment in guest.attachments):
                holder.demand(Right.ADMIN, guest.name)
                await self._daemon.detach(key)
                return web.json_response({"ok": True})
        raise NotFound(f"there is no {key}; `millrace ls` shows the doors")

    # -- grants --------------------------------------------------------------------------------

    async def _grants(self, request: web.Request) -> web.Response:
        found = [
            {"guest": guest.name, "what": what.value, "program": program, "allow": allow}
            for guest in self._visible(holder_of(request))
            for what, program, allow in guest.door.grants
        ]
        return web.json_response(found)

    async def _grant(self, request: web.Request) -> web.Response:
        guest = self.guest(holder_of(request), request.match_info["guest"], Right.ADMIN)
        body = await body_of(request, "what", "allow")
        if body["allow"] not in (True, False, None):
            raise ConfigError("allow must be true, false or null")
        program = str(body.get("program") or ANY)[:100]
        await self._daemon.grant(guest, parse_capture(str(body["what"])), program, body["allow"])
        return web.json_response({"ok": True})

    # -- tokens --------------------------------------------------------------------------------

    async def _tokens(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        return web.json_response([token_view(token) for token in self._daemon.access.tokens])

    async def _token_new(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        body = await body_of(request, "may")
        guests = body.get("guests") or [ALL_GUESTS]
        if not isinstance(guests, list) or not all(isinstance(name, str) for name in guests):
            raise ConfigError("guests must be a list of names")
        rights, lasts_s = parse_rights(str(body["may"])), parse_expiry(str(body.get("expires") or TOKEN_DAYS))
        name = str(body.get("name") or "")[:100]
        token, secret = await self._daemon.access.new(name, rights, guests, lasts_s)
        return web.json_response(token_view(token) | {"token": secret}, headers={"Cache-Control": "no-store"})

    async def _token_rotate(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        secret = await self._daemon.access.rotate(_number(request))
        if secret is None:
            raise NotFound(f"there is no token/{request.match_info['token']}")
        return web.json_response({"token": secret}, headers={"Cache-Control": "no-store"})

    async def _token_revoke(self, request: web.Request) -> web.Response:
        holder_of(request).demand(Right.ADMIN)
        if not await self._daemon.access.revoke(_number(request)):
            raise NotFound(f"there is no token/{request.match_info['token']}")
        return web.json_response({"ok": True})


def _number(request: web.Request) -> int:
    text = request.match_info["token"]
    return int(text) if text.isascii() and text.isdigit() else -1
