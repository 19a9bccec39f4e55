"""WebSocket frames written from the audio cycle."""

from __future__ import annotations

import asyncio
import socket
from asyncio.sslproto import _SSLProtocolTransport
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

from millrace.outlets.queue import Passed
from millrace.server.http.frames import UNSENT_BYTES_MAX, FrameWriter


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written, self.waiting = b"", 0

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.waiting


def test_messages_become_whole_frames_until_close() -> None:
    transport, whole = Transport(), SimpleNamespace(closed=False)
    wrote = list[int]()
    writer = FrameWriter(cast(Any, transport), cast(Any, whole), wrote=lambda: wrote.append(transport.waiting))
    writer.write(["hi", bytes(200)])
    assert len(wrote) == 1, "whoever ticks its session knows that something is sent"
    head, long = b"\x81\x02hi", b"\x82\x7e\x00\xc8" + bytes(200)
    assert transport.written == head + long and writer.room()
    transport.waiting = UNSENT_BYTES_MAX
    assert not writer.room()
    # asyncio tells when there is room again if more than `high` was waiting.
    transport.waiting = transport.high
    assert writer.room() and transport.high == UNSENT_BYTES_MAX - 1
    transport.waiting = UNSENT_BYTES_MAX
    whole.closed = True
    writer.write(["late"])
    assert transport.written == head + long and len(wrote) == 1


def test_bytes_that_the_other_machine_has_taken_are_told_from_those_on_the_way() -> None:
    async def test() -> None:
        loop, server = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        try:
            writer = FrameWriter(transport, cast(Any, SimpleNamespace(closed=False)))
            assert writer.passed() == Passed(0, 0)
            writer.write([bytes(100)])
            async with asyncio.timeout(5):
                while writer.passed() != Passed(102, 102):
                    await asyncio.sleep(0.005)
            writer.write([bytes(20_000_000)])
            passed = writer.passed()
            assert passed is not None and 102 <= passed.arrived < passed.written == 20_000_112
        finally:
            transport.abort()
            client.close()
            server.close()
        await asyncio.sleep(0)
        assert writer.passed() is None

    asyncio.run(test())
    assert FrameWriter(cast(Any, Transport()), cast(Any, None)).passed() is None


def test_connection_that_is_lost_has_no_room_and_no_count() -> None:
    transport = _SSLProtocolTransport(Mock(), Mock(_app_protocol=None, **{"_get_extra_info.return_value": None}))
    writer = FrameWriter(transport, cast(Any, SimpleNamespace(closed=False)))
    # asyncio's transport of TLS can't be asked any more after the second time.
    transport.close()
    transport.close()
    assert not writer.room() and writer.passed() is None
