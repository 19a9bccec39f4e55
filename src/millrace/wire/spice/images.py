"""Images in the messages of SPICE's display channel, up to their compressed bytes (spice-protocol: enums.h, draw.h).

An image is referred to by its offset in the message's body; 0 is none. It begins with its descriptor: a 64-bit name, a
type, flags (1: keep it for later, under this name), width and height. The type says what follows.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RemoteProtocolError
from millrace.wire.spice.channel import unpack
from millrace.wire.spice.lz import LzDecoder

PIXELS_MAX = 4096 * 4096
"""The most pixels of one image or surface."""
PIECE_PIXELS, UNPACK_COST = 64 * 1024, 16
"""Pixels that are unpacked in one step, and how much longer that takes than to copy one."""
KEEP, REPLACE = 1, 4
_PALETTE_KEPT, _TOP_DOWN = 2, 4
_LE1, _BE1, _LE4, _BE4, _PALETTE8, _RGB16, _RGB24, _RGB32, _RGBA, _ALPHA8 = range(1, 11)
_BITS = {
    _LE1: 1, _BE1: 1, _LE4: 4, _BE4: 4, _PALETTE8: 8, _RGB16: 16, _RGB24: 24, _RGB32: 32, _RGBA: 32, _ALPHA8: 8,
}  # fmt: skip
_PALETTES = (_LE1, _BE1, _LE4, _BE4, _PALETTE8)
Pixels = NDArray[np.uint8]
"""(height, width, 4): B, G, R and alpha, or 0 where there is none."""


class ImageKind(IntEnum):
    """The types of images that are told apart here."""

    BITMAP = 0
    QUIC = 1
    LZ_PALETTE = 100
    LZ_RGB = 101
    GLZ_RGB = 102
    FROM_CACHE = 103
    SURFACE = 104
    JPEG = 105
    FROM_CACHE_LOSSLESS = 106
    ZLIB_GLZ_RGB = 107
    JPEG_ALPHA = 108
    LZ4 = 109


class NotUnderstood(Exception):
    """A drawing that is valid, but not implemented here: what it changes has to be asked for in another way."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image with its bytes as they came. A surface's number is in `surface`."""

    name: int
    kind: int
    flags: int
    width: int
    height: int
    data: bytes = b""
    surface: int = -1
    bitmap: Bitmap | None = None

    @property
    def decoded_bytes(self) -> int:
        """Memory that it takes to decode it, besides its own bytes."""
        area = self.width * self.height
        if self.kind == ImageKind.LZ_RGB:
            return 2 * area * 4
        return area * 4 if self.bitmap is not None and self.bitmap.form not in (_RGB32, _RGBA) else 0


@dataclass(frozen=True, slots=True)
class Bitmap:
    """How the rows of an uncompressed image are laid out."""

    form: int
    top_down: bool
    stride: int
    palette: bytes = b""
    """Colours of four bytes."""


def read_image(body: bytes, at: int) -> Image | None:
    """The image at an offset of a message's body; None if the offset is 0."""
    if not at:
        return None
    name, kind, flags, width, height = unpack("<QBBII", body, at)
    if not 0 < width * height <= PIXELS_MAX:
        raise RemoteProtocolError(f"a SPICE image of {width} × {height}; {PIXELS_MAX} pixels at most")
    at += 18
    if kind == ImageKind.BITMAP:
        bitmap, data = _bitmap(body, at, width, height)
        return Image(name, kind, flags, width, height, data, bitmap=bitmap)
    if kind == ImageKind.SURFACE:
        return Image(name, kind, flags, width, height, surface=unpack("<I", body, at)[0])
    if kind in (ImageKind.FROM_CACHE, ImageKind.FROM_CACHE_LOSSLESS):
        return Image(name, kind, flags, width, height)
    # Those with more than a size before their bytes are not decoded here.
    if kind in (ImageKind.LZ_RGB, ImageKind.JPEG):
        return Image(name, kind, flags, width, height, _sized(body, at))
    return Image(name, kind, flags, width, height)


