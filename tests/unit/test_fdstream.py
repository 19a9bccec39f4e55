"""Streams that carry descriptors: what they own when they are closed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from millrace.absent import nothing
from millrace.io import fdstream
from millrace.io.fdstream import CLOSE_TIMEOUT_S, LINGER_S, UNSENT_FDS_MAX, FdStream
from millrace.io.turns import Turns
from millrace.units import NS_PER_S, HostNs
from millrace.wire.chunk import Chunk

LARGE = 1_000_000
"""Bytes that no socket takes at once."""


class Sends:
    """A core that sends descriptors."""

    def __init__(self) -> None:
        self.out: list[Chunk] = []

    def receive(self, data: object, now_ns: HostNs) -> None: ...

    def handle_timeout(self, now_ns: HostNs) -> None: ...

    def next_timeout(self) -> HostNs | None:
        return None

    def data_to_send(self) -> list[Chunk]:
        out, self.out = self.out, []
        return out


class Reads(Sends):
    """A core that collects what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""

    def receive(self, data: Any, now_ns: HostNs) -> None:
        self.got += bytes(data)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_all_that_a_peer_sent_is_read_though_it_left_with_output_unread(run: Callable[[Any], None]) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        core, ended = Reads(), list[Exception]()
        stream = FdStream(ours, core, lambda: None, ended.append, turns=Turns())
        core.out.append(Chunk(bytearray(b"never read")))
        stream.flush()
        sent = bytes(range(256)) * 40
        theirs.sendall(sent)
        theirs.close()
        async with asyncio.timeout(10):
            while not ended:
                await asyncio.sleep(0.01)
        assert core.got == sent and ours.fileno() < 0
        assert str(ended[0]) == "the peer closed the connection"

    run(test())


def test_last_output_is_sent_though_the_account_that_it_was_charged_to_is_closed() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        core, sent, got = Sends(), bytes(1_500_000), 0
        allowed = [True]
        stream = FdStream(
            ours, core, lambda: None, lambda error: None, may_wait=lambda size: allowed[0] or not size, turns=Turns()
        )
        core.out.append(Chunk(bytearray(sent)))
        stream.flush()
        allowed[0] = False
        stream.linger()
        theirs.setblocking(False)
        async with asyncio.timeout(10):
            while data := await asyncio.get_running_loop().sock_recv(theirs, 1 << 16):
                got += len(data)
        assert got == len(sent)
        theirs.close()
        stream.close()

    asyncio.run(test())


def lingering(last: bytes) -> tuple[FdStream, socket.socket, list[str]]:
    """A stream that lingers after its last word, the peer's end, and what has happened."""
    ours, theirs = socket.socketpair()
    happened: list[str] = []
    core = Sends()
    stream = FdStream(ours, core, nothing, lambda error: happened.append("ended"), gone=lambda: happened.append("gone"))
    core.out.append(Chunk(bytearray(last)))
    stream.linger()
    theirs.settimeout(5)
    return stream, theirs, happened


