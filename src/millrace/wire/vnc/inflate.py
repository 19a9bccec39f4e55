"""zlib streams that go on over many rectangles, read in steps of known size."""

from __future__ import annotations

import zlib
from collections.abc import Generator

from millrace.errors import RemoteProtocolError
from millrace.wire.vnc.work import PART_WORK, WORK_MAX, Work

PIECE_BYTES = 8 * 1024
"""How much of a rectangle's compressed bytes is taken at once."""
INFLATED_BYTES = 64 * 1024
"""How much they inflate to at once."""
IN_WORK, OUT_WORK = 60, 4
"""What a byte costs. Tables of codes that are used for nothing make the compressed ones dear."""


# A few bytes can inflate to a thousand times as many, and many to nothing. So nothing is inflated without a bound on
# both: the caller says how many bytes its rectangle needs, and what remains after that is an error.
class Inflater:
    """One stream. Say how long a rectangle is compressed, read what it holds, and end it: the next one goes on.

    Its generators yield how many bytes they need, or 0 when the step is over.
    """

    __slots__ = ("_left", "_rest", "_stream", "_work")

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stream = zlib.decompressobj()
        self._rest = b""
        self._left = 0
        """Compressed bytes of the rectangle that were not taken yet."""

    def begin(self, size: int) -> None:
        """The next rectangle has so many compressed bytes."""
        self._left = size

    def some(self, size: int) -> Generator[int, bytes, bytes]:
        """At most `size` > 0 bytes, and none only if the rectangle has no more."""
        while True:
            if not self._rest and self._left:
                self._rest = yield min(self._left, PIECE_BYTES)
                self._left -= len(self._rest)
            out = self._inflate(min(size, INFLATED_BYTES))
            if self._work.spent >= WORK_MAX:
                yield 0
            if out or not (self._rest or self._left):
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
            raise RemoteProtocolError(f"a VNC rectangle inflates to {missing} bytes less than it needs")
        return b"".join(parts)

    # The end of a flush stays behind when as many bytes were asked for as there are; it inflates to nothing.
    def end(self) -> Generator[int, bytes, None]:
        """The rectangle must have no more."""
        while self._rest or self._left:
            if (yield from self.some(1)):
                raise RemoteProtocolError("a VNC rectangle inflates to more than it needs")
