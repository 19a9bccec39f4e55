"""A protocol's own deadlines work over every transport: a byte stream, with descriptors, in whole messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from millrace.errors import MillraceError, PeerLost
from millrace.io.client import ClientConnection
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.io.messages import MessageRunner
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Hello, Ping, Welcome, encode_message
from millrace.wire.peer.session import PeerClient
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.qemu.qmp import QmpHandover
from millrace.wire.spice.main import SpiceMain
from millrace.wire.vnc.client import VncClient

TIMEOUT_NS = 60 * NS_PER_MS
SILENT = {
    "spice": ("millrace.wire.spice.main", lambda: SpiceMain("", lambda key, text: b"", now_ns())),
    "vnc": ("millrace.wire.vnc.client", lambda: VncClient(48_000, 2, "", lambda asked, text: b"", now_ns())),
    "dbus": ("millrace.wire.qemu.client", lambda: DisplayClient(0, False, now_ns())),
    "qmp": ("millrace.wire.qemu.qmp", lambda: QmpHandover(0, now_ns())),
}


async def first(ends: list[Any]) -> Any:
    async with asyncio.timeout(10):
        while not ends:
            await asyncio.sleep(0.005)
    return ends[0]


@pytest.mark.parametrize("kind", ["spice", "vnc"])
def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    module, make = SILENT[kind]
    monkeypatch.setattr(f"{module}.ANSWER_NS", TIMEOUT_NS)

    async def test() -> None:
        ends: list[Exception] = []
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(100):
                pass
            gone.set()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            connection = ClientConnection(make(), lambda now: None, ends.append)
            await connection.connect("127.0.0.1", server.sockets[0].getsockname()[1], "", None)
            error = await first(ends)
            assert isinstance(error, PeerLost) and "does not answer; it may be stopped" in str(error)
            await asyncio.wait_for(gone.wait(), 10)

    asyncio.run(test())


@pytest.mark.parametrize("kind", ["dbus", "qmp"])
def test_silent_machine_times_out(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    module, make = SILENT[kind]
    monkeypatch.setattr(f"{module}.ANSWER_NS", TIMEOUT_NS)

    async def test() -> None:
        ends: list[Exception] = []
        mine, theirs = socket.socketpair()
        with theirs:
            FdStream(mine, make(), lambda: None, ends.append)
            assert isinstance(await first(ends), PeerLost)
            assert mine.fileno() < 0

    asyncio.run(test())


class FakeSocket:
    """Stores what a listener writes, and the errors that end it."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.ends: list[MillraceError] = []

    async def write(self, message: str | bytes) -> None:
        self.written.append(message)


def listening(test: Callable[[PeerClient, MessageRunner, FakeSocket], Any]) -> None:
    async def run() -> None:
        sock, wire = FakeSocket(), PeerClient(Hello(), now_ns())
        runner = MessageRunner(wire, sock.write, sock.ends.append)
        task = asyncio.create_task(runner.run())
        try:
            await test(wire, runner, sock)
        finally:
            task.cancel()

    asyncio.run(run())


def test_listener_sends_pings_and_answers_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.wire.peer.session.PING_NS", 20 * NS_PER_MS)

    async def test(wire: PeerClient, runner: MessageRunner, sock: FakeSocket) -> None:
        wire.receive(encode_message(Welcome(1, "g", "s", {})), now_ns())
        wire.receive(encode_message(Ping(7)), now_ns())
        runner.flush()
        async with asyncio.timeout(10):
            while sum('"ping"' in text for text in sock.written) < 3:
                await asyncio.sleep(0.005)
        assert '"hello"' in sock.written[0] and not sock.ends
        assert any('"pong"' in text for text in sock.written[:3])

    listening(test)


def test_daemon_without_welcome_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.wire.peer.keepalive.HELLO_MAX_NS", TIMEOUT_NS)

    async def test(wire: PeerClient, runner: MessageRunner, sock: FakeSocket) -> None:
        error = await first(sock.ends)
        assert isinstance(error, PeerLost) and str(error) == "no welcome"
        await asyncio.sleep(0.05)
        assert len(sock.ends) == 1

    listening(test)
