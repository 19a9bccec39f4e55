"""A connection is handed on from one runner to another with everything that is on its way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from millrace.io.runner import Connection, Released, StreamRunner
from millrace.io.turns import Turns


class Core:
    """Collects what it receives, and sends `out`."""

    known = True
    congested = watched = unfinished = False
    unread_since_ns = 0

    def __init__(self) -> None:
        self.got = self.out = b""
        self.closing = self.over_now = False

    def receive(self, data: memoryview, now_ns: int) -> int:
        self.got += data
        return len(data)

    def data_to_send(self) -> bytes:
        out, self.out = self.out, b""
        return out

    def next_timeout(self) -> None:
        return None

    def handle_timeout(self, now_ns: int) -> None: ...

    def may_wait(self, waiting_bytes: int) -> bool:
        return True

    def closed(self) -> bool:
        self.over_now = True
        return True

    def violated(self, error: Exception) -> None: ...


class Scene:
    """A runner with a core on one end of a connection."""

    def __init__(self) -> None:
        self.sock, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.turns, self.core = Turns(), Core()
        self.among: dict[StreamRunner, Connection] = {}
        self.entered: list[object] = []

    async def start(self, received: bytes | None = None) -> StreamRunner:
        runner = StreamRunner(
            lambda transport, runner: self.core, self.turns, self.entered.append, among=self.among, received=received
        )
        await asyncio.get_running_loop().connect_accepted_socket(lambda: runner, self.sock)
        return runner


def deliver(runner: StreamRunner, data: bytes) -> None:
    runner.get_buffer(-1)[: len(data)] = data
    runner.buffer_updated(len(data))


def run(test: Callable[[Scene], Awaitable[None]], loop: Callable[[Any], None] = asyncio.run) -> None:
    async def main() -> None:
        scene = Scene()
        await test(scene)
        scene.peer.close()
        await asyncio.sleep(0)

    loop(main())


async def settled(runner: StreamRunner) -> Any:
    await runner.settle()
    return runner.hand_on()


def test_bytes_that_wait_for_a_turn_are_processed_by_the_next_runner() -> None:
    async def test(scene: Scene) -> None:
        runner = await scene.start()
        scene.turns.left_ns = 0
        deliver(runner, b"late, ")
        await runner.settle()
        # The event loop may deliver what it had read before the pause.
        deliver(runner, b"later")
        released = runner.hand_on()
        assert isinstance(released, Released) and released.received == b"late, later"
        assert not scene.core.got and not scene.core.over_now and not scene.among and not scene.entered
        scene.peer.send(b", last")
        scene.sock = released.sock
        runner = await scene.start(released.received)
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.core.got == b"late, later, last" and [*scene.among] == [runner] and scene.entered
        scene.peer.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.core.over_now and not scene.among

    run(test)


def test_output_of_a_settled_connection_stays_with_its_core() -> None:
    async def test(scene: Scene) -> None:
        runner = await scene.start()
        await runner.settle()
        scene.core.out = b"answer"
        runner.wake()
        for _ in range(5):
            await asyncio.sleep(0)
        released = runner.hand_on()
        with pytest.raises(BlockingIOError):
            scene.peer.recv(100)
        assert scene.core.out == b"answer" and released is not None
        scene.sock = released.sock
        await scene.start(b"")
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.peer.recv(100) == b"answer"

    run(test)


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_half_closed_connection_that_does_not_read_is_closed_at_once(loop: Callable[[Any], None]) -> None:
    async def test(scene: Scene) -> None:
        scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        runner = await scene.start()
        scene.core.out = bytes(1 << 20)
        runner.wake()
        await asyncio.sleep(0.01)
        scene.peer.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            while not scene.core.over_now:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            heard = 0
            while data := await asyncio.get_running_loop().sock_recv(scene.peer, 1 << 20):
                heard += len(data)
        assert 0 < heard < 1 << 20 and not scene.among

    run(test, loop)


def test_closing_connection_sends_its_last_word_and_ends() -> None:
    async def test(scene: Scene) -> None:
        runner = await scene.start()
        scene.core.closing, scene.core.out = True, b"killed"
        assert await settled(runner) is None and scene.core.over_now and not scene.among
        await asyncio.sleep(0)
        assert scene.peer.recv(100) == b"killed" and scene.peer.recv(100) == b""
        assert await settled(runner) is None, "it is over"

    run(test)
