"""The code that pictures carry: read back exactly, also after a codec, and never read wrongly."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.pixels.blockcode import CELL, COLUMNS, ROWS, Stamp, paint, place, read
from millrace.pixels.rects import Point

STAMP = Stamp(4_000_000_001, 34_560_123_456_789_012, 0x801E)


def picture(seed: int = 1, height: int = 240, width: int = 320) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


@given(st.builds(Stamp, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1)))
@settings(max_examples=40, deadline=None)
def test_what_is_painted_is_read(stamp: Stamp) -> None:
    canvas = picture()
    rect = paint(canvas, stamp, Point(16, 24))
    assert rect == place(Point(16, 24)) and read(canvas, Point(16, 24)) == stamp
    assert read(canvas[:, :, 2], Point(16, 24)) == stamp


def test_nothing_else_is_painted() -> None:
    before, after = picture(), picture()
    rect = paint(after, STAMP)
    after[: rect.bottom, : rect.right] = before[: rect.bottom, : rect.right]
    assert np.array_equal(before, after)


@pytest.mark.parametrize("size", [(320, 240), (160, 120), (480, 360)])
def test_it_survives_a_poor_codec_and_scaling(size: tuple[int, int]) -> None:
    canvas = picture()
    paint(canvas, STAMP)
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = size[0], size[1], "yuvj420p"
    codec.options = {"qmin": "20", "qmax": "31"}
    frame = av.VideoFrame.from_ndarray(canvas, "bgra").reformat(*size, format="yuvj420p")
    codec.time_base = Fraction(1, 30)
    packets = [*codec.encode(frame), *codec.encode(None)]
    back = av.CodecContext.create("mjpeg", "r").decode(packets[0])[0].to_ndarray(format="bgr24")
    assert not np.array_equal(back, canvas[:, :, :3])
    assert read(back, cell=CELL * size[0] / 320) == STAMP


def test_torn_spoilt_grey_and_too_small_pictures_say_nothing() -> None:
    old, new = picture(), picture()
    paint(old, Stamp(1, 10**15))
    paint(new, Stamp(2, 10**15 + 33_000_000))
    torn = old.copy()
    torn[: ROWS * CELL // 2] = new[: ROWS * CELL // 2]
    assert read(torn) is None and read(old) is not None
    for row in range(ROWS):
        for column in range(COLUMNS):
            spoilt = new.copy()
            spoilt[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, :3] ^= 255
            assert read(spoilt) is None
    assert read(np.full((240, 320, 4), 128, np.uint8)) is None
    assert read(new[: ROWS * CELL - 1]) is None and read(new[:, : COLUMNS * CELL - 1]) is None
    assert all(read(picture(seed)) is None for seed in range(50))
