"""Streams that carry descriptors: what they own when they are closed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from millrace.io.fdstream import FdStream
from millrace.io.turns import Turns
from millrace.units import HostNs
from millrace.wire.chunk import Chunk


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

    run(test())


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
