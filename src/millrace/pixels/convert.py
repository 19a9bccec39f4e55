"""Colour conversion in numpy: correct for every size, and fast enough for the damage of a desktop.

A whole picture of 1920 × 1080 takes tens of milliseconds, so encoders may supply their own converter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.rects import Rect, Size

Plane: TypeAlias = NDArray[np.uint8]


class PixelFormat(Enum):
    """Memory layout of a converted picture."""

    I420 = "i420"
    """Luma, then two planes of chroma, one sample for two by two pixels."""
    NV12 = "nv12"
    """Luma, then one plane of interleaved chroma, one sample pair for two by two pixels."""
    GREY = "grey"
    """Luma only."""


@dataclass(frozen=True)
class Planes:
    """A converted picture, shared by all readers."""

    format: PixelFormat
    planes: tuple[Plane, ...]


Convert: TypeAlias = Callable[[Plane, Planes, Iterable[Rect]], None]
"""Converts the changed parts of a BGRX picture (rows, columns, 4) into its planes."""

# BT.601, limited range, in units of 1/65536.
# The luma row sums to 219/255, so white is 235; the chroma rows sum to 0, so every grey has chroma of exactly 128.
_LUMA = np.array([6_416, 33_039, 16_829], np.int32)
_BLUE = np.array([28_784, -19_070, -9_714], np.int32)
_RED = np.array([-4_681, -24_103, 28_784], np.int32)
_HALF = 1 << 15


def blank(to: PixelFormat, size: Size) -> Planes:
    """Empty planes for a picture of that size."""
    wide, high = size.width + 1 & ~1, size.height + 1 & ~1
    luma = np.zeros((high, wide), np.uint8)
    if to is PixelFormat.GREY:
        return Planes(to, (luma,))
    if to is PixelFormat.NV12:
        return Planes(to, (luma, np.zeros((high // 2, wide // 2, 2), np.uint8)))
    return Planes(to, (luma, *(np.zeros((high // 2, wide // 2), np.uint8) for _ in range(2))))


def convert(picture: Plane, planes: Planes, changed: Iterable[Rect]) -> None:
    """See `Convert`."""
    high, wide = picture.shape[:2]
    for rect in changed:
        # Chroma covers two by two pixels, so a rectangle with odd edges also changes the chroma of pixels next to it;
        # the copy of the luma there is redone with the same values.
        around = rect.even()
        part = picture[around.y : min(around.bottom, high), around.x : min(around.right, wide), :3]
        if part.size:
            _convert(_even(part.astype(np.int32)), planes, around.x, around.y)


def _even(part: NDArray[np.int32]) -> NDArray[np.int32]:
    """`part` with its last row and column repeated if their number is odd."""
    return np.pad(part, ((0, part.shape[0] & 1), (0, part.shape[1] & 1), (0, 0)), mode="edge")


def _convert(part: NDArray[np.int32], planes: Planes, x: int, y: int) -> None:
    high, wide = part.shape[:2]
    planes.planes[0][y : y + high, x : x + wide] = ((part @ _LUMA + _HALF) >> 16) + 16
    if planes.format is PixelFormat.GREY:
        return
    # Chroma of the mean of four pixels, not the mean of four chromas: the conversion is linear, so they are the same
    # but for one rounding instead of four.
    quarter = (part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2] + 2) >> 2
    colours = (((quarter @ weights + _HALF) >> 16) + 128 for weights in (_BLUE, _RED))
    rows, columns = slice(y // 2, (y + high) // 2), slice(x // 2, (x + wide) // 2)
    for index, colour in enumerate(colours):
        plane = planes.planes[1][:, :, index] if planes.format is PixelFormat.NV12 else planes.planes[1 + index]
        plane[rows, columns] = colour
