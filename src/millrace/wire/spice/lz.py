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


def decode_lz(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decode a picture to (height, width, 4), B, G, R and alpha or 0; RemoteProtocolError if it isn't one of that size.

    `data` begins with the header, and may be longer than the picture. The caller has bounded the size.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("truncated SPICE LZ picture")
    magic, version, kind, wide, high, _, top_down = struct.unpack_from(">7I", data)
    if magic != MAGIC or version != _VERSION or kind not in (RGB24, RGB32, RGBA):
        raise RemoteProtocolError(f"unsupported SPICE LZ picture: version {version:#x}, kind {kind}")
    if (wide, high) != (width, height):
        raise RemoteProtocolError(f"a SPICE LZ picture of {wide} × {high} where {width} × {height} is due")
    pixels, at = _unpacked(data, HEADER_BYTES, width * height, 3, 1)
    out = np.zeros((height, width, 4), np.uint8)
    out[:, :, :3] = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    if kind == RGBA:
        alpha, _ = _unpacked(data, at, width * height, 1, 3)
        out[:, :, 3] = np.frombuffer(alpha, np.uint8).reshape(height, width)
    return out if top_down else out[::-1]


# Codes depend on what came before, so they are taken one by one; but the work for each is a slice or two of a
# bytearray, whatever its length, and numpy does the rest at once. A match that is longer than its distance repeats what
# it has just written, so the piece it refers to is repeated as often as needed.
def _unpacked(data: bytes, at: int, count: int, size: int, least: int) -> tuple[bytearray, int]:
    """`count` pixels of `size` bytes each, and where their codes end; a match has at least `least` pixels."""
    out, want = bytearray(), count * size
    try:
        while len(out) < want:
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
    except IndexError:
        raise RemoteProtocolError("truncated SPICE LZ picture") from None
    if len(out) != want or at > len(data):
        raise RemoteProtocolError("a SPICE LZ picture with more pixels than its size, or fewer")
    return out, at
