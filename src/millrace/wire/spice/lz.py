"""SPICE's LZ compression of 32- and 24-bit pictures ("LZ" in the SPICE protocol; after FastLZ's level 1, with pixels).

A header of seven big-endian words (magic, version, kind, width, height, stride, whether the first row is the top one),
then codes. A code below 32 says that one more pixel than its value follows, B, G, R each. Any other is a match: three
bits of length, 13 bits of distance, both of which may be extended.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RemoteProtocolError

MAGIC = 0x20205A4C
HEADER_BYTES = 28
RGB24, RGB32, RGBA = 7, 8, 9
_VERSION = 0x0001_0001
_FAR = 8191
"""Distances from here on have 16 more bits."""

CODES = 4_000
"""Codes that are taken in one step."""
CODE_COST = 512
"""Pixels that could be copied in the time that a code takes."""
PIECE_BYTES = 512 * 1024
"""Of a longer match, what is copied in one step."""
PIECE_PIXELS = 128 * 1024
"""Pixels that are put together from their colours in one step."""


# Every length in the codes is known to fit into the picture before anything is done with it, and what a single code can
# ask for (a match as long as the picture) is divided: a step takes about as long whatever the codes say.
class LzDecoder:
    """Decodes one picture in steps. RemoteProtocolError if it isn't one of that size."""

    def __init__(self, data: bytes, width: int, height: int) -> None:
        """`data` begins with the header, and may be longer than the picture. The caller has bounded the size."""
        if len(data) < HEADER_BYTES:
            raise RemoteProtocolError("truncated SPICE LZ picture")
        magic, version, kind, wide, high, _, top_down = struct.unpack_from(">7I", data)
        if magic != MAGIC or version != _VERSION or kind not in (RGB24, RGB32, RGBA):
            raise RemoteProtocolError(f"unsupported SPICE LZ picture: version {version:#x}, kind {kind}")
        if (wide, high) != (width, height):
            raise RemoteProtocolError(f"a SPICE LZ picture of {wide} × {high} where {width} × {height} is due")
        self.width, self.height = width, height
        self._data, self._at, self._top_down = data, HEADER_BYTES, bool(top_down)
        # Colours and alpha are coded one after the other. The shortest match is one pixel of colour, or three of alpha.
        self._planes = [(3, 1), (1, 3)] if kind == RGBA else [(3, 1)]
        self._done: list[bytearray] = []
        self._out = bytearray()
        self._span = self._rest = 0
        """Of a long match that is being copied: its distance, and what is missing, in bytes."""
        self._picture = np.zeros((0, width, 4), np.uint8)
        self._rows = 0

    def step(self) -> int:
        """Decode the next codes; returns roughly how many pixels could be copied in that time, 0 after the last."""
        if len(self._done) == len(self._planes):
            return self._put_together()
        size, least = self._planes[len(self._done)]
        want, left, before = self.width * self.height * size, CODES, len(self._out)
        if self._rest:
            self._repeat()
        else:
            try:
                left = self._unpack(want, size, least)
            except IndexError:
                raise RemoteProtocolError("truncated SPICE LZ picture") from None
        if len(self._out) > want or self._at > len(self._data):
            raise RemoteProtocolError("a SPICE LZ picture with more pixels than its size, or fewer")
        cost = (CODES - left + 1) * CODE_COST + (len(self._out) - before) // 4
        if len(self._out) == want:
            self._done.append(self._out)
            self._out = bytearray()
        return cost

    def _put_together(self) -> int:
        """The next rows of the picture, from its colours."""
        if not self._rows:
            self._picture = np.zeros((self.height, self.width, 4), np.uint8)
        if self._rows == self.height:
            return 0
        count = min(self.height - self._rows, max(1, PIECE_PIXELS // self.width))
        for done, plane in zip(self._done, (self._picture[:, :, :3], self._picture[:, :, 3:]), strict=False):
            rows = np.frombuffer(done, np.uint8).reshape(self.height, self.width, -1)
            plane[self._rows : self._rows + count] = rows[self._rows : self._rows + count]
        self._rows += count
        return count * self.width * 8

    def pixels(self) -> NDArray[np.uint8]:
        """Once all is decoded: (height, width, 4), B, G, R and alpha or 0."""
        return self._picture if self._top_down else self._picture[::-1]

    # Codes depend on what came before, so they are taken one by one; but the work for each is a slice or two of a
    # bytearray, whatever its length, and numpy does the rest at once. A match that is longer than its distance repeats
    # what it has just written, so the piece it refers to is repeated as often as needed.
    def _unpack(self, want: int, size: int, least: int) -> int:
        """Append pixels of `size` bytes until there are `want` bytes, or `CODES` were taken; returns how many were not.

        A match has at least `least` pixels.
        """
        data, at, out, codes = self._data, self._at, self._out, CODES
        while len(out) < want and codes > 0:
            codes -= 1
            code = data[at]
            at += 1
            if code < 32:
                end = at + (code + 1) * size
                out += data[at:end]
                at = end
                continue
            length, back = (code >> 5) - 1, (code & 31) << 8
            if length == 6:
                longer, at = _longer(data, at, (want - len(out)) // size)
                length += longer
            low = data[at]
            at += 1
            if low == 255 and back == 31 << 8:
                back, at = (data[at] << 8) + data[at + 1] + _FAR, at + 2
            else:
                back += low
            span, length = (back + 1) * size, (length + least) * size
            begin = len(out) - span
            if begin < 0 or length > want - len(out):
                raise RemoteProtocolError("a SPICE LZ picture refers to pixels outside of it")
            codes -= length >> 12
            if length > PIECE_BYTES:
                self._span, self._rest = span, length
                break
            if length <= span:
                out += out[begin : begin + length]
            else:
                out += (bytes(out[begin:]) * (length // span + 1))[:length]
        self._at = at
        return codes

    def _repeat(self) -> None:
        """Copy the next piece of a long match."""
        out, span, length = self._out, self._span, min(self._rest, PIECE_BYTES)
        begin = len(out) - span
        repeated = bytes(out[begin : begin + length])
        out += (repeated * (length // len(repeated) + 1))[:length]
        self._rest -= length


def _longer(data: bytes, at: int, most: int) -> tuple[int, int]:
    """A length's extension, from `at` on, and where it ends: bytes of 255, then one that is less."""
    if data[at] != 255:
        return data[at], at + 1
    run = data[at : at + most // 255 + 1]
    full = len(run) - len(run.lstrip(b"\xff"))
    if full * 255 > most:
        raise RemoteProtocolError("a SPICE LZ picture refers to pixels outside of it")
    return full * 255 + data[at + full], at + full + 1
