"""Machines that disconnect around the TLS handshake: their door says so, and uvloop reports no error."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from millrace.errors import PeerLost
from millrace.guest.machines.address import parse_door
from millrace.io import client
from millrace.io.client import ClientConnection
from millrace.io.turns import Turns
from millrace.units import HostNs
from millrace.wire.contract import Untimed
from tests.bus import daemon_in
from tests.scenario.test_certificates import certificate

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Silent(Untimed):
    """A session that sends nothing."""

    partial_bytes = 0

    def receive(self, data: memoryview, now_ns: HostNs) -> None:
        pass

    def data_to_send(self) -> bytes:
        return b""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run in uvloop, as the daemon does; an exception in one of its callbacks fails the test."""
    unseen: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: unseen.append(what))
        await test

    uvloop.run(main())
    assert not unseen


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def connected(serve: Serve) -> AsyncIterator[tuple[ClientConnection, list[Exception]]]:
    ends: list[Exception] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = ClientConnection(Silent(), lambda now: None, ends.append)
        await connection.connect("127.0.0.1", server.sockets[0].getsockname()[1], "", None)
        yield connection, ends
        connection.close()
        await asyncio.sleep(0.02)


def test_machine_that_disconnects_before_handshake() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async def test() -> None:
        async with connected(serve) as (connection, ends):
            async with asyncio.timeout(5):
                while not ends:
                    await asyncio.sleep(0.005)
                with pytest.raises(PeerLost, match="TLS: the connection ended before the handshake"):
                    await connection.start_tls(ssl.create_default_context(), "localhost")

    run(test())


