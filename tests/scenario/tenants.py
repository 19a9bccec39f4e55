"""A running daemon with two tenants, alice and bob, and what each of them may send it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from millrace.control import tokens
from millrace.daemon.app import Daemon
from millrace.io.clock import wall_ns
from millrace.rights.model import parse_rights
from millrace.units import NS_PER_S
from millrace.wire.peer.messages import Hello, encode_message
from tests import bus

LASTS_S = 3600
"""How long a token lasts that `end` has expire."""
Run = Callable[["Rig"], Awaitable[None]]


class Rig:
    """A daemon with guests alice and bob, and tokens."""

    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession) -> None:
        self.daemon, self.http = daemon, http
        self.tokens: dict[str, str] = {}

    async def token(self, name: str, may: str, guests: list[str], lasts_s: int = 0) -> str:
        token, secret = await self.daemon.worker.access.new(name, parse_rights(may), guests, lasts_s)
        self.tokens[name] = secret
        assert token.name == name
        return secret

    async def ask(self, method: str, path: str, secret: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Make a request with a secret, or as the owner without one."""
        headers = {"Authorization": f"Bearer {secret or self.daemon.worker.access.key}"} | headers
        url = f"http://{self.daemon.serving.address}{path}"
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, text


def running(tmp_path: Path, test: Run) -> None:
    async def main(daemon: Daemon) -> None:
        async with aiohttp.ClientSession() as http:
            await test(Rig(daemon, http))

    bus.running(tmp_path, main, guests=bus.BOTH)


async def end(how: str, rig: Rig, line: aiohttp.ClientWebSocketResponse) -> None:
    """End a connection on this line, which the daemon's first token has."""
    if how == "bye":
        await line.close()
    elif how == "abort":
        assert line._response.connection is not None
        line._response.connection.transport.abort()  # type: ignore[union-attr]
    elif how == "revoked":
        assert await rig.daemon.worker.access.revoke(1)
    elif how == "expired":
        now = wall_ns() // NS_PER_S
        with pytest.MonkeyPatch.context() as later:
            later.setattr(tokens, "_wall_s", lambda: now + LASTS_S)
            rig.daemon.worker.access.end_expired()
    elif how == "guest removed":
        await rig.daemon.worker.remove_guest("alice")
    elif how == "bad message":
        await line.send_str("{}")


async def joined(rig: Rig, secret: str, guest: str = "alice", **hello: Any) -> aiohttp.ClientWebSocketResponse:
    headers = {"Authorization": f"Bearer {secret}"}
    line = await rig.http.ws_connect(f"ws://{rig.daemon.serving.address}/{guest}", headers=headers)
    await line.send_str(encode_message(Hello(**hello)))
    assert "welcome" in (await line.receive(5)).data
    return line
