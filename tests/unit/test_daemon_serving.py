"""The addresses at which the daemon serves HTTP, and those that it shows to users."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from millrace.daemon import serving
from millrace.daemon.config import Config
from millrace.daemon.serving import Serving
from millrace.errors import ConfigError
from millrace.io.turns import Turns
from millrace.server.http.origins import Addresses


class Acceptors:
    """Take sockets, but accept no connection."""

    def __init__(self) -> None:
        self.served: list[Any] = []
        self.closed = 0

    def serve(self, sock: socket.socket, turns: Turns, make: Callable[[], Any], tls: Any) -> Any:
        self.served.append(SimpleNamespace(sock=sock, turns=turns, make=make, tls=tls))

        def close() -> None:
            self.closed += 1
            sock.close()

        return SimpleNamespace(close=close)


def served(test: Callable[[Serving, Acceptors], Awaitable[None]], **settings: Any) -> None:
    """Run a test with a server for a configuration."""

    async def main() -> None:
        acceptors: Any = Acceptors()
        made = Serving(Config(**{"runtime": Path("r"), "state": Path("s")} | settings), acceptors, Turns())
        try:
            await test(made, acceptors)
        finally:
            made.close()
            await made.cleanup()
        assert acceptors.closed == len(acceptors.served)

    asyncio.run(main())


def application() -> web.Application:
    return web.Application()


@pytest.mark.parametrize("here", ["127.0.0.1", "127.0.0.2"])
def test_addresses_are_those_of_bound_socket(here: str) -> None:
    async def test(made: Serving, acceptors: Acceptors) -> None:
        assert made.address == f"{here}:0", "until the port is known"
        await made.listen(application())
        (one,) = acceptors.served
        host, port = one.sock.getsockname()
        assert (host, made.address, made.outward) == (here, f"{here}:{port}", "") and port
        assert one.tls is None and made.url == f"ws://{here}:{port}"
        assert made.page_url == f"http://{here}:{port}/"

    served(test, listen=f"{here}:0")


@pytest.mark.parametrize("listen", [":0", "0.0.0.0:0", "[::]:0"])
def test_wildcard_address_is_not_printed(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.io.sockets.outward_address", lambda: "2001:db8::7")

    async def test(made: Serving, acceptors: Acceptors) -> None:
        await made.listen(application())
        ports = {one.sock.getsockname()[1] for one in acceptors.served}
        assert len(ports) == 1 and made.address == f"127.0.0.1:{ports.pop()}"
        assert made.outward == f"[2001:db8::7]:{made.address.rpartition(':')[2]}"
        assert made.page_url == f"http://{made.address}/", "browsers play sound there"
        assert made.silent_url == f"http://{made.outward}/" and made.outward_url == f"ws://{made.outward}"

    served(test, listen=listen)


def test_host_without_route_prints_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.io.sockets.outward_address", lambda: "")

    async def test(made: Serving, acceptors: Acceptors) -> None:
        await made.listen(application())
        assert made.outward == made.address and not made.silent_url

    served(test, listen="0.0.0.0:0")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0", "127.0.0.1:0", "[::1]:0", "localhost:0"])
@pytest.mark.parametrize("tls", [False, True])
def test_what_others_can_read_on_the_way_is_said(
    listen: str, tls: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "server_tls", lambda *files: None if not tls else object())
    monkeypatch.setattr(serving, "validity_trouble", lambda cert, now: "")
    monkeypatch.setattr(serving, "hosts_of", lambda cert: [])
    told = [] if tls or not listen.startswith(("0", "[::]", ":")) else [
        f"tokens, sound, screens and keys of those who connect to {listen} from other machines are not encrypted: use "
        "--tls-cert and --tls-key, or a proxy on this machine (docs/proxy.md)"
    ]  # fmt: skip

    async def test(made: Serving, acceptors: Acceptors) -> None:
        await made.listen(application())
        assert caplog.messages == told

    served(test, listen=listen, **({"tls_cert": "c.pem", "tls_key": "k.pem"} if tls else {}))


@pytest.mark.parametrize(("hosts", "shown"), [
    ([], "192.0.2.7"), (["192.0.2.7", "desk.example"], "192.0.2.7"), (["desk.example", "192.0.2.9"], "desk.example"),
])  # fmt: skip
def test_address_that_is_printed_is_one_of_the_certificate(
    hosts: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.io.sockets.outward_address", lambda: "192.0.2.7")
    monkeypatch.setattr(serving, "server_tls", lambda *files: object())
    monkeypatch.setattr(serving, "validity_trouble", lambda cert, now: "")
    monkeypatch.setattr(serving, "hosts_of", lambda cert: hosts)

    async def test(made: Serving, acceptors: Acceptors) -> None:
        await made.listen(application())
        port = made.address.rpartition(":")[2]
        assert made.page_url == f"https://{shown}:{port}/" and made.outward_url == f"wss://{shown}:{port}"
        assert not made.silent_url and made.url == f"wss://127.0.0.1:{port}"

    served(test, listen="0.0.0.0:0", tls_cert="c.pem", tls_key="k.pem")


def test_unusable_address_is_reported_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for listen, why in (
            (
                f"127.0.0.1:{taken.getsockname()[1]}",
                "can't listen on '127.0.0.1:.*Address already in use; use --listen",
            ),
            ("192.0.2.1:0", "can't listen on '192.0.2.1:0': Cannot assign requested address"),
            ("nowhere", "not HOST:PORT"),
        ):

            async def test(made: Serving, acceptors: Acceptors, why: str = why) -> None:
                with pytest.raises(ConfigError, match=why):
                    await made.listen(application())
                assert not acceptors.served

            served(test, listen=listen)


@pytest.mark.parametrize("given", [{"tls_cert": "c"}, {"tls_key": "k"}, {"client_ca": "ca"}])
def test_certificate_or_key_alone_is_refused(given: dict[str, str]) -> None:
    async def test(made: Serving, acceptors: Acceptors) -> None:
        with pytest.raises(ConfigError, match=r"both a certificate and its key: tls\.cert and tls\.key, or --tls-cert"):
            await made.listen(application())
        assert not acceptors.served

    served(test, listen="127.0.0.1:0", **given)


def test_tls_addresses_are_printed_as_such(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[str, ...]] = []
    context = object()
    monkeypatch.setattr(serving, "server_tls", lambda *files: asked.append(files) or context)
    monkeypatch.setattr(serving, "validity_trouble", lambda cert, now: f"certificate {cert} expired")

    async def test(made: Serving, acceptors: Acceptors) -> None:
        await made.listen(application())
        assert asked == [("c.pem", "k.pem", "ca.pem")] and acceptors.served[0].tls is context
        assert caplog.messages == ["certificate c.pem expired"]
        assert made.url == f"wss://{made.address}" and made.page_url == f"https://{made.address}/"

    served(test, listen="127.0.0.1:0", tls_cert="c.pem", tls_key="k.pem", client_ca="ca.pem")


def test_public_url_is_printed_where_configured() -> None:
    async def test(made: Serving, acceptors: Acceptors) -> None:
        assert made.page_url == "https://desk.example/sound/"
        assert made.url == "ws://127.0.0.1:0", "listeners on this host need no proxy"
        assert made.outward_url == "wss://desk.example/sound"

    served(test, listen="127.0.0.1:0", addresses=Addresses(public_url="https://desk.example/sound"))


def test_several_sockets_serve_one_application_charged_to_strangers() -> None:
    async def test(made: Serving, acceptors: Acceptors) -> None:
        pair = socket.socketpair()
        await made.serve(application(), *pair)
        assert [one.sock for one in acceptors.served] == list(pair) and len(made.runners) == 1
        one, two = (one.make() for one in acceptors.served)
        assert one.turns is two.turns is acceptors.served[0].turns
        assert one._inner is not two._inner, "each connection has its own parser"

    served(test, listen="127.0.0.1:0")
