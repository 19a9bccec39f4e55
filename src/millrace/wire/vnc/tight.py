"""The Tight encoding: rfbproto, "Tight Encoding". Pixels are R, G, B here."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect, bands
from millrace.wire.vnc.gradient import undo_gradient
from millrace.wire.vnc.inflate import Inflater
from millrace.wire.vnc.work import Work

STREAMS = 4
PLAIN_BYTES = 12
"""What is shorter comes uncompressed, without a length."""
BAND_PIXELS = 32 * 1024
"""Rows that are unpacked at once."""
PIXEL_WORK = 8
"""What a pixel costs beside what it takes to inflate it."""
_FILL, _JPEG, _BASIC_MAX, _FILTERED = 8, 9, 7, 4
_COPY, _PALETTE, _GRADIENT = 0, 1, 2
Parse = Generator[int, bytes, Buffer]
"""Yields how many bytes it needs, or 0 to let others go on; returns the pixels, or a single one."""
Pixels = NDArray[np.uint32]
Unpack = Callable[[Buffer, Pixels], None]
"""Makes whole rows (rows, columns) of bytes."""


class Tight:
    """Parses the rectangles of one connection, over which its four zlib streams go on."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._streams = [Inflater(work) for _ in range(STREAMS)]

    def rectangle(self, width: int, height: int) -> Parse:
        """Parse one rectangle, after its header."""
        control = (yield 1)[0]
        for number in range(STREAMS):
            if control >> number & 1:
                self._streams[number] = Inflater(self._work)
        kind = control >> 4
        if kind == _FILL:
            return (yield 3)[::-1] + b"\0"
        # Only a client that names a quality may be sent one. None is named, so that text arrives exactly.
        if kind == _JPEG:
            raise RemoteProtocolError("the VNC server sent a JPEG, which nobody asked for")
        if kind > _BASIC_MAX:
            raise RemoteProtocolError(f"the VNC server sent an unknown kind of Tight: {kind}")
        told = (yield 1)[0] if kind & _FILTERED else _COPY
        if told > _GRADIENT:
            raise RemoteProtocolError(f"the VNC server sent an unknown filter of Tight: {told}")
        # All of it is painted. Zeros may be memory that is used again, which is then overwritten in this one step.
        picture: Pixels = np.empty((height, width), "<u4")
        yield from self._filtered(self._streams[kind & 3], told, picture)
        return picture.data.cast("B")

    def _filtered(self, stream: Inflater, told: int, picture: Pixels) -> Generator[int, bytes, None]:
        width = picture.shape[1]
        if told == _PALETTE:
            colours = (yield 1)[0] + 1
            palette = _palette((yield 3 * colours))
            if colours <= 2:
                yield from self._rows(stream, picture, (width + 7) // 8, _bits_of(palette))
            else:
                yield from self._rows(stream, picture, width, _bytes_of(palette))
            return
        yield from self._rows(stream, picture, 3 * width, _unpack_rgb)
        if told == _GRADIENT:
            for cost in undo_gradient(picture.view(np.uint8).reshape(*picture.shape, 4)):
                self._work.spent += cost
                if self._work.over:
                    yield 0

    def _rows(self, stream: Inflater, picture: Pixels, row: int, unpack: Unpack) -> Generator[int, bytes, None]:
        """Rows of so many bytes each, which are compressed unless they are few."""
        height, width = picture.shape
        plain = row * height < PLAIN_BYTES
        if not plain:
            stream.begin((yield from _compact_size()))
        for band in bands(Rect(0, 0, width, height), BAND_PIXELS):
            part = picture[band.y : band.bottom]
            size = row * len(part)
            unpack((yield size) if plain else (yield from stream.read(size)), part)
            self._work.spent += PIXEL_WORK * part.size
            if self._work.over:
                yield 0
        if not plain:
            yield from stream.end()


def _compact_size() -> Generator[int, bytes, int]:
    """A length of one to three bytes, 7, 7 and 8 bits of it."""
    size = (yield 1)[0]
    if size & 0x80:
        size = size & 0x7F | (yield 1)[0] << 7
        if size & 0x4000:
            size = size & 0x3FFF | (yield 1)[0] << 14
    return size


def _unpack_rgb(data: Buffer, to: Pixels) -> None:
    """R, G, B as B, G, R and 0."""
    rgb, out = np.frombuffer(data, np.uint8).reshape(-1, 3), to.view(np.uint8).reshape(-1, 4)
    for sample in range(3):
        out[:, sample] = rgb[:, 2 - sample]
    out[:, 3] = 0


def _palette(data: bytes) -> Pixels:
    out: Pixels = np.empty(len(data) // 3, "<u4")
    _unpack_rgb(data, out)
    return out


def _bits_of(palette: Pixels) -> Unpack:
    def unpack(data: Buffer, to: Pixels) -> None:
        packed = np.frombuffer(data, np.uint8).reshape(len(to), -1)
        _paint(palette, np.unpackbits(packed, axis=1)[:, : to.shape[1]], to)

    return unpack


def _bytes_of(palette: Pixels) -> Unpack:
    def unpack(data: Buffer, to: Pixels) -> None:
        _paint(palette, np.frombuffer(data, np.uint8).reshape(to.shape), to)

    return unpack


def _paint(palette: Pixels, indices: NDArray[np.uint8], to: Pixels) -> None:
    if int(indices.max()) >= len(palette):
        raise RemoteProtocolError("the VNC server sent a Tight rectangle with a colour beyond its palette")
    # With "raise" it would work on a copy.
    np.take(palette, indices, out=to, mode="clip")
