"""Attempts at impersonation against a running daemon, and what ends together with its owner's rights."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import unused_port

from millrace.client.bus import Bus
from millrace.client.endpoint import own_socket
from millrace.control import tokens as access_module
from millrace.daemon.app import Daemon
from millrace.errors import ConfigError, MillraceError, RightsError
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Guest
from millrace.guest.machines.address import Place, parse_door
from millrace.io import sockets as sockets_module
from millrace.io.turns import Turns
from millrace.lab.impair import Impairment
from millrace.rights.model import OWNER, Right, parse_rights
from millrace.server.http import authentication as gate_module
from millrace.server.http.authentication import BROWSER_HEADERS, CREDENTIAL, PROXIED, SUBPROTOCOL
from millrace.server.http.events import WebSocket
from millrace.server.http.origins import parse_addresses, parse_origin
from millrace.server.native.server import NativeServer
from millrace.sim.net import Path as ImpairedPath
from millrace.wire.native.messages import Hello as NativeHello
from millrace.wire.native.messages import frame
from millrace.wire.peer.messages import Hello, encode_message
from millrace.wire.pulse.client import PulseClientSession, Reply
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
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


# -- identity from the connection ----------------------------------------------------------------------------


def test_tcp_peer_without_credential_is_nobody(tmp_path: Path) -> None:
    """Proxies, container ports and tunnels all connect from loopback, as this user."""

    async def test(rig: Rig) -> None:
        assert (await rig.ask())[0] == 401
        for name in PROXIED:
            assert (await rig.ask(**{name: "127.0.0.1"}))[0] == 401
        for host in ("evil.example", "localhost", "127.0.0.1", "[::1]", "10.0.0.1", "0.0.0.0"):
            assert (await rig.ask(Host=host))[0] == 401
        assert (await rig.ask("/api/v1/guests", "POST", {"name": "eve"}))[0] == 401
        assert "eve" not in rig.daemon.worker.guests and rig.daemon.plane.commands.refused() == 15

    running(tmp_path, test)


@pytest.mark.parametrize("way", ["closed", "reset", "half closed"])
def test_request_whose_sender_has_gone_is_nobodys(way: str, tmp_path: Path) -> None:
    """The kernel has no owner for a socket in TIME_WAIT, and reports 0 for it: root."""

    async def test(rig: Rig) -> None:
        host, port = rig.daemon.serving.address.split(":")
        body = json.dumps({"name": "eve"})
        text = (
            f"POST /api/v1/guests HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        for _ in range(5):
            sock = socket.create_connection((host, int(port)))
            sock.sendall(text.encode())
            if way == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if way == "half closed":
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.close()
            before = rig.daemon.plane.commands.refused()
            for _ in range(50):
                await asyncio.sleep(0.002)
                if rig.daemon.plane.commands.refused() > before:
                    break
            sock.close()
        assert set(rig.daemon.worker.guests) == {"alice", "bob"}

    running(tmp_path, test)


def test_listener_leaving_while_waiting_is_no_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(rig: Rig) -> None:
        path, turn = str(rig.daemon.config.runtime / "api.sock"), asyncio.Event()
        waits = asyncio.Event()

        async def held(turns: Turns) -> None:
            waits.set()
            await turn.wait()

        monkeypatch.setattr(Turns, "turn", held)
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + "A" * 22
        )
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(f"GET /alice HTTP/1.1\r\nHost: x\r\n{upgrade}==\r\n\r\n".encode())
        await waits.wait()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.05)
        turn.set()
        await asyncio.sleep(0.05)
        assert not [record for record in caplog.records if record.exc_info]

    running(tmp_path, test)


async def pumped(rig: Rig, runner: int) -> bytes:
    """Make a request on a socket without an address, such as a supervisor or a tunnel hands over."""
    ours, theirs = socket.socketpair()
    server = rig.daemon.serving.runners[runner].server
    assert server is not None
    await asyncio.get_running_loop().connect_accepted_socket(server, theirs)
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ours, f"GET {STATE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    got = b""
    while data := await loop.sock_recv(ours, 65536):
        got += data
    ours.close()
    return got


def test_connection_without_address_is_not_the_owner(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert (await pumped(rig, 1)).startswith(b"HTTP/1.1 401")
        assert (await pumped(rig, 0)).startswith(b"HTTP/1.1 200"), "the private socket identifies this very process"

    running(tmp_path, test)


def test_private_socket_identifies_this_user_but_not_proxied_users(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert await rig.by_socket() == 200
        for name in (*PROXIED, *BROWSER_HEADERS):
            assert await rig.by_socket(**{name: "x"}) in (401, 403), name
        _, secret = await rig.token("see")
        assert await rig.by_socket(**bearer(secret), **{"X-Forwarded-For": "192.0.2.1"}) == 200

    running(tmp_path, test)


def test_another_user_at_private_socket_is_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uid in (12345, None, 65534):
        monkeypatch.setattr(gate_module, "peer_uid", lambda raw, uid=uid: uid)

        async def test(rig: Rig) -> None:
            assert await rig.by_socket() == 401

        running(tmp_path, test)


async def asked(take: Callable[[socket.socket], None], pair: tuple[socket.socket, socket.socket], said: bytes) -> bytes:
    """The first data that comes back on a connection that is handed over."""
    ours, theirs = pair
    for end in pair:
        end.setblocking(False)
    take(theirs)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ours, said)
    got = await loop.sock_recv(ours, 65536)
    ours.close()
    return got


async def logs_in(guest: Guest, at: int, cookie: bytes = bytes(COOKIE_BYTES)) -> bool:
    """Whether a socket without an address can authenticate at one of a guest's PulseAudio sockets."""
    wire = PulseClientSession()
    wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": cookie})
    wire.receive(await asked(guest.pulse.acceptors[at]._take, socket.socketpair(), wire.data_to_send()))
    return isinstance(next(iter(wire.events())), Reply)


