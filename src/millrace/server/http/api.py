"""The HTTP API: each route runs one command, with its body and path as arguments."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from millrace.budget import MIB, REQUESTS, Account, Budget
from millrace.control.plane import Operations
from millrace.control.table import Command
from millrace.errors import ConfigError
from millrace.rights.model import Principal
from millrace.server.http.answers import as_json, send
from millrace.server.http.openapi import describe
from millrace.text import parse_json, printable

PRINCIPAL = web.RequestKey("principal", Principal)
ADDRESS = web.RequestKey("address", str)
"""The client address, taking X-Forwarded-For only from trusted proxies."""
PREFIX = "/api/v1"
BODY_S = 20.0
SMALL_BODY = 1024
"""Bodies up to this size are covered by the cost of the connection."""
REQUEST_BYTES, BODY_COPIES = 18 * 1024, 2
"""Memory of a request with a body that has not arrived, and what a byte of the body takes (docs/architecture.md)."""
DESCRIPTIONS_BYTES = 64 * MIB
"""Budget of the API's descriptions that wait to be read; requests have a quarter of it, and leave each other some."""


def principal_of(request: web.Request) -> Principal:
    """The sender of a request."""
    return request[PRINCIPAL]


# The path wins over the body and the query: neither may name another object than the address does.
async def arguments_of(request: web.Request) -> dict[str, Any]:
    """Merge the query, the JSON body and the path parameters; ConfigError says what is wrong."""
    body: Any = {}
    if request.can_read_body:
        body = parse_json(await _whole(request), "the request's body")
    if not isinstance(body, dict):
        raise ConfigError("the request's body must be an object")
    return dict(request.query) | body | dict(request.match_info)


async def _whole(request: web.Request) -> bytes:
    """Read the body, with a timeout."""
    # A request may have waited for a turn longer than its sender; aiohttp answers a read with a bare RuntimeError then.
    if request.transport is None:
        raise web.HTTPBadRequest(text="the connection was lost before the body had arrived\n")
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the request body did not arrive within {BODY_S:.0f} s\n") from None
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text=f"the body can't be read: {printable(error)}\n") from None


# A body that is withheld, or whose request waits for a turn or for the disk, is memory that a client makes the daemon
# hold. It is charged as soon as its size is announced and its sender known.
def charged(request: web.Request, budget: Budget, who: str) -> Account:
    """An account that holds the request's body; BudgetError if its sender's budget has no room for it."""
    most = request.client_max_size
    size = 0 if not request.can_read_body else most if request.content_length is None else request.content_length
    if size > most:
        raise web.HTTPRequestEntityTooLarge(most, size)
    cost = REQUEST_BYTES + BODY_COPIES * size if size > SMALL_BODY else 0
    return budget.open("request", {"body": cost}, REQUESTS, who)


class Api:
    """Handlers of /api/v1."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._description = b""
        self._unread = Budget("the API's description", DESCRIPTIONS_BYTES)

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        made = [self._route(command) for command in self._operations.table.values()]
        return [*made, web.get(f"{PREFIX}/openapi.json", self._openapi)]

    def _route(self, command: Command) -> web.RouteDef:
        async def handle(request: web.Request) -> web.StreamResponse:
            principal = principal_of(request)
            budget = self._operations.budget_of(principal)
            result = await self._operations.run(principal, command.name, await arguments_of(request))
            body = (await as_json(result)).encode()
            headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
            return await send(request, body, headers, budget, principal.key)

        return web.route(command.method, PREFIX + command.path, handle)

    # Made once: it takes tens of milliseconds, and anybody with a token may ask for it over and over. It is the same
    # for all, so a full guest's users can read it too.
    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        if not self._description:
            self._description = json.dumps(describe(self._operations.table, PREFIX)).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return await send(request, self._description, headers, self._unread, principal_of(request).key)
