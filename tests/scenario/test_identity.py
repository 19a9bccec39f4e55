"""Attempts at impersonation against a running daemon."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from millrace.client.endpoint import own_socket
from millrace.daemon.app import Daemon
from millrace.errors import ConfigError
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Guest
from millrace.io import sockets as sockets_module
from millrace.io.turns import Turns
from millrace.server.http import authentication as gate_module
from millrace.server.http.authentication import BROWSER_HEADERS, CREDENTIAL, PROXIED
from millrace.server.http.origins import parse_addresses, parse_origin
from millrace.server.native.server import NativeServer
from millrace.wire.native.messages import Hello as NativeHello
from millrace.wire.native.messages import frame
from millrace.wire.pulse.client import PulseClientSession, Reply
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from tests import bus
from tests.identityrig import STATE, Rig, bearer, running, session_of

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
        # As nginx forwards, if nothing is configured but the address.
        for version, status in ((0, 401), (1, 200)):
            reader, writer = await asyncio.open_unix_connection(str(rig.daemon.config.runtime / "api.sock"))
            writer.write(f"GET {STATE} HTTP/1.{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert int((await reader.readline()).split()[1]) == status
            writer.close()

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


Pair = tuple[socket.socket, socket.socket]


async def logs_in(guest: Guest, at: int, cookie: bytes = bytes(COOKIE_BYTES), pair: Pair | None = None) -> bool:
    """Whether a socket, by default one without an address, can authenticate at one of a guest's PulseAudio sockets."""
    wire = PulseClientSession()
    wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": cookie})
    wire.receive(await asked(guest.pulse.acceptors[at]._take, pair or socket.socketpair(), wire.data_to_send()))
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
        (told,) = daemon.worker.diagnosis.incidents
        assert (told.stage, told.cause, told.evidence["why"]) == ("rights", "refused", "wrong cookie")
        assert told.evidence["who"] == "an unknown program"
        assert not await logs_in(alice, tcp, pair=tcp_pair())
        *_, told = daemon.worker.diagnosis.incidents
        assert told.evidence == {"who": "127.0.0.1", "what": "connect", "why": "wrong cookie"}
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