async def greets(server: NativeServer, pair: tuple[socket.socket, socket.socket]) -> bool:
    """Whether a native socket accepts the holder of this connection."""
    return b"not authenticated" not in (said := await asked(server._take, pair, frame(NativeHello(name="x")))) and (
        b"a token is needed" not in said
    )


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def test_connection_without_address_needs_cookie_where_tcp_is_served(tmp_path: Path) -> None:
    """TLS that is terminated separately arrives over a socket pair, whose peer credentials are this very process's."""

    async def test(daemon: Daemon) -> None:
        alice = daemon.worker.guest("alice")
        unix, tcp = 0, 1
        assert not await logs_in(alice, tcp) and alice.admission.refused_logins == 1
        assert await logs_in(alice, tcp, alice.pulse.door.cookie)
        assert await logs_in(alice, unix), "the private socket identifies this very process"

    bus.running(tmp_path, test, guests=(GuestConfig("alice", pulse_tcp=("127.0.0.1:0",)),))


@pytest.mark.parametrize("kernel", [None, (1, 12345), (1, 65534)])
def test_peer_unknown_to_kernel_is_nobody_at_any_socket(
    kernel: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(daemon: Daemon) -> None:
        alice = daemon.worker.guest("alice")
        servers = [daemon._native[None], daemon._native[alice]]
        assert all([await greets(server, socket.socketpair()) for server in servers]) and await logs_in(alice, 0)
        monkeypatch.setattr(sockets_module, "_credentials", lambda raw: kernel)
        for server in servers:
            assert not await greets(server, socket.socketpair())
        assert not await logs_in(alice, 0) and await logs_in(alice, 0, alice.pulse.door.cookie)

    bus.running(tmp_path, test, guests=(GuestConfig("alice"),))


def test_tcp_peer_is_nobody_at_native_socket(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        for server in daemon._native.values():
            assert not await greets(server, tcp_pair())

    bus.running(tmp_path, test, guests=(GuestConfig("alice"),))


# -- other sites' pages --------------------------------------------------------------------------------------


async def raw(rig: Rig, *lines: str) -> int:
    host, port = rig.daemon.serving.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join([f"GET {STATE} HTTP/1.1", *lines, "Connection: close", "", ""]).encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


def test_cross_origin_requests_are_refused_with_any_credential(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        here, secret = rig.daemon.serving.address, (await rig.token())[1]
        auth = f"Authorization: Bearer {secret}"
        assert await raw(rig, f"Host: {here}", auth, f"Origin: http://{here}") == 200
        for origin in (
            "http://evil.example", f"https://{here}.evil.example", "null", "", f"http://{here}/", f"http://u@{here}",
            "http://127.0.0.1:1", f"ftp://{here}", f"{here}", f"http://{here}#", f"http://{here},http://evil.example",
        ):  # fmt: skip
            assert await raw(rig, f"Host: {here}", auth, f"Origin: {origin}") == 403, origin
        assert await raw(rig, f"Host: {here}", auth, f"Origin: http://{here}", "Origin: http://evil.example") == 400
        assert await raw(rig, f"Host: {here}", auth, f"Authorization: Bearer {secret}") == 400
        # A page from another port of this host counts as another site's.
        _, mine = await rig.enter(secret)
        for site in ("same-site", "cross-site"):
            assert (await rig.ask(**mine, **{"Sec-Fetch-Site": site}))[0] == 403
        assert (await rig.ask(**mine, **{"Sec-Fetch-Site": "same-origin"}))[0] == 200

    running(tmp_path, test)


def test_page_behind_proxy_is_same_origin_by_configuration(tmp_path: Path) -> None:
    addresses = parse_addresses("https://box.example/millrace/", ["https://desk.example:8443"], ["127.0.0.1"])

    async def test(rig: Rig) -> None:
        auth = bearer((await rig.token())[1])
        for origin, status in (
            ("https://box.example", 200), ("https://BOX.example:443", 200), ("https://desk.example:8443", 200),
            ("http://box.example", 403), ("https://desk.example", 403), ("https://evil.example", 403),
        ):  # fmt: skip
            assert (await rig.ask(**auth, Host="10.0.0.1:8642", Origin=origin))[0] == status, origin
        told = {"X-Forwarded-Host": "third.example:8443", "X-Forwarded-Proto": "https"}
        assert (await rig.ask(**auth, **told, Origin="https://third.example:8443"))[0] == 200
        assert (await rig.ask(**auth, **told, Origin="http://third.example:8443"))[0] == 403
        status, mine = await rig.enter(session_of(auth), Origin="https://box.example")
        assert status == 200 and (await rig.ask(**mine))[0] == 200
        assert rig.daemon.page_link().startswith("https://box.example/millrace/#in=")

    running(tmp_path, test, addresses=addresses)


def test_origin_matches_host_with_default_ports_and_public_url() -> None:
    def same(origin: str, host: str, scheme: str = "", public: str = "") -> bool:
        parsed = parse_origin(origin)
        assert parsed is not None
        return parse_addresses(public, [], []).same_site(parsed, host, scheme)

    assert same("https://box", "box") and same("https://box", "BOX.:443") and same("http://box", "box:80")
    assert same("http://[::1]:8642", "[0:0::1]:8642") and not same("http://[::1]:8642", "[::1]")
    assert not same("https://box:8443", "box") and not same("http://box", "box:443")
    assert not same("http://box", "box", "https") and not same("https://box", "", "")
    # If `public` is configured, it counts, and not a Host without a port: other servers may run on that host.
    assert same("https://box:8443", "box", public="https://box:8443/") and not same(
        "https://box", "box", public="https://box:8443/"
    )
    for text in (
        "box",
        "https://",
        "https://box/x",
        "https://box:x",
        "https://box:70000",
        "https://a b",
        "null",
        "https://[::1",
    ):
        assert parse_origin(text) is None, text
    for wrong in ("box", "ftp://box", "https://box?x", "https://b x/", "https://box:0x1/"):
        with pytest.raises(ConfigError, match="public_url"):
            parse_addresses(wrong, [], [])
    with pytest.raises(ConfigError, match="allowed_origins"):
        parse_addresses("", ["*"], [])
    with pytest.raises(ConfigError, match="trusted_proxies"):
        parse_addresses("", [], ["proxy.example"])


# -- sessions and links --------------------------------------------------------------------------------------


def test_session_ends_with_its_token_immediately(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("see", ("alice",))
        status, mine = await rig.enter(secret)
        assert status == 200 and secret not in str(mine)
        status, text = await rig.ask(**mine)
        assert status == 200 and "bob" not in text
        new = await rig.daemon.worker.access.rotate(number)
        assert (await rig.ask(**mine))[0] == 401, "holders of the old secret may have lost access permanently"
        _, mine = await rig.enter(str(new))
        assert await rig.daemon.worker.access.revoke(number)
        assert (await rig.ask(**mine))[0] == 401

    running(tmp_path, test)


def test_session_is_recognised_and_creates_no_other(tmp_path: Path) -> None:
    """A second session would remain when the first is signed out."""

    async def test(rig: Rig) -> None:
        number, secret = await rig.token("see", ("alice",))
        _, mine = await rig.enter(secret)
        status, text = await rig.ask("/session", "POST", Origin=rig.url, **mine)
        assert (status, json.loads(text)) == (200, {"you": f"token/{number}"})

    running(tmp_path, test)


def test_session_can_not_be_forged(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, mine = await rig.enter((await rig.token("see", ("alice",)))[1])
        word, number, proof = session_of(mine).removeprefix("ms_").split(".")
        owner = "b3duZXI"
        for forged in (
            f"{owner}.{number}.{proof}", f"{word}.{number}.", f"{word}.{number}", word, "", "é", f"{word}.x.{proof}",
            f"{owner}..", "....", "dG9rZW4vwrI.a.b", f"{word}.{number}.{proof}x", f"{word}.{number}.é",
        ):  # fmt: skip
            assert (await rig.ask(**bearer(f"ms_{forged}")))[0] in (401, 429), forged
        assert (await rig.ask(**bearer(f"{word}.{number}.{proof}")))[0] in (401, 429)
        assert (await rig.ask(**mine))[0] == 200

    running(tmp_path, test)


def test_cookie_is_no_credential(tmp_path: Path) -> None:
    """Browsers send cookies to every port of a host, whoever listens there (RFC 6265, section 8.5)."""

    async def test(rig: Rig) -> None:
        _, mine = await rig.enter(rig.daemon.worker.access.key)
        for value in (session_of(mine), session_of(mine).removeprefix("ms_"), rig.daemon.worker.access.key):
            for name in ("millrace", "session", f"millrace-{'0' * 10}"):
                assert (await rig.ask(Cookie=f"{name}={value}"))[0] == 401
        # A cookie left over from Millrace 0.1 does no harm beside a session.
        assert (await rig.ask(Cookie="millrace-0123456789=b3duZXI.a.b", **mine))[0] == 200

    running(tmp_path, test)


def test_ended_session_never_locks_its_user_out(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token()
        _, mine = await rig.enter(secret)
        await rig.daemon.worker.access.revoke(number)
        assert {(await rig.ask(**mine))[0] for _ in range(40)} == {401}
        assert (await rig.enter((await rig.token())[1]))[0] == 200
        assert (await rig.ask(**bearer("wrong")))[0] == 401, "none of them counts as a guess"

    running(tmp_path, test)


def test_session_survives_daemon_restart_unless_signed_out(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []

    async def first(rig: Rig) -> None:
        for secret in ((await rig.token("see"))[1], rig.daemon.worker.access.key):
            kept.extend([(await rig.enter(secret))[1] for _ in range(2)])
        for mine in kept[::2]:
            assert (await rig.ask("/session", "DELETE", **mine))[0] == 200
            assert (await rig.ask(**mine))[0] == 401

    async def second(rig: Rig) -> None:
        assert [(await rig.ask(**mine))[0] for mine in kept] == [401, 200, 401, 200]
        assert (rig.daemon.config.runtime / "key").stat().st_mode & 0o777 == 0o600

    running(tmp_path, first)
    running(tmp_path, second)


def test_signing_out_ends_that_sessions_connections_only(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, secret = await rig.token("hear", ("alice",))
        (_, mine), (_, other) = await rig.enter(secret), await rig.enter(secret)
        gone, stays = await rig.watch(session_of(mine)), await rig.watch(session_of(other))
        offered = (SUBPROTOCOL, CREDENTIAL + session_of(mine))
        listener = await rig.http.ws_connect(f"{rig.url}/alice", protocols=offered)
        await listener.send_str(encode_message(Hello()))
        assert "welcome" in (await listener.receive(5)).data
        for line in (gone, stays):
            assert line.protocol == SUBPROTOCOL and "synced" in (await line.receive(5)).data
        assert (await rig.ask("/session", "DELETE", **mine))[0] == 200
        for line in (gone, listener):
            async with asyncio.timeout(5):
                while (await line.receive()).type is aiohttp.WSMsgType.TEXT:
                    continue
        assert not stays.closed and (await rig.ask(**other))[0] == (await rig.ask(**bearer(secret)))[0] == 200
        assert (await rig.ask("/session", "DELETE", **bearer(secret)))[0] == 400, (
            "only token administrators revoke tokens"
        )
        assert (await rig.ask("/session", "DELETE"))[0] == 401
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await rig.watch(session_of(mine))
        await stays.close()

    running(tmp_path, test)


def test_nothing_can_start_with_a_signed_out_session(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        access = rig.daemon.worker.access
        principal = access.admit(session_of((await rig.enter(access.key))[1]), "127.0.0.1")
        await access.sign_out(principal)
        with pytest.raises(RightsError, match="signed out"):
            access.enter(principal, lambda why: None, lambda guest: None)
        assert not list(access._live_sessions)

    running(tmp_path, test)


def test_changes_of_others_do_not_wait_for_one_flooding_requester(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that may only hear signs out on fifty connections, and a guest sets fifty levels; the disk is slow."""

    async def test(rig: Rig) -> None:
        daemon, kept = rig.daemon, []
        _, secret = await daemon.worker.access.new("theirs", Right.HEAR, ("alice",), 0)
        sessions = [session_of((await rig.enter(secret))[1]) for _ in range(50)]
        store = daemon.worker.store

        def slowly(what: str, change: Callable[..., Any]) -> Callable[..., Any]:
            def kept_at_last(*args: Any) -> Any:
                time.sleep(0.01)
                kept.append(what)
                return change(*args)

            return kept_at_last

        for what in ("keep_ended", "keep_level", "add_token"):
            monkeypatch.setattr(store, what, slowly(what, getattr(store, what)))
        louder = {"target": "sink/default", "guest": "alice", "settings": {"volume": "50%"}}
        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(daemon.worker.access.sign_out(daemon.worker.access.admit(session, "127.0.0.1")))
                tasks.create_task(daemon.plane.run(OWNER, "set", louder))
            await asyncio.sleep(0.05)
            assert "add_token" not in kept
            before = len(kept)
            await daemon.worker.access.new("the owner's", Right.HEAR, ("bob",), 0)
            assert kept.index("add_token") - before <= 4, kept
        assert kept.count("keep_ended") == kept.count("keep_level") == 50
        assert all(daemon.worker.access.by_session(session) is None for session in sessions)

    running(tmp_path, test)


def test_websocket_credential_is_neither_echoed_nor_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        session = session_of((await rig.enter(rig.daemon.worker.access.key))[1])
        for offered, more, status in (
            ((CREDENTIAL + session,), {}, 400), ((CREDENTIAL + session, "other"), {}, 400),
            ((SUBPROTOCOL, CREDENTIAL + session, CREDENTIAL + session), {}, 400),
            ((SUBPROTOCOL, CREDENTIAL + session), bearer(session), 400),
            ((SUBPROTOCOL, CREDENTIAL + session), {"Origin": "http://127.0.0.1:1"}, 403),
            ((SUBPROTOCOL, CREDENTIAL), {}, 401), ((SUBPROTOCOL,), {}, 401),
        ):  # fmt: skip
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await rig.http.ws_connect(f"{rig.url}/api/v1/events", protocols=offered, headers=more)
            assert refused.value.status == status, offered
        line = await rig.watch(session, Origin=rig.url)
        assert line.protocol == SUBPROTOCOL
        await line.close()
        assert session not in caplog.text

    running(tmp_path, test)


def test_key_readable_by_others_is_replaced(tmp_path: Path) -> None:
    seen = []

    async def test(rig: Rig) -> None:
        seen.append(rig.daemon.worker.access.key)
        (rig.daemon.config.runtime / "key").chmod(0o640)

    running(tmp_path, test)
    running(tmp_path, test)
    assert seen[0] != seen[1]


def test_session_of_one_daemon_is_invalid_at_another(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []

    async def first(rig: Rig) -> None:
        kept.append((await rig.enter(rig.daemon.worker.access.key))[1])

    async def second(rig: Rig) -> None:
        assert (await rig.ask(**kept[0]))[0] == 401

    running(tmp_path / "a", first)
    running(tmp_path / "b", second)


def test_link_admits_one_browser_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, code = rig.daemon.page_link().split("#in=")
        assert (await rig.ask(**bearer(code)))[0] == 401, "a link is not a token"
        assert (await rig.enter(code, Origin="http://evil.example"))[0] == 403
        status, mine = await rig.enter(code)
        assert status == 200 and (await rig.ask("/api/v1/tokens", **mine))[0] == 200
        assert rig.daemon.worker.access.key not in str(mine), "the owner's key is never given to a browser"
        assert (await rig.enter(code))[0] == 401
        admin = (await rig.token())[1]
        assert (await rig.ask("/api/v1/page-links", "POST", **bearer(admin)))[0] == 403

    running(tmp_path, test)


def test_link_expires_after_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        _, code = rig.daemon.page_link().split("#in=")
        later = access_module.now_ns() + (access_module.LINK_S + 1) * 10**9
        monkeypatch.setattr(access_module, "now_ns", lambda: later)
        assert (await rig.enter(code))[0] == 401

    running(tmp_path, test)


def test_page_behind_impairing_proxy_authenticates_as_itself(tmp_path: Path) -> None:
    """`lab impair` is in between, and negotiates the WebSocket's subprotocol on behalf of the daemon."""

    async def test(rig: Rig) -> None:
        runner = web.AppRunner(Impairment(f"ws://{rig.daemon.serving.address}", ImpairedPath()).application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        offered = (SUBPROTOCOL, CREDENTIAL + session_of((await rig.enter(rig.daemon.worker.access.key))[1]))
        between = f"http://127.0.0.1:{runner.addresses[0][1]}"
        line = await rig.http.ws_connect(f"{between}/alice", protocols=offered, headers={"Origin": between})
        await line.send_str(encode_message(Hello()))
        assert line.protocol == SUBPROTOCOL and "welcome" in (await line.receive(5)).data
        await line.close()
        await runner.cleanup()

    running(tmp_path, test)


# -- what ends together with its owner's rights --------------------------------------------------------------


async def everything(rig: Rig, secret: str) -> tuple[dict[str, str], list[Any], Bus]:
    """One of everything that depends on a token: a session, a listener, a watcher, a native connection."""
    _, mine = await rig.enter(secret)
    listener = await rig.http.ws_connect(f"{rig.url}/alice", headers=bearer(secret))
    await listener.send_str(encode_message(Hello()))
    assert "welcome" in (await listener.receive(5)).data
    watchers = [await rig.http.ws_connect(f"{rig.url}/api/v1/events", headers=h) for h in (bearer(secret), mine)]
    for watcher in watchers:
        assert "synced" in (await watcher.receive(5)).data
    bus = await Bus(rig.daemon.config.runtime / "native.sock", "t", secret).__aenter__()
    await bus.call("set", target="sink/default", settings={"volume": "50%"}, guest="alice")
    return mine, [listener, *watchers], bus


async def ended(rig: Rig, mine: dict[str, str], lines: list[Any], bus: Bus, secret: str, number: int) -> None:
    for line in lines:
        async with asyncio.timeout(5):
            while (await line.receive()).type is aiohttp.WSMsgType.TEXT:
                continue
        assert line.closed
    with pytest.raises(MillraceError):
        await bus.call("set", target="sink/default", settings={"mute": "on"}, guest="alice")
    await bus.__aexit__(None, None, None)
    assert not [s for s in rig.daemon.worker.guest("alice").sessions if not s.closing]
    assert not rig.daemon.worker.registry._watchers and not list(rig.daemon.worker.access._live_sessions)
    assert (await rig.ask(**mine))[0] == (await rig.ask(**bearer(secret)))[0] == 401


def test_everything_using_a_token_ends_when_it_is_revoked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear,control", ("alice",))
        things = await everything(rig, secret)
        assert await rig.daemon.worker.access.revoke(number)
        await ended(rig, *things, secret, number)

    running(tmp_path, test)


@pytest.mark.parametrize(
    ("how", "told"), [("revoked", "the token was revoked"), ("guest removed", "guest alice was removed")]
)
def test_rights_lost_during_handshake_admit_no_listener(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear", ("alice",))
        alice, prepare = rig.daemon.worker.guest("alice"), WebSocket.prepare

        async def meanwhile(self: WebSocket, request: web.BaseRequest) -> AbstractStreamWriter | None:
            writer = await prepare(self, request)
            if how == "revoked":
                await rig.daemon.worker.access.revoke(number)
            else:
                await rig.daemon.worker.remove_guest("alice")
                await rig.daemon.worker.add_guest("alice", {})
            return writer

        monkeypatch.setattr(WebSocket, "prepare", meanwhile)
        async with rig.http.ws_connect(f"{rig.url}/alice", headers=bearer(secret)) as line:
            message = await line.receive_json()
            assert (message["type"], message["fatal"]) == ("error", True) and told in message["message"]
            assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
        assert not alice.sessions and not list(rig.daemon.worker.access._live_sessions)

    running(tmp_path, test)


@pytest.mark.parametrize("listening", [True, False])
def test_everything_using_a_token_ends_when_it_expires(listening: bool, tmp_path: Path) -> None:
    """Also without a listener, since listeners are checked periodically anyway."""

    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear,control", ("alice",), lasts_s=2)
        mine, lines, bus = await everything(rig, secret)
        if not listening:
            await lines[0].close()
        await ended(rig, mine, lines[0 if listening else 1 :], bus, secret, number)

    running(tmp_path, test)


def test_expiry_is_rechecked_soon_in_case_wall_clock_is_set(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        access = rig.daemon.worker.access
        number, secret = await rig.token("hear", ("alice",), lasts_s=86_400)
        principal = access.let_in(secret, "127.0.0.1")
        assert principal.key == f"token/{number}"
        leave = access.enter(principal, lambda why: None, lambda guest: None)
        assert access._timer is not None
        assert access._timer.when() - asyncio.get_running_loop().time() <= 10
        leave()

    running(tmp_path, test)


def test_ended_connections_are_forgotten(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, secret = await rig.token("hear,control", ("alice",))
        _, lines, bus = await everything(rig, secret)
        for line in lines:
            await line.close()
        await bus.__aexit__(None, None, None)
        async with asyncio.timeout(5):
            while list(rig.daemon.worker.access._live_sessions):
                await asyncio.sleep(0.01)

    running(tmp_path, test)


# -- information disclosure ----------------------------------------------------------------------------------


def test_health_checks_need_no_token_and_reveal_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for headers in ({}, bearer("wrong"), {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert await rig.ask("/health", **headers) == (200, '{"ok": true}')
            assert await rig.ask("/ready", **headers) == (200, '{"ready": true}')
        rig.daemon.worker.store.trouble = "/secret/path: disk is full"
        assert await rig.ask("/ready") == (503, '{"ready": false}')
        assert (await rig.ask("/metrics"))[0] == (await rig.ask("/alice"))[0] == 401
        assert rig.daemon.plane.commands.refused() == 2

    running(tmp_path, test)


def test_invisible_guest_is_reported_like_missing_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        mine = bearer((await rig.token("see", ("alice",)))[1])
        for path in (STATE, "/api/v1/incidents"):
            assert (await rig.ask(f"{path}?guest=alice", **mine))[0] == 200
            for name in ("nobody", "bob"):
                status, text = await rig.ask(f"{path}?guest={name}", **mine)
                assert (status, json.loads(text)) == (404, {"error": f"there is no guest {name!r}; there are: alice"})
        for method, path, refused in (("GET", "/api/v1/nothing", 404), ("GET", "/api/v1/tokens/9", 405)):
            status, text = await rig.ask(path, method, **mine)
            told = f"there is no {method} {path}; GET /api/v1/openapi.json lists what there is"
            assert (status, json.loads(text)) == (refused, {"error": told})
        _, text = await rig.ask(f"{STATE}?guest=alice", **mine)
        assert [guest["name"] for guest in json.loads(text)["guests"]] == json.loads(text)["names"] == ["alice"]

    running(tmp_path, test)


def test_incidents_of_removed_guest_can_be_listed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.daemon.worker.diagnosis.incidents.record("rights", "refused", 1, "carol", "somebody", {})
        owner = bearer(rig.daemon.worker.access.key)
        status, text = await rig.ask("/api/v1/incidents?guest=carol", **owner)
        assert status == 200 and [one["guest"] for one in json.loads(text)] == ["carol"]

    running(tmp_path, test)


def test_every_api_operation_has_its_own_short_summary(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, text = await rig.ask("/api/v1/openapi.json", **bearer(rig.daemon.worker.access.key))
        operations = [one for path in json.loads(text)["paths"].values() for one in path.values()]
        summaries = {one["summary"] for one in operations}
        assert len(summaries) == len(operations) == len(rig.daemon.plane.commands.table)
        for one in operations:
            assert 5 <= len(one["summary"]) <= 60 and one["summary"][0].isupper(), one["operationId"]
            assert not one["summary"].endswith(".") and " " in one["summary"], one["operationId"]

    running(tmp_path, test)


WRITTEN = [
    "/page%2Fx",
    "/page%2F..%2Fapi%2Fv1%2Fstate",
    "//api/v1/state",
    "/page/../api/v1/state",
    "/%61pi/v1/state",
    "/api/v1/state/",
    "/health/../api/v1/state",
    "/health%2F",
    "/session/",
    "/%73ession",
    "/page/..",
    "/page/app.js/../../api/v1/state",
    "/PAGE/app.js",
    "http://x/api/v1/state",
    "/page/%2e%2e/x",
    "/;/api/v1/state",
    "/alice",
    "/%61lice",
    "/page%2Falice",
    "/health;x",
    "/health%00",
]


@pytest.mark.parametrize("path", WRITTEN)
def test_no_spelling_of_a_path_bypasses_authentication(path: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host, port = rig.daemon.serving.address.split(":")
        for method in ("GET", "POST", "HEAD"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            got = await reader.read()
            writer.close()
            status = int(got.split()[1])
            assert status in (400, 401, 403, 404, 405), (method, got)
            assert b"guests" not in got and b"alice" not in got.replace(b"/alice", b"")

    running(tmp_path, test)


# -- a tenant's admin ----------------------------------------------------------------------------------------


def test_guest_admin_attaches_what_configuration_allows(tmp_path: Path) -> None:
    mine = tmp_path / "alices"
    mine.mkdir()

    async def test(rig: Rig) -> None:
        admin = bearer((await rig.token("admin", ("alice",)))[1])
        run = rig.daemon.config.runtime

        async def attach(door: str, **more: str) -> int:
            status, _ = await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door} | more, **admin)
            return status

        for door in (
            f"qmp:{run}/native.sock", f"qmp:{run}/api.sock", f"qmp:{run}/bob/pulse", "qmp:/etc/passwd", "qmp:relative",
            f"qmp:{mine}/../run/api.sock", f"qmp:{mine}", f"qmp:{mine}2/x", f"dbus:unix:path={run}/api.sock",
            "dbus:unix:abstract=/tmp/bobs", f"spice+unix://{run}/api.sock", f"vnc+unix://{run}/bob/native",
            "spice://127.0.0.1:5901", "vnc://localhost", "spice://vm7:5901", "vnc://vm8:5900",
        ):  # fmt: skip
            assert await attach(door) == 403, door
        assert await attach("spice+tls://vm7:5900", ca_file="/etc/shadow") == 403
        assert not rig.daemon.worker.guest("alice").machines
        for door in (f"qmp:{mine}/vm.sock", f"dbus:unix:path={mine}/bus", f"vnc+unix://{mine}/a/b", "spice://VM7"):
            assert await attach(door) == 200, door
        everybody = bearer((await rig.token("admin"))[1])
        body = {"door": f"qmp:{tmp_path}/elsewhere"}
        assert (await rig.ask("/api/v1/guests/alice/doors", "POST", body, **everybody))[0] == 200

    running(tmp_path, test)


def test_link_in_guest_folder_does_not_lead_outside(tmp_path: Path) -> None:
    """The guest can write to the folder and could replace a file after a check, so the check is made when opening."""
    mine = tmp_path / "alices"
    mine.mkdir()
    reached: list[str] = []

    async def serve(path: Path) -> asyncio.AbstractServer:
        return await asyncio.start_unix_server(lambda reader, writer: reached.append(path.name), path)

    async def test(rig: Rig) -> None:
        servers = [await serve(tmp_path / "host"), await serve(mine / "own")]
        (mine / "link").symlink_to(tmp_path / "host")
        (mine / "up").symlink_to(tmp_path)
        (mine / "inside").symlink_to("own")
        admin = bearer((await rig.token("admin", ("alice",)))[1])
        doors = [f"qmp:{mine}/link", f"vnc+unix://{mine}/link", f"spice+unix://{mine}/up/host", f"qmp:{mine}/nothing"]
        for door in (*doors, f"vnc+unix://{mine}/own", f"qmp:{mine}/inside"):
            assert (await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door}, **admin))[0] == 200
        async with asyncio.timeout(5):
            while reached.count("own") < 2:
                await asyncio.sleep(0.01)
        assert "host" not in reached
        said = {a.spec.text: a.error for a in rig.daemon.worker.guest("alice").machines}
        assert {said[door].replace(door.partition(":")[2].removeprefix("//"), "") for door in doors[:1]} == {
            said[doors[3]].replace(f"{mine}/nothing", "")
        }, "it does not reveal whether a file exists elsewhere"
        for server in servers:
            server.close()

    running(tmp_path, test)


def test_owner_door_may_be_anywhere(tmp_path: Path) -> None:
    assert parse_door("qmp:/run/x").below == ()


# -- clients behind a proxy ----------------------------------------------------------------------------------


def test_only_the_guesser_behind_a_trusted_proxy_is_throttled(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async def guess(address: str) -> int:
            return (await rig.ask(**bearer("wrong"), **{"X-Forwarded-For": f"203.0.113.9, {address}"}))[0]

        assert [await guess("192.0.2.1") for _ in range(11)] == [401] * 10 + [429]
        assert await guess("192.0.2.2") == 401

    running(tmp_path, test, addresses=parse_addresses("", [], ["127.0.0.0/8"]))


def test_forwarded_address_from_untrusted_peer_is_ignored(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        said = [(await rig.ask(**bearer("wrong"), **{"X-Forwarded-For": f"192.0.2.{n}"}))[0] for n in range(11)]
        assert said == [401] * 10 + [429]

    running(tmp_path, test)


# -- this user's own listeners -------------------------------------------------------------------------------


def test_own_listener_uses_private_socket_and_sends_no_credential_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "r").mkdir()
    (tmp_path / "millrace").symlink_to(tmp_path / "r")

    async def test(rig: Rig) -> None:
        port = rig.daemon.serving.address.partition(":")[2]
        assert await own_socket(f"ws://127.0.0.1:{port}/alice") == tmp_path / "millrace" / "api.sock"
        for url in (
            f"ws://127.0.0.1:{unused_port()}/alice", f"ws://10.0.0.1:{port}/alice", f"wss://127.0.0.1:{port}/alice",
            f"ws://example.org:{port}/alice", "ws://127.0.0.1/alice", f"ws://[::1]:{port}/alice",
        ):  # fmt: skip
            assert await own_socket(url) is None, url

    running(tmp_path, test)
    assert asyncio.run(own_socket("ws://127.0.0.1:8642/alice")) is None


def incidents(rig: Rig) -> list[tuple[str, str]]:
    return [(one.stage, one.cause) for one in rig.daemon.worker.diagnosis.incidents]


def test_refusal_is_recorded_under_its_own_cause(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        secret = (await rig.token())[1]
        assert (await rig.ask())[0] == 401 and incidents(rig) == [], "an opening page makes this request"
        status, _ = await rig.enter(secret, Origin="https://desk.example:8443")
        assert status == 403 and incidents(rig) == [("rights", "foreign page")]
        [one] = rig.daemon.worker.diagnosis.incidents
        assert "public_url" in str(one.evidence["why"]) and one.evidence["what"] == "403 POST /session"
        assert (await rig.ask(**bearer("wrong")))[0] == 401
        assert (await rig.ask(**bearer(secret), **{"Sec-WebSocket-Protocol": CREDENTIAL + secret}))[0] == 400
        assert incidents(rig)[1:] == [("rights", "refused"), ("rights", "malformed")]
        status, text = await rig.ask("/api/v1/events", **bearer(secret))
        assert status == 426 and "a proxy must forward the Upgrade" in text
        assert len(incidents(rig)) == 3

    running(tmp_path, test)


def test_untrusted_proxy_is_reported_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        auth = bearer((await rig.token())[1])
        for _ in range(2):
            assert (await rig.ask(**auth, **{"X-Forwarded-For": "10.0.0.7"}))[0] == 200
        [one] = rig.daemon.worker.diagnosis.incidents
        assert (one.stage, one.cause, one.evidence, one.count) == ("rights", "untrusted proxy", {"who": "127.0.0.1"}, 1)

    running(tmp_path, test, addresses=parse_addresses("", [], ["10.9.9.9"]))


def test_trusted_proxy_is_not_reported(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        auth = bearer((await rig.token())[1])
        assert (await rig.ask(**auth, **{"X-Forwarded-For": "10.0.0.7"}))[0] == 200
        assert incidents(rig) == []
        assert rig.daemon.serving.outward_url == "wss://desk.example/millrace"

    running(tmp_path, test, addresses=parse_addresses("https://desk.example/millrace/", [], ["127.0.0.1"]))
