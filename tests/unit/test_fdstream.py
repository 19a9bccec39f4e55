"""Streams that carry descriptors: what they own when they are closed."""

from __future__ import annotations

import asyncio
import os
import socket

from millrace.io.fdstream import FdStream
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
