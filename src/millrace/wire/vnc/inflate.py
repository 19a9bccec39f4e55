"""zlib streams that go on over many rectangles, read in steps of known size."""

from __future__ import annotations

import zlib

from millrace.errors import RemoteProtocolError


# A few bytes can inflate to a thousand times as many. So nothing is inflated without a bound: the caller says how many
# bytes its rectangle needs, and what remains after that is an error.
class Inflater:
    """One stream. Give it a rectangle's bytes, read what they hold, and end it: the next rectangle goes on."""

    __slots__ = ("_rest", "_stream")

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """The compressed bytes of the next rectangle."""
        self._rest = data

    def read_up_to(self, size: int) -> bytes:
        """At most `size` > 0 bytes; fewer if the rectangle has no more."""
        try:
            out = self._stream.decompress(self._rest, size)
        except zlib.error as error:
            raise RemoteProtocolError(f"the VNC server sent broken zlib data: {error}") from None
        self._rest = self._stream.unconsumed_tail
        return out

    def read(self, size: int) -> bytes:
        """Exactly `size` > 0 bytes."""
        out = self.read_up_to(size)
        if len(out) < size:
            raise RemoteProtocolError(f"a VNC rectangle inflates to {size - len(out)} bytes less than it needs")
        return out

    # The end of a flush stays behind when as many bytes were asked for as there are; it inflates to nothing.
    def end(self) -> None:
        """The rectangle must have no more."""
        if self._rest and self.read_up_to(1):
            raise RemoteProtocolError("a VNC rectangle inflates to more than it needs")
        self._rest = b""
