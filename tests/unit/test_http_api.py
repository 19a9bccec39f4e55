"""The HTTP API: from requests to arguments, and from results to answers; the commands are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from millrace.budget import MACHINES, MIB, Budget
from millrace.control.requests import Nothing
from millrace.control.scopes import at_host, not_kept
from millrace.control.table import Command
from millrace.errors import BudgetError, ConfigError
from millrace.rights.model import OWNER, Principal
from millrace.server.http import api
from millrace.server.http.answers import SMALL
from millrace.server.http.api import BODY_COPIES, PRINCIPAL, REQUEST_BYTES, Api, arguments_of, charged, principal_of


class Commands:
    """Two commands that store their arguments and return preset answers."""

    def __init__(self) -> None:
        self.ran: list[tuple[Principal, str, Any]] = []
        self.answer: Any = {"ok": True}
        self.budget = Budget("owner", MIB)
        rows = [("look", "GET", "/things"), ("change", "POST", "/things/{thing}"), ("end", "DELETE", "/things/{thing}")]
        self.table = {
            name: Command(name, way, path, Nothing, Nothing, at_host, not_kept, name) for name, way, path in rows
        }

    def budget_of(self, principal: Principal) -> Budget:
        return self.budget

    async def run(self, principal: Principal, name: str, args: Any) -> Any:
        self.ran.append((principal, name, args))
        return self.answer


def served(test: Callable[[TestClient[Any, Any], Commands, Budget], Awaitable[None]]) -> None:
    """A test with a client of the API, who is the owner."""

    async def main() -> None:
        commands: Any = Commands()

        @web.middleware
        async def known(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
            request[PRINCIPAL] = OWNER
            try:
                with closing(charged(request, commands.budget, "owner")):
                    return await handler(request)
            except (ConfigError, BudgetError) as error:
                return web.Response(status=error.status, text=str(error))

        application = web.Application(middlewares=[known])
        application.add_routes(Api(commands).routes())
        async with TestClient(TestServer(application)) as client:
            await test(client, commands, commands.budget)

    asyncio.run(main())


def test_each_route_runs_its_command_with_request_arguments() -> None:
    async def test(client: TestClient[Any, Any], commands: Commands, budget: Budget) -> None:
        async with client.get("/api/v1/things?a=1&b=x%20y") as answer:
            assert answer.status == 200 and await answer.json() == {"ok": True}
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"
        await client.post("/api/v1/things/t%2F7?a=query&b=query", json={"b": "body", "thing": "body"})
        await client.delete("/api/v1/things/7")
        assert commands.ran == [
            (OWNER, "look", {"a": "1", "b": "x y"}),
            (OWNER, "change", {"a": "query", "b": "body", "thing": "t/7"}),
            (OWNER, "end", {"thing": "7"}),
        ]
        for data in (b"[1]", b"5", b"{", b"\xff", b'{"a": NaN}'):
            async with client.post("/api/v1/things/7", data=data) as answer:
                assert answer.status == 400 and "the request's body" in await answer.text()
        assert len(commands.ran) == 3
        assert (await client.get("/api/v1/things/7")).status == 405

    served(test)


def test_large_answer_is_charged_while_it_is_read() -> None:
    async def test(client: TestClient[Any, Any], commands: Commands, budget: Budget) -> None:
        commands.answer = ["x" * 100] * (SMALL // 25)
        async with client.get("/api/v1/things") as answer:
            assert await answer.json() == commands.answer
        assert budget.held == 0
        held = budget.open("other", {"much": MIB // 2})
        commands.answer = ["x" * MIB]
        async with client.get("/api/v1/things") as answer:
            assert answer.status == 507 and "no room for this answer" in await answer.text()
        held.close()

    served(test)


def test_request_body_is_charged_until_its_command_has_run() -> None:
    async def test(client: TestClient[Any, Any], commands: Commands, budget: Budget) -> None:
        size, held, rest = MIB // 6, list[asyncio.Future[Any]](), asyncio.Event()

        async def withheld() -> AsyncIterator[bytes]:
            yield b" " * (size - 2)
            await rest.wait()
            yield b"{}"

        def post() -> asyncio.Future[Any]:
            headers = {"Content-Length": str(size)}
            return asyncio.ensure_future(client.post("/api/v1/things/7", data=withheld(), headers=headers))

        held += [post(), post()]
        async with asyncio.timeout(10):
            while budget.held < 2 * (REQUEST_BYTES + BODY_COPIES * size):
                await asyncio.sleep(0.001)
        async with await post() as refused:
            assert refused.status == 507 and "no room for this request" in await refused.text()
        async with client.post("/api/v1/things/7", data=b"{}") as answer:
            assert answer.status == 200, "a small one needs no room"
        async with client.post("/api/v1/things/7", data=b" " * (MIB + 1)) as refused:
            assert refused.status == 413
        rest.set()
        for answer in await asyncio.gather(*held):
            assert answer.status == 200
            answer.release()
        assert budget.held == 0 and len(commands.ran) == 3

    served(test)


def test_description_is_served_at_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(api, "describe", lambda *args: asked.append(args) or {"openapi": "3.1.0"})

    async def test(client: TestClient[Any, Any], commands: Commands, budget: Budget) -> None:
        async with client.get("/api/v1/openapi.json") as answer:
            assert await answer.json() == {"openapi": "3.1.0"}
        assert asked == [(commands.table, "/api/v1")] and commands.ran == []

    served(test)


def test_description_is_served_in_a_full_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "describe", lambda *args: {"openapi": "3.1.0", "paths": "x" * 3 * SMALL})

    async def test(client: TestClient[Any, Any], commands: Commands, budget: Budget) -> None:
        budget.open("other", {"all": budget.limit}, MACHINES)
        async with client.get("/api/v1/openapi.json") as answer:
            assert (await answer.json())["paths"] == "x" * 3 * SMALL

    served(test)


def body_of(fed: Callable[[StreamReader], None]) -> Any:
    """Arguments of a request whose body comes as `fed` says."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        payload = StreamReader(Mock(_reading_paused=False), 2**16, loop=loop)
        fed(payload)
        request = make_mocked_request("POST", "/x", payload=payload)
        request[PRINCIPAL] = OWNER
        assert principal_of(request) is OWNER
        return await arguments_of(request)

    return asyncio.run(main())


def test_missing_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BODY_S", 0.01)
    with pytest.raises(web.HTTPRequestTimeout) as refused:
        body_of(lambda payload: payload.feed_data(b'{"a"'))
    assert refused.value.text == "the request body did not arrive within 0 s\n"

    def broken(payload: StreamReader) -> None:
        payload.set_exception(web.RequestPayloadError("cut\x1b short"))

    with pytest.raises(web.HTTPBadRequest) as unread:
        body_of(broken)
    assert unread.value.text == "the body can't be read: cut\\x1b short\n"


def test_connection_lost_while_the_request_waited_is_no_internal_error() -> None:
    async def main() -> None:
        payload = StreamReader(Mock(_reading_paused=False, connected=False), 2**16, loop=asyncio.get_running_loop())
        request = make_mocked_request("POST", "/x", payload=payload)
        request.protocol.transport = None
        with pytest.raises(web.HTTPBadRequest) as lost:
            await arguments_of(request)
        assert lost.value.text == "the connection was lost before the body had arrived\n"

    asyncio.run(main())


def test_complete_body_becomes_arguments() -> None:
    def whole(payload: StreamReader) -> None:
        payload.feed_data(b'{"a": [1, 2]}')
        payload.feed_eof()

    assert body_of(whole) == {"a": [1, 2]}