def test_machine_asks_for_tls_before_its_guest_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's tasks wait for turns, so bytes may arrive before the task that connects goes on."""

    class Asking(Silent):
        shaking: asyncio.Task[None] | None = None

        def receive(self, data: memoryview, now_ns: HostNs) -> None:
            self.shaking = asyncio.create_task(connections[0].start_tls(ssl.create_default_context(), "localhost"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"TLS, please")
        await reader.read(100)
        writer.close()

    async def test() -> None:
        core, turns = Asking(), Turns()
        monkeypatch.setattr(turns, "ready", lambda: not connections or core.shaking is not None)
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = ClientConnection(core, lambda now: None, lambda why: None)

            async def connect() -> None:
                connections.append(connection)
                await connection.connect("127.0.0.1", port, "", None)

            async with asyncio.timeout(5):
                await turns.task(connect)
                assert core.shaking is not None
                with pytest.raises(PeerLost, match="TLS"):
                    await core.shaking

    connections: list[ClientConnection] = []
    run(test())


def test_machine_detached_as_handshake_begins() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def test() -> None:
        async with connected(serve) as (connection, _):
            shaking = asyncio.create_task(connection.start_tls(ssl.create_default_context(), "localhost"))
            # In the round of the loop in which the task starts.
            asyncio.get_running_loop().call_soon(connection.close)
            async with asyncio.timeout(2):
                with pytest.raises(PeerLost, match="TLS"):
                    await shaking

    run(test())


def test_connection_given_up_while_it_is_made(caplog: pytest.LogCaptureFixture) -> None:
    """The event loop closes its transport without telling the protocol, whose turn still comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def test() -> None:
        ends: list[Exception] = []
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            connection = ClientConnection(Silent(), lambda now: None, ends.append)
            port = server.sockets[0].getsockname()[1]
            connecting = asyncio.create_task(connection.connect("127.0.0.1", port, "", None))
            made = connection._runner.connection_made

            def given_up(transport: asyncio.BaseTransport) -> None:
                made(transport)
                connection._runner._park(b"bytes that wait for their turn")
                connecting.cancel()

            connection._runner.connection_made = given_up  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await connecting
            connection.close()
            await asyncio.sleep(0.02)
        assert ends == [], "connect itself was cancelled"
        assert not caplog.records

    run(test())


LOGIN = [b"RFB 003.008\n", b"\1\x13", b"\0\2", b"\0\1" + struct.pack(">I", 260), b"\1"]


@pytest.mark.parametrize("where", ["with the login", "after the login", "at the hello", "in the answer"])
def test_vnc_machine_that_disconnects_around_handshake(tmp_path: Path, where: str) -> None:
    served: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if where == "with the login":
            writer.write(b"".join(LOGIN))
            await asyncio.sleep(0.02)
        else:
            for part in LOGIN:
                writer.write(part)
                await asyncio.sleep(0.01)
        if where in ("at the hello", "in the answer"):
            hello = b""
            while b"\x16\x03" not in hello:
                hello += await reader.read(4096)
        if where == "in the answer":
            writer.write(b"\x16\x03\x03\0\x7a\2\0")
            await writer.drain()
        reset(writer)
        served.append(where)

    async def test() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, daemon_in(tmp_path) as daemon:
            daemon.worker.attach(
                daemon.worker.guests["alice"], parse_door(f"vnc+tls://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            )
            (door,) = daemon.worker.guests["alice"].machines
            async with asyncio.timeout(10):
                while not served or not door.view().error:
                    await asyncio.sleep(0.005)
            said = door.view().error
            assert "TLS" in said or "broke" in said or "closed" in said or "lost" in said, said

    run(test())


async def shake_hands(
    begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> ssl.SSLObject:
    """A server's handshake, whose last part is sent together with the first message inside TLS: login accepted."""
    taken, given = ssl.MemoryBIO(), ssl.MemoryBIO()
    taken.write(begun)
    inside = context.wrap_bio(taken, given, server_side=True)
    while True:
        try:
            inside.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(given.read())
            taken.write(await reader.read(4096))
    inside.write(bytes(4))
    writer.write(given.read())
    taken.write(await reader.read(4096))
    return inside


@pytest.mark.parametrize(("door", "ca_file"), [("vnc://127.0.0.1:{}", "/ca.pem"), ("vnc+tls://127.0.0.1:{}", "")])
def test_vnc_door_with_tls_is_not_attached_without(tmp_path: Path, door: str, ca_file: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\x01\x01")
        heard.append(await reader.read())
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, daemon_in(tmp_path) as daemon:
            spec = parse_door(door.format(server.sockets[0].getsockname()[1]), ca_file=ca_file, password="secret")
            machine = daemon.worker.attach(daemon.worker.guests["alice"], spec)
            async with asyncio.timeout(10):
                while not heard:
                    await asyncio.sleep(0.01)
            assert "offers no TLS with certificates" in machine.view().error

    heard: list[bytes] = []
    run(test())
    assert heard[0] == b"RFB 003.008\n"


def test_vnc_data_sent_with_end_of_handshake_is_accepted(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority")
    own = certificate(tmp_path, "machine", authority, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    # In TLS 1.2 the server sends the last message of the handshake.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in LOGIN:
            writer.write(part)
            await asyncio.sleep(0.01)
        hello = b""
        while b"\x16\x03" not in hello:
            hello += await reader.read(4096)
        inside = await shake_hands(hello[hello.index(b"\x16\x03") :], reader, writer, context)
        heard.put_nowait(inside.read(4096))
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, daemon_in(tmp_path) as daemon:
            port = server.sockets[0].getsockname()[1]
            spec = parse_door(f"vnc+tls://localhost:{port}", ca_file=str(authority.cert))
            daemon.worker.attach(daemon.worker.guests["alice"], spec)
            async with asyncio.timeout(10):
                assert await heard.get() == b"\1", "it shares the screen"

    run(test())


@pytest.mark.parametrize("runs", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("says", [b"", b"unheard"])
def test_server_that_is_left_inside_tls_has_the_last_word_and_closes_at_once(
    tmp_path: Path, says: bytes, runs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LINGER_S", 60)
    authority = certificate(tmp_path, "authority")
    own = certificate(tmp_path, "machine", authority, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    got = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        got.append(await reader.read())
        writer.close()

    async def test() -> None:
        gone, core = asyncio.Event(), Silent()
        async with asyncio.timeout(10), await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            one = ClientConnection(core, lambda now: None, lambda why: None)
            tls = ssl.create_default_context(cafile=str(authority.cert))
            await one.connect("localhost", server.sockets[0].getsockname()[1], "", tls)
            core.data_to_send = lambda: b"last word"  # type: ignore[method-assign]
            one.linger(gone.set)
            await gone.wait()
            while not got:
                await asyncio.sleep(0.01)

    runs(test())
    assert got == [b"last word"]
