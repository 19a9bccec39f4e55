"""WebSocket frames written from the audio cycle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

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

    def get_write_buffer_size(self) -> int:
        return self.waiting


def test_messages_become_whole_frames_until_close() -> None:
    transport, whole = Transport(), SimpleNamespace(closed=False)
    writer = FrameWriter(cast(Any, transport), cast(Any, whole))
    writer.write(["hi", bytes(200)])
    head, long = b"\x81\x02hi", b"\x82\x7e\x00\xc8" + bytes(200)
    assert transport.written == head + long and writer.room()
    transport.waiting = UNSENT_BYTES_MAX
    assert not writer.room()
    whole.closed = True
    writer.write(["late"])
    assert transport.written == head + long