def _sized(body: bytes, at: int) -> bytes:
    (size,) = unpack("<I", body, at)
    if size > len(body) - at - 4:
        raise RemoteProtocolError(f"truncated SPICE image: {size} bytes announced")
    return body[at + 4 : at + 4 + size]


def _bitmap(body: bytes, at: int, width: int, height: int) -> tuple[Bitmap, bytes]:
    form, flags, wide, high, stride = unpack("<BBIII", body, at)
    if form not in _BITS:
        raise RemoteProtocolError(f"unsupported SPICE bitmap: format {form}")
    if (wide, high) != (width, height) or stride < (width * _BITS[form] + 7) // 8:
        raise RemoteProtocolError(f"a SPICE bitmap of {wide} × {high}, {stride} bytes a row, for {width} × {height}")
    at += 14
    palette = b""
    if flags & _PALETTE_KEPT:
        at += 8
    else:
        (offset,) = unpack("<I", body, at)
        at += 4
        if offset and form in _PALETTES:
            (count,) = unpack("<H", body, offset + 8)
            palette = body[offset + 10 : offset + 10 + count * 4]
            if len(palette) < count * 4:
                raise RemoteProtocolError(f"truncated SPICE palette: {count} colours announced")
    if stride * height > len(body) - at:
        raise RemoteProtocolError(f"truncated SPICE bitmap: {width} × {height} in {len(body) - at} bytes")
    return Bitmap(form, bool(flags & _TOP_DOWN), stride, palette), body[at : at + stride * height]


def decoding(image: Image) -> Generator[int, None, Pixels]:
    """Decode an image that contains its pixels and needs no picture decoder; NotUnderstood for any other.

    Yields after each step how many pixels could be copied in that time, and returns the image's.
    """
    if image.kind == ImageKind.LZ_RGB:
        decoder = LzDecoder(image.data, image.width, image.height)
        while cost := decoder.step():
            yield cost
        return decoder.pixels()
    bitmap = image.bitmap
    if bitmap is None:
        known = {kind.value: kind.name for kind in ImageKind}
        raise NotUnderstood(f"images compressed as {known.get(image.kind, image.kind)}")
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, bitmap.stride)
    if bitmap.form in (_RGB32, _RGBA):
        out = rows[:, : image.width * 4].reshape(image.height, image.width, 4)
    else:
        out, count = np.zeros((image.height, image.width, 4), np.uint8), max(1, PIECE_PIXELS // image.width)
        for y in range(0, image.height, count):
            _unpack(rows[y : y + count], bitmap, out[y : y + count])
            yield min(count, image.height - y) * image.width * UNPACK_COST
    return out if bitmap.top_down else out[::-1]


def _unpack(rows: Pixels, bitmap: Bitmap, out: Pixels) -> None:
    """Unpack rows of any form but those of four bytes a pixel."""
    form, (high, width) = bitmap.form, out.shape[:2]
    if form == _RGB24:
        out[:, :, :3] = rows[:, : width * 3].reshape(high, width, 3)
    elif form == _RGB16:
        _from_555(np.ascontiguousarray(rows[:, : width * 2]).view("<u2"), out)
    elif form == _ALPHA8:
        out[:, :, 3] = rows[:, :width]
    else:
        indices = _indices(rows, form, width)
        if not bitmap.palette:
            raise NotUnderstood("images whose palette was sent before")
        palette = np.frombuffer(bitmap.palette, "<u4")
        out[:] = palette[np.minimum(indices, len(palette) - 1)].view(np.uint8).reshape(high, width, 4)


def _from_555(words: NDArray[np.uint16], out: Pixels) -> None:
    for channel, shift in enumerate((0, 5, 10)):
        five = (words >> shift & 31).astype(np.uint8)
        out[:, :, channel] = five << 3 | five >> 2


def _indices(rows: Pixels, form: int, width: int) -> Pixels:
    if form == _PALETTE8:
        return rows[:, :width]
    if form in (_LE1, _BE1):
        return np.unpackbits(rows, axis=1, bitorder="big" if form == _BE1 else "little")[:, :width]
    halves = (rows >> 4, rows & 15) if form == _BE4 else (rows & 15, rows >> 4)
    return np.stack(halves, axis=2).reshape(len(rows), -1)[:, :width]
