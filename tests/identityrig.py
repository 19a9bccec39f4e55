"""A daemon with two guests, and what asks it under one identity or another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from millrace.daemon.app import Daemon
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import Place
from millrace.rights.model import parse_rights
from millrace.server.http.authentication import CREDENTIAL, SUBPROTOCOL
from tests import bus

STATE = "/api/v1/state"
Test = Callable[["Rig"], Awaitable[None]]


class Rig:
    """A daemon with guests alice and bob, and several ways to make requests."""

    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession) -> None:
        self.daemon, self.http = daemon, http

    @property
    def url(self) -> str:
        return f"http://{self.daemon.serving.address}"

    async def token(self, may: str = "all", guests: tuple[str, ...] = ("*",), lasts_s: int = 0) -> tuple[int, str]:
        token, secret = await self.daemon.worker.access.new("t", parse_rights(may), guests, lasts_s)
        return token.id, secret

    async def ask(self, path: str = STATE, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
        """Make a request over TCP with exactly these headers."""
        async with self.http.request(method, f"{self.url}{path}", json=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def by_socket(self, path: str = STATE, **headers: str) -> int:
        """Make a request on the daemon's private socket."""
        connector = aiohttp.UnixConnector(str(self.daemon.config.runtime / "api.sock"))
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
            async with http.get(f"http://localhost{path}", headers=headers) as answer:
                return answer.status

    async def enter(self, secret: str, **headers: str) -> tuple[int, dict[str, str]]:
        """Sign in as the page does; returns the status, and the header with the session."""
        headers = {"Authorization": f"Bearer {secret}", "Origin": self.url} | headers
        async with self.http.post(f"{self.url}/session", headers=headers) as answer:
            assert not answer.cookies, "a browser would send it to every port of this host"
            return answer.status, bearer((await answer.json())["session"]) if answer.status == 200 else {}

    async def watch(self, session: str, **headers: str) -> aiohttp.ClientWebSocketResponse:
        """Subscribe as the page does: a browser can't set a header on a WebSocket."""
        offered = (SUBPROTOCOL, CREDENTIAL + session)
        return await self.http.ws_connect(f"{self.url}/api/v1/events", protocols=offered, headers=headers)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def session_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].split()[1]


def running(tmp_path: Path, test: Test, **config: Any) -> None:
    alice = GuestConfig("alice", attach=(Place(str(tmp_path / "alices")), Place(host="vm7", port=5900)))

    async def main(daemon: Daemon) -> None:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            await test(Rig(daemon, http))

    bus.running(tmp_path, main, guests=(alice, GuestConfig("bob")), **config)
