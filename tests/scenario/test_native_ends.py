"""A native connection ends with a Fault that says why, even if the other side has left much unread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millrace.budget import CONNECTIONS
from millrace.client.bus import connect
from millrace.control.registry import native_frames
from millrace.daemon.app import Daemon
from millrace.errors import BudgetError
from millrace.io.clock import now_ns
from millrace.server.native.server import NativeServer
from millrace.server.native.session import INTERNAL, NativeSession
from millrace.wire.native.messages import HEADER, Call, Fault, Hello, Message, Reply, Welcome, frame
from millrace.wire.native.session import NativeWire
from tests import bus

running = partial(bus.running, guests=bus.BOTH)
NONSENSE = HEADER.pack(0, 2, 0, 7)


class Client:
    """A client that writes at once, and reads only on request."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.wire = NativeWire(daemon=False, close_fd=os.close)

    async def greet(self) -> Client:
        await self.say([frame(Hello())])
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        self.wire.receive(data, 0)
        assert [type(message) for message, _ in self.wire.events()] == [Welcome]
        return self

    async def say(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            await asyncio.get_running_loop().sock_sendall(self.sock, message)

    async def rest(self) -> list[Message]:
        """All messages up to the end of the connection."""
        loop, heard = asyncio.get_running_loop(), bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self.sock, 65_536):
                heard += data
        self.wire.receive(heard, 0)
        assert self.wire.partial_bytes == 0, "the last message is complete"
        return [message for message, _ in self.wire.events()]


def at_door(daemon: Daemon, guest: str = "alice") -> Client:
    return Client(daemon.config.runtime / guest / "native")


def server_of(daemon: Daemon, guest: str = "alice") -> NativeServer:
    return daemon._native[daemon.worker.guest(guest)]


def much_went_wrong(daemon: Daemon, count: int) -> None:
    """Record so many incidents in guest alice; each takes about 400 bytes in an answer."""
    for n in range(count):
        at = now_ns() - (count - n) * 2_000_000_000
        evidence = {"what": "x" * 150}
        # At most a hundred incidents of one cause are stored.
        stage, cause = [("client", "wrote late"), ("machine", "late"), ("send", "line full"), ("device", "late")][n % 4]
        daemon.worker.diagnosis.incidents.record(stage, cause, at, "alice", f"stream/{n}", evidence, at_ns=at)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("count", [1, 400])
def test_violation_behind_unread_answers_gets_fault(tmp_path: Path, count: int) -> None:
    async def test(daemon: Daemon) -> None:
        much_went_wrong(daemon, count)
        client, server = await at_door(daemon).greet(), server_of(daemon)
        (session,) = server.sessions
        await client.say(frame(Call(n, "incidents", {})) for n in range(1, 4))
        await until(lambda: session.state.called == 3 and session._worker is None)
        await client.say([NONSENSE])
        await until(lambda: session.closed)
        *answers, last = await client.rest()
        assert isinstance(last, Fault) and (last.serial, last.code) == (0, "protocol")
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        assert [(reply.serial, len(reply.value)) for reply in replies] == [(n, count) for n in (1, 2, 3)]
        assert len(answers) == 3
        await until(lambda: not server.sessions)

    running(tmp_path, test)


def test_call_with_serial_0_is_a_violation(tmp_path: Path) -> None:
    """A Fault with serial 0 is the last message of a connection, so no call may have that serial."""

    async def test(daemon: Daemon) -> None:
        client = await at_door(daemon).greet()
        await client.say([frame(Call(0, "no such method", {}))])
        (fault,) = await client.rest()
        assert isinstance(fault, Fault) and (fault.serial, fault.code) == (0, "protocol")

    running(tmp_path, test)


