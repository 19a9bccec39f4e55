"""Connections that send nothing, or one byte at a time, are closed in time and don't keep others out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import uvloop

from millrace.daemon.app import Daemon
from millrace.guest.config import GuestConfig
from millrace.io import listeners
from millrace.io.listeners import Acceptor
from millrace.io.pending import LOGIN_NS, REST_NS, PendingConnections
from millrace.io.turns import Turns
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.native.messages import HEADER, Call, Hello, frame
from millrace.wire.pulse.client import PulseClientSession
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from tests import bus

TOKEN = "a-token-of-some-length"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}


class Connection:
    """A connection, as `PendingConnections` sees it."""

    def __init__(self) -> None:
        self.gone = False

    def is_closing(self) -> bool:
        return self.gone

    def abort(self) -> None:
        self.gone = True


def test_strangers_are_closed_oldest_first_and_idle_peers_after_them() -> None:
    door, connections = PendingConnections(), [Connection() for _ in range(5)]
    for n, connection in enumerate(connections):
        door.arrive(connection, n * NS_PER_S)
    door.enter(connections[1])
    door.rest(connections[0], 5 * NS_PER_S)
    door.arrive(connections[1], 6 * NS_PER_S)
    assert door.next_timeout() == 2 * NS_PER_S + LOGIN_NS
    door.handle_timeout(2 * NS_PER_S + LOGIN_NS)
    assert [connection.gone for connection in connections] == [False, False, True, False, False]
    door.left(connections[3])
    assert door.make_room() and connections[4].gone
    assert door.make_room() and connections[0].gone
    assert not door.make_room() and not connections[1].gone
    door.rest(connections[1], 10 * NS_PER_S)
    assert door.next_timeout() == 10 * NS_PER_S + REST_NS
    door.handle_timeout(10 * NS_PER_S + REST_NS)
    assert connections[1].gone and door.next_timeout() is None


def test_closing_connection_makes_no_room() -> None:
    door, gone, here = PendingConnections(), Connection(), Connection()
    gone.abort()
    door.arrive(gone, 0)
    door.arrive(here, 0)
    assert door.make_room() and here.gone


class Unread(Connection):
    """A connection that is closing, and whose peer reads nothing."""

    def is_closing(self) -> bool:
        return True


def test_closing_connection_that_is_not_read_is_cut() -> None:
    door, late, displaced = PendingConnections(), Unread(), Unread()
    door.arrive(late, 0)
    door.handle_timeout(LOGIN_NS)
    door.arrive(displaced, LOGIN_NS)
    assert late.gone and not door.make_room() and displaced.gone


def test_disconnected_peer_is_forgotten() -> None:
    door, connections = PendingConnections(), [Connection() for _ in range(100)]
    for connection in connections:
        door.rest(connection, 0)
        connection.abort()
    last = Connection()
    door.rest(last, 2 * NS_PER_S)
    assert list(door.resting) == [last]


def test_closed_connection_that_reappears_counts_as_pending() -> None:
    door, connection = PendingConnections(), Connection()
    door.arrive(connection, 0)
    door.enter(connection)
    door.arrive(connection, 1)
    assert not door.strangers
    door.left(connection)
    door.arrive(connection, 2)
    assert list(door.strangers) == [connection]


running = partial(bus.running, guests=(GuestConfig("alice", pulse_tcp=("127.0.0.1:0",)),), token=TOKEN)


def tcp_of(daemon: Daemon) -> tuple[str, int]:
    host, _, port = daemon.serving.address.rpartition(":")
    return host, int(port)


async def answers(daemon: Daemon) -> bool:
    """Whether a client with valid credentials is served."""
    async with aiohttp.ClientSession(headers=KNOWN) as http:
        async with http.get(f"http://{daemon.serving.address}/api/v1/state") as answer:
            return answer.status == 200


async def opened(daemon: Daemon, door: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if door == "http":
        return await asyncio.open_connection(*tcp_of(daemon))
    if door == "pulse tcp":
        return await asyncio.open_connection(*daemon.worker.guests["alice"].pulse.acceptors[1].address)
    return await asyncio.open_unix_connection(str(daemon.config.runtime / door))


def auth() -> bytes:
    wire = PulseClientSession()
    wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
    return wire.data_to_send()


HALF = {
    "http": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "api.sock": b"GET /default HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    "alice/pulse": auth()[:-20],
    "pulse tcp": auth()[:30],
    "native.sock": HEADER.pack(100, 1, 0, 0) + b"\x83",
    "alice/native": b"\1",
    "attach.sock": b"",
}


@pytest.mark.parametrize("door", HALF)
@pytest.mark.parametrize("drips", [False, True], ids=["silent", "drips"])
def test_incomplete_login_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, drips: bool) -> None:
    monkeypatch.setattr("millrace.io.pending.LOGIN_NS", 300 * NS_PER_MS)
    monkeypatch.setattr("millrace.wire.native.session.HELLO_TIMEOUT_NS", 300 * NS_PER_MS)
    monkeypatch.setattr("millrace.io.handover.TIMEOUT_S", 0.3)

    async def test(daemon: Daemon) -> None:
        reader, writer = await opened(daemon, door)
        with contextlib.suppress(ConnectionError):
            if drips:
                step = max(1, len(HALF[door]) // 20)
                for at in range(0, len(HALF[door]), step):
                    writer.write(HALF[door][at : at + step])
                    await asyncio.sleep(0.01)
                while not reader.at_eof():
                    await asyncio.sleep(0.02)
                    if door in ("http", "api.sock"):
                        writer.write(b"x")
                        await writer.drain()
                    if await asyncio.wait_for(reader.read(1000), 5) == b"":
                        break
            while await reader.read(1000):
                pass
        writer.close()
        assert not daemon.listeners.pending.strangers

    running(tmp_path, test)


def test_authenticated_connection_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.io.pending.LOGIN_NS", 100 * NS_PER_MS)

    async def test(daemon: Daemon) -> None:
        pulse, to_pulse = await opened(daemon, "alice/pulse")
        to_pulse.write(auth())
        native, to_native = await opened(daemon, "native.sock")
        to_native.write(frame(Hello()))
        await pulse.read(1), await native.read(1)
        url = f"http://{daemon.serving.address}"
        async with aiohttp.ClientSession(headers=KNOWN) as http, http.ws_connect(f"{url}/alice") as connection:
            await connection.send_str('{"type": "hello"}')
            async with http.get(f"{url}/api/v1/state") as answer:
                assert answer.status == 200
            await asyncio.sleep(0.5)
            assert not connection.closed and daemon.worker.guests["alice"].sessions
            to_native.write(frame(Call(1, "state", {})))
            assert len(await native.read(100_000)) > 50
            assert daemon.worker.guests["alice"].pulse.door.clients
            assert len(daemon.listeners.pending.resting) == 1

    running(tmp_path, test)


def test_missing_body_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.http.api.BODY_S", 0.1)

    async def test(daemon: Daemon) -> None:
        reader, writer = await opened(daemon, "api.sock")
        writer.write(b"POST /api/v1/guests HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b"408" in await reader.readline()
        writer.close()

    running(tmp_path, test)


@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "open"])
@pytest.mark.parametrize("path", ["/api/v1/openapi.json", "/page/app.js"])
def test_peer_that_reads_none_of_its_answers_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool, path: str
) -> None:
    monkeypatch.setattr("millrace.server.http.connection.CLOSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("millrace.server.http.reading.READ_S", 0.5)
    asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()

    async def test(daemon: Daemon) -> None:
        lines = [socket.socket() for _ in range(5)]
        for line in lines:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect(tcp_of(daemon))
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                line.send(300 * asked)
        server = daemon.serving.runners[-1].server
        assert server is not None
        while len(server.connections) < len(lines):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        for line in lines if half else ():
            line.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            while server.connections:
                await asyncio.sleep(0.01)
        for line in lines:
            line.close()

    running(tmp_path, test, run=uvloop.run)


@pytest.mark.parametrize("door", ["http", "alice/pulse", "native.sock", "attach.sock"])
def test_idle_connections_exhaust_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str) -> None:
    async def test(daemon: Daemon) -> None:
        async with (
            aiohttp.ClientSession(headers=KNOWN) as http,
            http.get(f"http://{daemon.serving.address}/api/v1/state") as answer,
        ):
            assert answer.status == 200
        with socket.socket() as free:
            first = free.fileno()
        # Clients and daemon share a process here, so each connection takes two descriptors.
        monkeypatch.setattr("millrace.io.listeners.descriptors", lambda: first + 4 * 40)
        monkeypatch.setattr("millrace.io.listeners.RESERVE", 40)
        idle: list[socket.socket] = []
        for _ in range(150):
            sock = socket.socket(socket.AF_INET if door == "http" else socket.AF_UNIX)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                sock, tcp_of(daemon) if door == "http" else str(daemon.config.runtime / door)
            )
            idle.append(sock)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert len(daemon.listeners.pending.strangers) < 120
        async with (
            aiohttp.ClientSession(headers=KNOWN) as http,
            http.get(f"http://{daemon.serving.address}/api/v1/state") as answer,
        ):
            assert answer.status == 200
        for sock in idle:
            sock.close()

    running(tmp_path, test)


def test_http_input_is_charged_to_authenticated_sender(tmp_path: Path) -> None:
    def payers(connections: object) -> set[object]:
        return {connection.get_protocol().turns for connection in connections}  # type: ignore[attr-defined]

    async def test(daemon: Daemon) -> None:
        pending, alice = daemon.listeners.pending, daemon.worker.guests["alice"]
        async with aiohttp.ClientSession(headers=KNOWN) as http:
            async with http.get(f"http://{daemon.serving.address}/health"):
                assert daemon.worker.principal_turns.owner not in payers(pending.strangers)
            async with http.get(f"http://{daemon.serving.address}/api/v1/state") as answer:
                await answer.read()
            while not pending.resting:
                await asyncio.sleep(0)
            assert payers(pending.resting) == {daemon.worker.principal_turns.owner}
            async with http.ws_connect(f"http://{daemon.serving.address}/alice"):
                assert alice.turns in payers(
                    connection for connection in pending._inside if hasattr(connection, "get_protocol")
                )

    running(tmp_path, test)


def test_listener_whose_timer_fails_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.http.ticker.TICK_S", 0.01)

    async def test(daemon: Daemon) -> None:
        async with aiohttp.ClientSession(headers=KNOWN) as http:
            bad = await http.ws_connect(f"http://{daemon.serving.address}/alice")
            good = await http.ws_connect(f"http://{daemon.serving.address}/alice")
            sessions = daemon.worker.guests["alice"].sessions
            while len(sessions) < 2:
                await asyncio.sleep(0.01)
            ticks: list[int] = []

            def fail(now_ns: int) -> None:
                raise ValueError("a bug")

            sessions[0].tick, sessions[1].tick = fail, ticks.append  # type: ignore[method-assign]
            while len(ticks) < 5 or len(sessions) > 1:
                await asyncio.sleep(0.01)
            await bad.close()
            await good.close()

    running(tmp_path, test)


def test_connection_that_nobody_could_take_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A bug there must not leave it open, with a program that waits for an answer."""

    def fail(sock: socket.socket) -> None:
        raise ValueError("a bug")

    async def test() -> bytes:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            acceptor = Acceptor(listener, PendingConnections(), Turns(), fail)
            async with asyncio.timeout(10):
                await loop.sock_connect(client, listener.getsockname())
                got = await loop.sock_recv(client, 1)
            acceptor.close()
            return got

    assert asyncio.run(test()) == b"" and "a bug" in caplog.text


def test_connection_with_a_high_descriptor_displaces_two(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> list[bool]:
        door, connections = PendingConnections(), [Connection() for _ in range(4)]
        for number, connection in enumerate(connections):
            door.arrive(connection, number)
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as high:
            acceptor = Acceptor(listener, door, Turns(), lambda sock: None)
            monkeypatch.setattr(listeners, "descriptors", high.fileno)
            assert acceptor._room_for(high)
            acceptor.close()
        return [connection.gone for connection in connections]

    assert asyncio.run(test()) == [True, True, False, False]