async def rounds(number: int = 1000) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# uvloop tells nothing of a connection that ended in an error: there the time ends it.
@pytest.mark.parametrize(("run", "unread"), [(asyncio.run, False), (uvloop.run, False), (asyncio.run, True)])
def test_stream_that_lingers_is_closed_when_the_peer_has_closed(
    run: Callable[[Any], None], unread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that nothing follows, and hears nothing more."""
    monkeypatch.setattr(fdstream, "LINGER_S", 1000.0)

    async def test() -> None:
        stream, theirs, happened = lingering(b"last word")
        if unread:
            # Closed with that unread, it ends in an error of the connection.
            theirs.sendall(b"x" * 100_000)
        else:
            assert theirs.recv(100) == b"last word" and theirs.recv(100) == b"", "nothing follows"
            for _ in range(3):
                theirs.sendall(b"not heard")
                await rounds()
        assert happened == [] and stream._sock.fileno() >= 0
        theirs.close()
        await rounds()
        assert happened == ["gone"] and stream._sock.fileno() < 0

    run(test())


class Broken(socket.socket):
    """A socket whose connection has ended in an error."""

    def recv_into(self, *_: Any) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_stream_that_lingers_is_closed_by_an_error_too() -> None:
    async def test() -> None:
        stream, theirs, happened = lingering(b"")
        stream._sock = Broken(fileno=stream._sock.detach())
        stream._drop()
        assert happened == ["gone"]
        theirs.close()

    asyncio.run(test())


def test_stream_that_lingers_waits_when_there_is_nothing_to_read() -> None:
    """What made it readable may be gone."""

    async def test() -> None:
        stream, theirs, happened = lingering(b"")
        stream._drop()
        assert happened == [] and stream._sock.fileno() >= 0
        stream.close()
        theirs.close()

    asyncio.run(test())


@pytest.mark.parametrize(("how", "seconds"), [("linger", LINGER_S), ("finish", CLOSE_TIMEOUT_S)])
def test_stream_that_is_ended_is_closed_after_some_time_in_any_case(
    how: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LINGER_S != CLOSE_TIMEOUT_S

    async def test() -> None:
        ours, theirs = socket.socketpair()
        core, later = Sends(), list[tuple[float, Any]]()
        stream = FdStream(ours, core, nothing, lambda error: None)
        monkeypatch.setattr(stream, "_loop", SimpleLoop(later))
        core.out.append(Chunk(bytearray(LARGE)))
        getattr(stream, how)()
        ((after_s, call),) = later
        assert after_s == seconds and ours.fileno() >= 0
        call()
        assert ours.fileno() < 0
        theirs.close()

    asyncio.run(test())


class SimpleLoop:
    """A loop that only notes what is to be called later."""

    def __init__(self, later: list[tuple[float, Any]]) -> None:
        self._later = later

    def call_later(self, after_s: float, call: Any) -> Any:
        self._later.append((after_s, call))
        return SimpleNamespace(cancel=nothing)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_descriptors_sent_after_close_are_closed() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            core = Sends()
            stream = FdStream(ours, core, lambda: None, lambda error: None)
            stream.close()
            read, write = os.pipe()
            core.out.append(Chunk(bytearray(b"x"), (write,), give=True))
            stream.flush()
            # The end of a pipe whose writers are all closed.
            os.set_blocking(read, False)
            assert os.read(read, 1) == b"" and core.out == []
            os.close(read)

    asyncio.run(test())


class Slow(Reads):
    """A core that is called again and again for what it has received."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def receive(self, data: Any, now_ns: HostNs) -> None:
        if len(data):
            assert not self.left, "read before the rest was done"
            self.left = 3
        elif self.left:
            self.left -= 1
        super().receive(data, now_ns)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_nothing_is_read_while_the_core_is_unfinished(run: Callable[[Any], None]) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        core, ended = Slow(), list[Exception]()
        stream = FdStream(
            ours, core, lambda: None, ended.append, turns=Turns(), chunk_max=256, unfinished=lambda: core.left > 0
        )
        theirs.sendall(bytes(2000))
        async with asyncio.timeout(10):
            while len(core.got) < 2000 or core.left:
                await asyncio.sleep(0.001)
            core.left = 2
            stream.go_on()
            while core.left:
                await asyncio.sleep(0.001)
            theirs.close()
            while not ended:
                await asyncio.sleep(0.001)

    run(test())


def test_unfinished_core_goes_on_until_the_turn_is_over() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        core, left = Slow(), list[int]()
        turns = Turns(lambda: 0)
        with theirs:
            stream = FdStream(
                ours, core, lambda: left.append(core.left), lambda why: None, turns=turns,
                unfinished=lambda: core.left > 0,
            )  # fmt: skip
            theirs.sendall(b"x")
            while not left:
                await asyncio.sleep(0)
            assert left == [3]
            await asyncio.sleep(0)
            assert left == [3, 2, 1, 0], "one round"
            core.left, turns.clock = 2, counting(NS_PER_S)
            stream.go_on()
            await asyncio.sleep(0)
            assert left[4:] == [1]
            await asyncio.sleep(0)
            assert left[4:] == [1, 0]
            stream.close()

    asyncio.run(test())


def counting(step: HostNs) -> Callable[[], HostNs]:
    """A clock that goes on at each look."""
    times = count(0, step)
    return lambda: next(times)


def test_a_peer_that_takes_no_descriptors_is_cut_before_they_are_many() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            core, ended, opened = Sends(), list[Exception](), 0
            stream = FdStream(ours, core, lambda: None, ended.append)
            before = len(os.listdir("/proc/self/fd"))
            while not ended:
                core.out.append(Chunk(bytearray(b"x"), (os.dup(0),), give=True))
                stream.flush()
                opened = max(opened, len(os.listdir("/proc/self/fd")) - before)
            assert str(ended[0]) == "the peer does not read"
            assert opened <= UNSENT_FDS_MAX + 2 and len(os.listdir("/proc/self/fd")) <= before

    asyncio.run(test())


def test_connection_that_breaks_is_lost_for_the_reason_that_the_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(stream: FdStream) -> int:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    async def test() -> None:
        core, ended = Sends(), list[Exception]()
        ours, theirs = socket.socketpair()
        stream = FdStream(ours, core, lambda: None, ended.append)
        theirs.close()
        core.out.append(Chunk(bytearray(b"never read")))
        stream.flush()
        monkeypatch.setattr(FdStream, "_receive", broken)
        ours, theirs = socket.socketpair()
        with theirs:
            FdStream(ours, core, lambda: None, ended.append)
            theirs.send(b"x")
            async with asyncio.timeout(10):
                while len(ended) < 2:
                    await asyncio.sleep(0)
        assert [str(one) for one in ended] == [
            "the connection was lost: Broken pipe", "the connection was lost: Connection reset by peer",
        ]  # fmt: skip

    asyncio.run(test())