def test_answer_filling_the_socket_leaves_room_for_fault(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server = server_of(daemon)
        for size in range(120_000, 320_000, 8_000):
            client = await at_door(daemon).greet()
            (session,) = server.sessions
            session.send(Reply(1, b"x" * size))
            session.connection.flush()
            session.end("enough")
            *_, last = await client.rest()
            assert isinstance(last, Fault) and last.message == "enough", size
            await until(lambda: not server.sessions)

    running(tmp_path, test)


def test_client_that_does_not_read_gets_fault_when_it_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(daemon: Daemon) -> None:
        much_went_wrong(daemon, 400)
        client, server = await at_door(daemon).greet(), server_of(daemon)
        asked = [frame(Call(n, "incidents", {})) for n in range(1, 101)]
        await client.say(asked)
        await until(lambda: all(session.closed for session in server.sessions))
        *replies, last = await client.rest()
        assert isinstance(last, Fault) and (last.serial, last.code) == (0, "limit") and "left unread" in last.message
        assert 1 <= len(replies) < 10, "messages not yet started are not sent"
        await until(lambda: not server.sessions)
        assert not daemon.worker.guest("alice").graph.budget.shares().get("connection")

    with caplog.at_level(logging.WARNING, "millrace.native"):
        running(tmp_path, test)
    assert [one for one in caplog.messages if "left unread" in one]


def test_client_that_never_reads_is_released_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.io.fdstream.CLOSE_TIMEOUT_S", 0.1)

    async def test(daemon: Daemon) -> None:
        server, budget = server_of(daemon), daemon.worker.guest("alice").graph.budget
        clients = [await at_door(daemon).greet() for _ in range(5)]
        before = len(os.listdir("/proc/self/fd"))
        for session in list(server.sessions):
            session.send(Reply(1, b"x" * 900_000))
            session.connection.flush()
            session.end("enough")
        assert len(server.sessions) == 5 and budget.shares()["connection"] > 5 * 500_000
        await until(lambda: not server.sessions)
        assert not budget.shares().get("connection")
        assert len(os.listdir("/proc/self/fd")) == before - 5
        assert len(clients) == 5

    running(tmp_path, test)


def test_closing_connections_make_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.native.server.CONNECTIONS_MAX", 2)

    async def test(daemon: Daemon) -> None:
        server = server_of(daemon)
        slow = [await at_door(daemon).greet() for _ in range(2)]
        first = next(iter(server.sessions))
        first.send(Reply(1, b"x" * 900_000))
        first.connection.flush()
        first.end("enough")
        await at_door(daemon).greet()
        assert len(server.sessions) == 2 and first not in server.sessions
        assert len(slow) == 2

    running(tmp_path, test)


def test_closing_output_beyond_budget_is_dropped(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server, budget = server_of(daemon), daemon.worker.guest("alice").graph.budget
        client = await at_door(daemon).greet()
        (session,) = server.sessions
        other = budget.open("stream")
        other.hold("all", int(budget.limit * CONNECTIONS) - budget.held, CONNECTIONS)
        session.send(Reply(1, b"x" * 900_000))
        session.connection.flush()
        assert not server.sessions and session.closed
        other.close()
        assert not budget.shares().get("connection")
        client.sock.close()

    running(tmp_path, test)


def test_revoked_client_reads_only_the_message_in_progress(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        client, server = await at_door(daemon).greet(), server_of(daemon)
        (session,) = server.sessions
        for n in range(4):
            session.send(Reply(n, b"x" * 300_000))
        session.send_objects(native_frames([], [1], True))
        session.connection.flush()
        session.end("the grant to connect was revoked", "rights")
        *replies, last = await client.rest()
        assert isinstance(last, Fault) and last.code == "rights"
        assert [reply.serial for reply in replies if isinstance(reply, Reply)] == list(range(len(replies)))
        assert len(replies) < 3

    running(tmp_path, test)


def test_internal_error_ends_with_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(session: NativeSession, hello: Hello) -> None:
        raise ZeroDivisionError

    async def test(daemon: Daemon) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(NativeSession, "_hello", broken)
            client = at_door(daemon)
            await client.say([frame(Hello())])
            (last,) = await client.rest()
        assert isinstance(last, Fault) and (last.serial, last.code) == (0, "internal")
        await at_door(daemon).greet()

    running(tmp_path, test)
    assert "internal error" in caplog.text


def test_error_in_cleanup_leaves_nothing_of_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        client, server = await at_door(daemon).greet(), server_of(daemon)
        (session,), failed = server.sessions, list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: failed.append(what))

        def fail() -> None:
            raise AssertionError("an error in the daemon")

        monkeypatch.setattr(session.streams, "close", fail)
        released = list[object]()
        monkeypatch.setattr(daemon.plane, "release", released.append)
        client.sock.close()
        await until(lambda: not server.sessions)
        assert released == [session] and session.account.held == 0 and len(failed) == 1

    running(tmp_path, test)


def test_answer_too_large_for_a_message_is_refused_and_connection_continues(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        graph = daemon.worker.guest("alice").graph
        assert graph.default is not None
        sinks = [graph.add_sink(f"s{n}") for n in range(250)]
        for sink in sinks:
            sink.description = "x" * 5_000
        async with connect(daemon.config.runtime / "native.sock") as own:
            with pytest.raises(BudgetError, match="does not fit in one message"):
                await own.call("state")
            for sink in sinks[50:]:
                graph.remove_sink(sink)
            state = await own.call("state", guest="alice")
            assert len(state["guests"][0]["sinks"]) == 51
            assert await own.call("state", guest="bob")

    running(tmp_path, test)


def test_watcher_that_can_not_be_told_is_disconnected_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(session: NativeSession, made: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(NativeSession, "send_objects", fails)

    async def test(daemon: Daemon) -> None:
        client = await at_door(daemon).greet()
        await client.say([frame(Call(1, "watch", {}))])
        assert (await client.rest())[-1] == Fault(0, "internal", INTERNAL)

    running(tmp_path, test)
