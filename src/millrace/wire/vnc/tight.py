"""The Tight encoding: rfbproto, "Tight Encoding". Pixels are R, G, B here."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from millrace.codec.jpeg import decode_jpeg
from millrace.dsp.convert import Buffer
from millrace.errors import CodecError, RemoteProtocolError
from millrace.wire.vnc.gradient import undo_gradient
from millrace.wire.vnc.inflate import Inflater

STREAMS = 4
PLAIN_BYTES = 12
"""What is shorter comes uncompressed, without a length."""
_FILL, _JPEG, _BASIC_MAX, _FILTERED = 8, 9, 7, 4
_COPY, _PALETTE, _GRADIENT = 0, 1, 2
Parse = Generator[int, bytes, Buffer]
"""Yields how many bytes it needs, or 0 to let others go on; returns the pixels, or a single one."""


class Tight:
    """Parses the rectangles of one connection, over which its four zlib streams go on."""

    def __init__(self) -> None:
        self._streams = [Inflater() for _ in range(STREAMS)]

    def rectangle(self, width: int, height: int) -> Parse:
        """Parse one rectangle, after its header."""
        control = (yield 1)[0]
        for number in range(STREAMS):
            if control >> number & 1:
                self._streams[number] = Inflater()
        kind = control >> 4
        if kind == _FILL:
            return (yield 3)[::-1] + b"\0"
        if kind == _JPEG:
            return (yield from self._jpeg(width, height))
        if kind > _BASIC_MAX:
            raise RemoteProtocolError(f"the VNC server sent an unknown kind of Tight: {kind}")
        told = (yield 1)[0] if kind & _FILTERED else _COPY
        stream = self._streams[kind & 3]
        if told == _COPY:
            data = yield from _basic(stream, width * height * 3)
            return _bgrx(np.frombuffer(data, np.uint8).reshape(-1, 3))
        if told == _PALETTE:
            return (yield from _palette(stream, width, height))
        if told == _GRADIENT:
            return (yield from _gradient(stream, width, height))
        raise RemoteProtocolError(f"the VNC server sent an unknown filter of Tight: {told}")

    def _jpeg(self, width: int, height: int) -> Parse:
        data = yield (yield from _compact_size())
        try:
            return decode_jpeg(data, width, height)
        except CodecError as error:
            raise RemoteProtocolError(f"the VNC server sent {error}") from None


def _compact_size() -> Generator[int, bytes, int]:
    """A length of one to three bytes, 7, 7 and 8 bits of it."""
    size = (yield 1)[0]
    if size & 0x80:
        size = size & 0x7F | (yield 1)[0] << 7
        if size & 0x4000:
            size = size & 0x3FFF | (yield 1)[0] << 14
    return size


def _basic(stream: Inflater, size: int) -> Generator[int, bytes, bytes]:
    """`size` bytes, which are compressed unless they are few."""
    if size < PLAIN_BYTES:
        return (yield size)
    stream.feed((yield (yield from _compact_size())))
    data = stream.read(size)
    stream.end()
    return data


def _palette(stream: Inflater, width: int, height: int) -> Parse:
    colours = (yield 1)[0] + 1
    palette = _bgrx(np.frombuffer((yield 3 * colours), np.uint8).reshape(-1, 3))
    row = (width + 7) // 8 if colours <= 2 else width
    data = yield from _basic(stream, row * height)
    indices = np.frombuffer(data, np.uint8).reshape(height, row)
    if colours <= 2:
        indices = np.unpackbits(indices, axis=1)[:, :width]
    if indices.size and int(indices.max()) >= colours:
        raise RemoteProtocolError("the VNC server sent a Tight rectangle with a colour beyond its palette")
    return np.take(np.frombuffer(palette, "<u4"), indices).data.cast("B")


def _gradient(stream: Inflater, width: int, height: int) -> Parse:
    data = yield from _basic(stream, width * height * 3)
    out: NDArray[np.uint8] | None = None
    for out in undo_gradient(np.frombuffer(data, np.uint8).reshape(height, width, 3)):
        if out is None:
            yield 0
    assert out is not None
    return _bgrx(out.reshape(-1, 3))


def _bgrx(pixels: NDArray[np.uint8]) -> Buffer:
    """Rows of R, G, B as B, G, R and 0."""
    out = np.zeros((len(pixels), 4), np.uint8)
    for to, origin in ((0, 2), (1, 1), (2, 0)):
        out[:, to] = pixels[:, origin]
    return out.data.cast("B")
