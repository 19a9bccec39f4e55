"""Errors of a listener that can't connect."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import aiohttp.web
import pytest
from multidict import CIMultiDict

import millrace
from millrace.cli.api import call
from millrace.client.dialler import Dialler, pause
from millrace.client.endpoint import demand_welcome, hindrance, setback, tls_of
from millrace.client.options import ListenerOptions
from millrace.client.viewer import ViewerOptions
from millrace.errors import ConfigError, GraphError, PeerLost, RemoteProtocolError, RightsError
from millrace.wire.peer.messages import REASON


@pytest.mark.parametrize(("host", "said"), [
    ("127.0.0.1", "can't connect to 127.0.0.1:{port} (Connection refused); is `millrace serve` running there?"),
    ("nowhere.invalid", "host nowhere.invalid not found"),
])  # fmt: skip
def test_failed_connection_says_what_is_missing(host: str, said: str) -> None:
    async def tried(port: int) -> str:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError) as found:
                await http.get(f"http://{host}:{port}/")
        return hindrance(ListenerOptions(), "ws://x/default", found.value)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert asyncio.run(tried(port)) == said.format(port=port)


def test_server_without_tls_is_named() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def tried() -> tuple[str, int]:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError) as found:
                await http.get(f"https://127.0.0.1:{port}/")
        return hindrance(ListenerOptions(), "ws://x/default", found.value), port

    said, port = asyncio.run(tried())
    assert said == f"127.0.0.1:{port} does not use TLS; connect with ws:// instead of wss://"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("mr_old", "the token is wrong, or it has expired .*; the owner of that daemon sees the valid ones"),
        (None, "give a token"),
    ],
)
def test_refused_token_is_not_requested_again(token: str | None, said: str) -> None:
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=401)
    with pytest.raises(RightsError, match=said):
        demand_welcome("ws://127.0.0.1/default", ListenerOptions(token=token), error)


@pytest.mark.parametrize(("right", "options", "said"), [
    ("watch", {"token": "t"}, "this token may not watch my desk: it needs the right `watch`"),
    ("hear", {"cert": "c"}, "this certificate may not hear my desk: it needs the right `hear`"),
    ("watch", {}, "give a token with the right `watch`, with --token-file or MILLRACE_TOKEN"),
])  # fmt: skip
def test_refusal_names_the_missing_right(right: str, options: dict[str, str], said: str) -> None:
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=403)
    with pytest.raises(RightsError, match=re.escape(said)):
        demand_welcome("wss://desk.example/at/my%20desk", ListenerOptions(**options), error, right)


def test_aiohttp_errors_are_where_documented() -> None:
    for name in ("ConfigError", "GraphError", "MillraceError", "NoDaemon", "PeerLost", "RightsError"):
        assert issubclass(getattr(millrace, name), millrace.MillraceError)


def test_missing_path_may_be_a_proxys() -> None:
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=404)
    with pytest.raises(GraphError, match=r"no such guest.*is a prefix such as /millrace/ missing"):
        demand_welcome("wss://desk.example/default", ListenerOptions(), error)


@pytest.mark.parametrize("error", [
    aiohttp.ServerDisconnectedError(), aiohttp.WSServerHandshakeError(Mock(), (), status=400),
])  # fmt: skip
def test_tls_port_reached_without_tls_is_named(error: aiohttp.ClientError) -> None:
    said = "if the server uses TLS, connect with wss://"
    assert said in hindrance(ListenerOptions(), "ws://127.0.0.1/default", error)
    assert said not in hindrance(ListenerOptions(), "wss://127.0.0.1/default", error)


def test_refused_handshake_says_the_daemons_reason() -> None:
    headers = CIMultiDict({REASON: "guest a has 256 viewers%2C the maximum%0A%E2%80%A6"})
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=409, message="Invalid response status", headers=headers)
    said = hindrance(ListenerOptions(), "ws://127.0.0.1/a", error)
    assert said == "guest a has 256 viewers, the maximum\\n…"


@pytest.mark.parametrize(("status", "said"), [
    (502, "the proxy can't reach the daemon (502)"), (500, "the answer is 500"),
])  # fmt: skip
def test_answer_of_another_server_is_told_in_words(status: int, said: str) -> None:
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=status, message="Invalid response status")
    assert hindrance(ListenerOptions(), "ws://127.0.0.1/a", error) == said
    assert setback("ws://h/a", ListenerOptions(), error, joined=True) == ("lost", said)
    assert setback("ws://h/a", ListenerOptions(), error, joined=False) == (
        "waiting",
        f"{said}; trying again until it answers",
    )


def test_port_that_speaks_something_else_is_not_millrace() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n")
        writer.close()

    async def tried() -> None:
        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Dialler(f"ws://127.0.0.1:{port}/a", ListenerOptions()).connected():
            pass

    with pytest.raises(RemoteProtocolError, match="does not speak HTTP, so it is not Millrace; if it uses TLS"):
        asyncio.run(tried())


def test_strange_server_is_not_told_where_the_key_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers 401 would have the reader bring the key of all rights."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "millrace").mkdir(mode=0o700)
    (tmp_path / "millrace" / "key").write_text("mr_key")
    error = aiohttp.WSServerHandshakeError(Mock(), (), status=401)
    with pytest.raises(RightsError) as found:
        demand_welcome("ws://stranger.example/default", ListenerOptions(), error)
    assert "give a token" in str(found.value) and str(tmp_path) not in str(found.value)


@pytest.mark.parametrize("given", [{"ca_file": "/ca.pem"}, {"cert": "/own.pem"}])
def test_certificates_are_not_dropped_without_tls(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--ca and --cert are for TLS: ws://h/alice is reached without"):
        tls_of("ws://h/alice", ListenerOptions(**given))
    assert tls_of("ws://h/alice", ListenerOptions()) is True


@pytest.mark.parametrize("told", [{"name": "a\udc9b"}, {"sink": "a\udc9b"}, {"settings": {"\udc9b": "1"}}])
def test_what_is_not_utf_8_is_refused_before_it_is_sent(told: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8"):
        ListenerOptions(**told)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        ViewerOptions(**told)
    with pytest.raises(ConfigError, match=r"screen .* is not UTF-8"):
        ViewerOptions(screen="\udc9b")
    with pytest.raises(ConfigError, match=r"the argument .* is not UTF-8"):
        call("POST", "/api/v1/set", {"target": "sink/millrace", **told})


def test_daemon_that_does_not_answer_is_not_said_to_have_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may be stopped, or busy."""
    answers: list[Path | None] = [tmp_path / "api.sock", None]

    async def own_socket(url: str) -> Path | None:
        return answers.pop(0)

    async def main() -> None:
        one = Dialler("ws://127.0.0.1:8642/default", ListenerOptions())
        for said in ("Cannot connect", "the daemon does not answer on its socket"):
            with pytest.raises((aiohttp.ClientConnectorError, PeerLost), match=said):
                async with one.connected():
                    pass

    monkeypatch.setattr("millrace.client.endpoint.own_socket", own_socket)
    asyncio.run(main())


def test_a_dialler_offers_its_protocol_and_does_not_wait_once_it_is_to_stop() -> None:
    offered: list[str] = []

    async def taken(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        offered.append(request.headers["Sec-WebSocket-Protocol"])
        return aiohttp.web.Response(status=404)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(aiohttp.web.Server(taken), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        one = Dialler(f"ws://127.0.0.1:{port}/default", ListenerOptions(token="t"), ("millrace-screen.1",))
        async with server:
            with pytest.raises(GraphError, match="no such guest"):
                async with one.connected():
                    pass
        stopping = asyncio.Event()
        stopping.set()
        async with asyncio.timeout(0.05):
            await pause(stopping, 1000)

    asyncio.run(main())
    assert offered == ["millrace-screen.1"]
