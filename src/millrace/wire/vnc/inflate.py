"""zlib streams that go on over many rectangles, read in steps of known size."""

from __future__ import annotations

import zlib
from collections.abc import Generator

from millrace.errors import RemoteProtocolError
from millrace.wire.vnc.work import PART_WORK, WORK_MAX, Work

PIECE_BYTES = 4 * 1024
"""How much of a rectangle's compressed bytes is taken at once."""
INFLATED_BYTES = 64 * 1024
"""How much they inflate to at once."""
IN_WORK, OUT_WORK = 110, 4
"""What a byte costs. Tables of codes that are used for nothing make the compressed ones dear: two megabytes of such
tables took up to 110 ns a byte, where compressed text takes 10 (`bench vnc_steps`, "tables for nothing")."""


# A few bytes can inflate to a thousand times as many, and many to nothing. So nothing is inflated without a bound on
# both: the caller says how many bytes its rectangle needs, and what remains after that is an error.
class Inflater:
    """One stream. Say how long a rectangle is compressed, read what it holds, and end it: the next one goes on.

    Its generators yield how many bytes they need, or 0 when the step is over.
    """

    __slots__ = ("_rest", "_stream", "_work", "left")

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stream = zlib.decompressobj()
        self._rest = b""
        self.left = 0
        """Compressed bytes of the rectangle that were not taken yet."""

    def begin(self, size: int) -> None:
        """The next rectangle has so many compressed bytes."""
        self.left = size

    def some(self, size: int) -> Generator[int, bytes, bytes]:
        """At most `size` > 0 bytes, and none only if the rectangle has no more."""
        while True:
            if not self._rest and self.left:
                self._rest = yield min(self.left, PIECE_BYTES)
                self.left -= len(self._rest)
            out = self._inflate(min(size, INFLATED_BYTES))
            if self._work.spent >= WORK_MAX:
                yield 0
            if out or not (self._rest or self.left):
                return out

    def _inflate(self, size: int) -> bytes:
        taken, stream = len(self._rest), self._stream
        try:
            out = stream.decompress(self._rest, size)
        except zlib.error as error:
            raise RemoteProtocolError(f"the VNC server sent broken zlib data: {error}") from None
        # What follows the end of a stream would be kept there.
        if stream.unused_data:
            raise RemoteProtocolError("a zlib stream of the VNC server goes on after its end")
        self._rest = stream.unconsumed_tail
        self._work.spent += PART_WORK + IN_WORK * (taken - len(self._rest)) + OUT_WORK * len(out)
        return out

    def read(self, size: int) -> Generator[int, bytes, bytes]:
        """Exactly `size` > 0 bytes."""
        out = yield from self.some(size)
        if len(out) == size:
            return out
        parts, missing = [out], size - len(out)
        while out and missing:
            out = yield from self.some(missing)
            parts.append(out)
            missing -= len(out)
        if missing:
            raise RemoteProtocolError(f"what the VNC server compressed is {missing} bytes too short")
        return b"".join(parts)

    # The end of a flush stays behind when as many bytes were asked for as there are; it inflates to nothing.
    def end(self) -> Generator[int, bytes, None]:
        """The rectangle must have no more."""
        while self._rest or self.left:
            if (yield from self.some(1)):
                raise RemoteProtocolError("a VNC rectangle inflates to more than it needs")


def compressed_max(size: int) -> int:
    """The most bytes that deflate may take for `size`: what it can't compress grows a little."""
    return size + size // 64 + 4096
