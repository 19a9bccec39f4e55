"""The tiles of ZRLE: RFC 6143, 7.7.6. Each has 64 by 64 pixels, or fewer at the edges."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.wire.vnc.inflate import Inflater
from millrace.wire.vnc.work import Work

SIDE = 64
PIXEL = 3
"""Bytes of a pixel: B, G, R."""
WINDOW_BYTES = 64 * 1024
"""How much is inflated ahead of the tiles."""
TILE_WORK, PIXEL_WORK, RUN_WORK = 30_000, 20, 500
"""What a tile costs, each of its pixels, and each of its runs."""
RUNS_AT_ONCE = 512
_RAW, _SOLID, _PALETTE_MAX, _RLE, _RLE_PALETTE = 0, 1, 16, 128, 130
Pixels = NDArray[np.uint32]
Reading = Generator[int, bytes, Pixels]
"""See `Inflater` for what it yields."""


def inflated_max(width: int, height: int) -> int:
    """The most bytes that the tiles of such a rectangle can take: one run a pixel, and a palette in each."""
    tiles = -(-width // SIDE) * -(-height // SIDE)
    return width * height * (PIXEL + 1) + tiles * (1 + 127 * PIXEL)


def whole_pixels(data: bytes) -> Pixels:
    """Pixels of three bytes, as B, G, R and 0."""
    out = np.zeros((len(data) // PIXEL, 4), np.uint8)
    out[:, :PIXEL] = np.frombuffer(data, np.uint8).reshape(-1, PIXEL)
    return out.view("<u4").reshape(-1)


class Tiles:
    """Reads the tiles of one rectangle from its stream."""

    def __init__(self, width: int, height: int, stream: Inflater, work: Work) -> None:
        # All of it is painted. Zeros may be memory that is used again, which is then overwritten in this one step.
        self.picture: Pixels = np.empty((height, width), "<u4")
        self._stream, self._work = stream, work
        self._data, self._at = b"", 0

    def parse(self) -> Generator[int, bytes, None]:
        """Decode tile by tile; RemoteProtocolError if the bytes are wrong. See `Inflater` for what it yields."""
        high, wide = self.picture.shape
        for y in range(0, high, SIDE):
            for x in range(0, wide, SIDE):
                tile = Rect(x, y, min(SIDE, wide - x), min(SIDE, high - y))
                yield from self._inflated(inflated_max(tile.width, tile.height))
                part = self.picture[y : tile.bottom, x : tile.right]
                try:
                    part[:] = (yield from self._tile(tile)).reshape(part.shape)
                except (IndexError, ValueError):
                    # Beyond the last byte, beyond a palette, or a run that goes on into the next tile.
                    raise RemoteProtocolError("a ZRLE tile of the VNC server is wrong") from None
                self._work.spent += TILE_WORK + PIXEL_WORK * tile.area
                if self._work.over:
                    yield 0
        if self._at != len(self._data) or (yield from self._stream.some(1)):
            raise RemoteProtocolError("a ZRLE rectangle of the VNC server is too long")

    def _inflated(self, size: int) -> Generator[int, bytes, None]:
        """Have `size` bytes ready, or all that are left."""
        while len(self._data) - self._at < size:
            more = yield from self._stream.some(WINDOW_BYTES)
            if not more:
                break
            self._data, self._at = self._data[self._at :] + more, 0

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        if len(part) < size:
            raise IndexError
        return part

    def _tile(self, tile: Rect) -> Reading:
        kind = self._take(1)[0]
        if kind == _RAW:
            return whole_pixels(self._take(tile.area * PIXEL))
        if kind == _SOLID:
            return np.repeat(whole_pixels(self._take(PIXEL)), tile.area)
        if kind <= _PALETTE_MAX:
            return self._packed(kind, tile)
        if kind == _RLE:
            return (yield from self._runs(tile.area, self._next_runs))
        if kind < _RLE_PALETTE:
            raise IndexError
        palette = whole_pixels(self._take((kind - _RLE) * PIXEL))
        return (yield from self._runs(tile.area, lambda area: self._next_palette_runs(palette, area)))

    def _packed(self, colours: int, tile: Rect) -> Pixels:
        palette = whole_pixels(self._take(colours * PIXEL))
        bits = 1 if colours == 2 else 2 if colours <= 4 else 4
        row = -(-tile.width * bits // 8)
        packed = np.frombuffer(self._take(row * tile.height), np.uint8).reshape(tile.height, row, 1)
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        indices = (packed >> shifts & (1 << bits) - 1).reshape(tile.height, -1)[:, : tile.width]
        return np.take(palette, indices)

    def _runs(self, area: int, following: Callable[[int], tuple[Pixels, list[int]]]) -> Reading:
        """So many pixels; `following` reads the next runs, of what is left."""
        parts: list[Pixels] = []
        while area:
            colours, lengths = following(area)
            self._work.spent += RUN_WORK * len(lengths)
            part = np.repeat(colours, lengths)
            parts.append(part)
            area -= len(part)
            if self._work.over:
                yield 0
        return np.concatenate(parts)

    def _next_runs(self, area: int) -> tuple[Pixels, list[int]]:
        colours: list[int] = []
        lengths: list[int] = []
        at, data = self._at, self._data
        while area > 0 and len(lengths) < RUNS_AT_ONCE:
            colours.append(at)
            length, at = data[at + PIXEL] + 1, at + PIXEL + 1
            if length > 255:
                length, at = self._length(at - 1, area)
            lengths.append(length)
            area -= length
        self._at = at
        if area < 0:
            raise IndexError
        places = np.array(colours)[:, None] + np.arange(PIXEL)
        return whole_pixels(np.frombuffer(data, np.uint8)[places].tobytes()), lengths

    def _next_palette_runs(self, palette: Pixels, area: int) -> tuple[Pixels, list[int]]:
        indices: list[int] = []
        lengths: list[int] = []
        at, data = self._at, self._data
        while area > 0 and len(lengths) < RUNS_AT_ONCE:
            index, length, at = data[at], 1, at + 1
            if index >= _RLE:
                length, at = self._length(at, area)
            indices.append(index & 127)
            lengths.append(length)
            area -= length
        self._at = at
        return palette[indices], lengths

    def _length(self, at: int, most: int) -> tuple[int, int]:
        """A run's length, from `at` on, and where it ends: bytes of 255, then one that is less."""
        length, data = 1, self._data
        while data[at] == 255 and length <= most:
            length, at = length + 255, at + 1
        length += data[at]
        if length > most:
            raise IndexError
        return length, at + 1
