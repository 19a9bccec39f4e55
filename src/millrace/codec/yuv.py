"""Colour conversion and scaling by libyuv where it is installed (Debian's libyuv0), otherwise by PyAV's swscale.

Both are faster than numpy. They convert BGRX to NV12 in BT.601, limited range, as
`millrace.pixels.convert` does; results differ by the rounding of each. ctypes and PyAV release the GIL during calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import c_int, c_void_p
from functools import lru_cache
from typing import Any

import numpy as np

from millrace.codec.library import found
from millrace.errors import CodecError
from millrace.pixels.convert import Convert, PixelFormat, Plane, Planes
from millrace.pixels.convert import convert as by_numpy
from millrace.pixels.rects import Rect, Size

NUMPY_PIXELS_MAX = 1_024
"""Without libyuv, numpy converts rectangles up to this size: PyAV's frames take longer to make."""
_BOX = 3
"""kFilterBox of libyuv's scale.h."""


@lru_cache(maxsize=1)
def libyuv() -> ctypes.CDLL | None:
    """The loaded library, with the prototypes in use declared; None if it is not installed."""
    for lib in found("yuv"):
        if hasattr(lib, "ARGBToNV12") and hasattr(lib, "ARGBScale"):
            plane: list[Any] = [c_void_p, c_int]
            lib.ARGBToNV12.argtypes = [*plane * 3, c_int, c_int]
            lib.ARGBScale.argtypes = [*plane, c_int, c_int, *plane, c_int, c_int, c_int]
            return lib
    return None


def _by_libyuv(picture: Plane, planes: Planes, changed: Iterable[Rect]) -> None:
    lib = libyuv()
    high, wide = picture.shape[:2]
    for rect in changed:
        around = rect.even()
        part = picture[around.y : min(around.bottom, high), around.x : min(around.right, wide)]
        if lib is None or not part.size:
            continue
        luma, chroma = planes.planes
        # Its "ARGB" is a little-endian word, so B comes first in memory. It repeats the last pixels of odd edges in
        # chroma only.
        lib.ARGBToNV12(
            part.ctypes.data, part.strides[0],
            luma[around.y :, around.x :].ctypes.data, luma.strides[0],
            chroma[around.y // 2 :, around.x // 2 :].ctypes.data, chroma.strides[0],
            part.shape[1], part.shape[0],
        )  # fmt: skip
        if high % 2 and around.bottom > high:
            luma[high, around.x : around.right] = luma[high - 1, around.x : around.right]
        if wide % 2 and around.right > wide:
            luma[around.y : around.bottom, wide] = luma[around.y : around.bottom, wide - 1]


def _by_swscale(picture: Plane, planes: Planes, changed: Iterable[Rect]) -> None:
    import av

    high, wide = picture.shape[:2]
    for rect in changed:
        around = rect.even()
        part = picture[around.y : min(around.bottom, high), around.x : min(around.right, wide)]
        if not part.size:
            continue
        if part.size // 4 <= NUMPY_PIXELS_MAX or part.shape[0] % 2 or part.shape[1] % 2:
            by_numpy(picture, planes, [rect])
            continue
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="bgra")
        frame = frame.reformat(format="nv12", interpolation="AREA", dst_colorspace="ITU601")
        for plane, made, half in zip(planes.planes, frame.planes, (1, 2), strict=True):
            rows = np.frombuffer(memoryview(made), np.uint8).reshape(-1, made.line_size)[
                : part.shape[0] // half, : part.shape[1]
            ]
            place = plane.reshape(len(plane), -1)[around.y // half :, around.x :]
            place[: rows.shape[0], : rows.shape[1]] = rows


def convert(picture: Plane, planes: Planes, changed: Iterable[Rect]) -> None:
    """See `millrace.pixels.convert.Convert`; the fastest way there is here."""
    by: Convert = by_numpy if planes.format is not PixelFormat.NV12 else _by_libyuv if libyuv() else _by_swscale
    by(picture, planes, changed)


def scale(picture: Plane, out: Plane) -> None:
    """Make a BGRX picture smaller, each pixel the mean of those it stands for; CodecError if that fails."""
    lib = libyuv()
    if lib is None:
        out[:] = _scaled_by_swscale(picture, Size(out.shape[1], out.shape[0]))
    elif lib.ARGBScale(
        picture.ctypes.data, picture.strides[0], picture.shape[1], picture.shape[0],
        out.ctypes.data, out.strides[0], out.shape[1], out.shape[0], _BOX,
    ):  # fmt: skip
        raise CodecError(f"libyuv can't scale a picture to {out.shape[1]} × {out.shape[0]}")


def _scaled_by_swscale(picture: Plane, size: Size) -> Plane:
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgra")
    made = frame.reformat(width=size.width, height=size.height, interpolation="AREA")
    return made.to_ndarray().astype(np.uint8, copy=False)
