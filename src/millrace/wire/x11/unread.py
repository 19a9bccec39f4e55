"""What an X server has sent and was not processed yet."""

from __future__ import annotations

from collections.abc import Callable

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError

HEAD = 8
"""Bytes that say how long a message is, if enough of the rest has come."""
Sizes = Callable[[bytearray], tuple[int, int]]
"""Bytes of the message that begins like this, and how many it may have."""


class Unread:
    """Bytes, of which messages are taken."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._passed_over = 0
        """Bytes that are still to come and are dropped."""
        self.more = False
        """Whether there was a whole message when one was last looked for."""

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: Buffer) -> None:
        """These have come."""
        self._data += data

    def pass_over(self, size: int) -> None:
        """Drop what follows, of which most may be still to come."""
        self._passed_over = size

    def take(self, sizes: Sizes, wait: bool) -> bytes | None:
        """The next message if it is whole and need not wait; RemoteProtocolError if it is too long."""
        passed = min(self._passed_over, len(self._data))
        self._passed_over -= passed
        del self._data[:passed]
        size, most = sizes(self._data)
        if size > most:
            raise RemoteProtocolError(f"the X server sent a message of {size} bytes; {most} at most")
        self.more = HEAD <= len(self._data) >= size
        if wait or not self.more:
            return None
        part = bytes(self._data[:size])
        del self._data[:size]
        return part
