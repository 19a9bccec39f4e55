"""A code of black and white cells, painted into a picture and read back from the pixels that arrive elsewhere.

It carries the host time at which the picture was painted, its number, and a mark of the painter's choice. 18 by 8 cells
hold a fixed pattern, the three values and a checksum, so what is torn or spoilt is not read as something else.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect
from millrace.units import HostNs

ORIGIN = Point(0, 0)
COLUMNS, ROWS = 18, 8
CELL = 8
"""Pixels of a cell's side: a multiple of a codec's blocks, and readable at half the size."""
CONTRAST_MIN = 64
"""The least difference of brightness between black and white cells; below that there is no code."""
_PATTERN = 0xA53C
_BODY = struct.Struct(">HIQH")
_CHECKED = struct.Struct(">H")


class Stamp(NamedTuple):
    """What a code says."""

    number: int
    """0 to 2³² − 1."""
    time_ns: HostNs
    mark: int = 0
    """0 to 65,535."""


def place(at: Point = ORIGIN, cell: int = CELL) -> Rect:
    """The rectangle that a code covers."""
    return Rect(at.x, at.y, COLUMNS * cell, ROWS * cell)


def paint(picture: Plane, stamp: Stamp, at: Point = ORIGIN, cell: int = CELL) -> Rect:
    """Paint a code into (rows, columns, 4) BGRX; returns what changed."""
    body = _BODY.pack(_PATTERN, stamp.number, stamp.time_ns, stamp.mark)
    data = body + _CHECKED.pack(binascii.crc_hqx(body, 0))
    cells = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(ROWS, COLUMNS) * np.uint32(0xFFFFFF)
    rect = place(at, cell)
    # As words, and not three bytes of four again and again.
    words = picture[rect.y : rect.bottom, rect.x : rect.right].view("<u4")[:, :, 0]
    words[:] = cells.repeat(cell, 0).repeat(cell, 1)
    return rect


def read(picture: NDArray[Any], at: Point = ORIGIN, cell: float = CELL) -> Stamp | None:
    """Read a code from (rows, columns) or (rows, columns, colours); None if there is none, or it is torn.

    `cell` may be a fraction, of a picture that was scaled.
    """
    grey = picture if picture.ndim == 2 else picture[:, :, 1]
    if at.y + ROWS * cell > grey.shape[0] or at.x + COLUMNS * cell > grey.shape[1]:
        return None
    means = _means(grey, at, cell)
    low, high = float(means.min()), float(means.max())
    if high - low < CONTRAST_MIN:
        return None
    data = np.packbits(means > (low + high) / 2).tobytes()
    body, checked = data[: _BODY.size], data[_BODY.size :]
    pattern, number, time_ns, mark = _BODY.unpack(body)
    if pattern != _PATTERN or _CHECKED.unpack(checked)[0] != binascii.crc_hqx(body, 0):
        return None
    return Stamp(number, time_ns, mark)


def _means(grey: NDArray[Any], at: Point, cell: float) -> NDArray[np.float64]:
    """The mean brightness of the middle of each cell: its edges are blurred by codecs and scalers."""
    inner = max(1, int(cell / 2))
    rows, columns = (_middles(start, count, cell, inner) for start, count in ((at.y, ROWS), (at.x, COLUMNS)))
    picked: NDArray[np.float64] = grey[np.ix_(rows, columns)].reshape(ROWS, inner, COLUMNS, inner).astype(np.float64)
    means: NDArray[np.float64] = picked.mean(axis=(1, 3))
    return means


def _middles(start: int, count: int, cell: float, inner: int) -> NDArray[np.int64]:
    first = start + np.arange(count) * cell + (cell - inner) / 2
    return (first[:, None] + np.arange(inner)).astype(np.int64).reshape(-1)
