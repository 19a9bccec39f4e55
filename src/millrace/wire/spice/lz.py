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


CODES = 20_000
"""Codes that are taken in one step: a few milliseconds' work."""


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

    @property
    def held_bytes(self) -> int:
        """What has been decoded so far."""
        return len(self._out) + sum(map(len, self._done))

    def step(self) -> bool:
        """Decode the next codes; whether that was the last of them."""
        size, least = self._planes[len(self._done)]
        want = self.width * self.height * size
        try:
            self._at = _unpack(self._data, self._at, self._out, want, size, least)
        except IndexError:
            raise RemoteProtocolError("truncated SPICE LZ picture") from None
        if len(self._out) > want or self._at > len(self._data):
            raise RemoteProtocolError("a SPICE LZ picture with more pixels than its size, or fewer")
        if len(self._out) == want:
            self._done.append(self._out)
            self._out = bytearray()
        return len(self._done) == len(self._planes)

    def pixels(self) -> NDArray[np.uint8]:
        """Once all is decoded: (height, width, 4), B, G, R and alpha or 0."""
        out = np.zeros((self.height, self.width, 4), np.uint8)
        out[:, :, :3] = np.frombuffer(self._done[0], np.uint8).reshape(self.height, self.width, 3)
        if len(self._done) > 1:
            out[:, :, 3] = np.frombuffer(self._done[1], np.uint8).reshape(self.height, self.width)
        return out if self._top_down else out[::-1]


def decode_lz(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decode a picture at once."""
    decoder = LzDecoder(data, width, height)
    while not decoder.step():
        pass
    return decoder.pixels()


# Codes depend on what came before, so they are taken one by one; but the work for each is a slice or two of a
# bytearray, whatever its length, and numpy does the rest at once. A match that is longer than its distance repeats what
# it has just written, so the piece it refers to is repeated as often as needed.
def _unpack(data: bytes, at: int, out: bytearray, want: int, size: int, least: int) -> int:
    """Append pixels of `size` bytes until there are `want` bytes, or `CODES` were taken; returns the next code's place.

    A match has at least `least` pixels.
    """
    codes = CODES
    while len(out) < want and codes:
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
            while (more := data[at]) == 255:
                length, at = length + 255, at + 1
            length, at = length + more, at + 1
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
        if length <= span:
            out += out[begin : begin + length]
        else:
            out += (bytes(out[begin:]) * (length // span + 1))[:length]
    return at
