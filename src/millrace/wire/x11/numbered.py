"""Requests by their numbers, and who waits for the answers.

X Window System Protocol, X Version 11, "Request Format", "Reply Format" and "Error Format": requests are numbered in
the order in which they are sent, from 1 on; answers and errors name the lower 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable

from millrace.errors import RemoteProtocolError
from millrace.wire.chunk import Chunk
from millrace.wire.x11.said import REPLY_MAX, Said

PACKET = 32
WAITING_MAX = 1024
"""Requests that the server may leave unanswered."""
_REPLY, _GENERIC = 1, 35


class Numbered:
    """The requests of one connection."""

    def __init__(self, setup: bytes) -> None:
        """`setup` goes first, and has no number."""
        self._out: list[Chunk] = [Chunk(bytearray(setup))]
        self._sent = 0
        self._waiting: dict[int, Said] = {}
        self._overrun = False

    def send(self, request: bytes, fds: Iterable[int] = ()) -> int:
        """Send what has no answer, with descriptors that it gives away; returns its number."""
        self._sent += 1
        number = self._sent & 0xFFFF
        self._overrun |= number in self._waiting
        given = tuple(fds)
        if given:
            self._out += [Chunk(bytearray(request), given, give=True), Chunk()]
        else:
            self._out[-1].data += request
        return number

    def say(self, said: Said) -> None:
        """Send a request, and keep what is to be done with its answer."""
        number = self.send(said.request)
        if said.then is not None:
            self._overrun |= len(self._waiting) >= WAITING_MAX
            self._waiting[number] = said

    def answered(self, number: int) -> Said | None:
        """What waited for what is said about this request; None if nothing did."""
        return self._waiting.pop(number, None)

    def sizes(self, head: bytearray) -> tuple[int, int]:
        """Bytes of the message that begins like this, and how many it may have. All have `PACKET`, some are longer."""
        if len(head) < PACKET or head[0] & 0x7F not in (_REPLY, _GENERIC):
            return PACKET, PACKET
        asked = self._waiting.get(int.from_bytes(head[2:4], "little")) if head[0] == _REPLY else None
        size, most = PACKET + 4 * int.from_bytes(head[4:8], "little"), REPLY_MAX if asked is None else asked.bytes_max
        return (PACKET, PACKET) if asked is not None and asked.head_only and size > most else (size, most)

    # Not where it is sent: that may be at the wish of a viewer, whose fault it is not.
    def check(self) -> None:
        """RemoteProtocolError if so much was left unanswered that a number no longer says which request is meant."""
        if self._overrun:
            raise RemoteProtocolError("the X server leaves requests unanswered")

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        out, self._out = self._out, [Chunk()]
        return [chunk for chunk in out if chunk.data]
