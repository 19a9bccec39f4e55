"""Rectangles of few colours: another decoder finds the same pixels, text takes a third, photos are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backports import zstd

from millrace.codec.palette import COLOURS_MAX, SORTED_MAX, Palettes, bits_of, unpacked
from millrace.codec.stills import ZstdStills
from millrace.errors import CodecError
from millrace.pixels.rects import Rect, Size
from millrace.sim.desktop import Desktop
from tests.painting import blank_screen, coloured, photo

TEXT = Desktop(Size(1232, 720), "scroll").picture[112:166, 16:1216]
"""Three lines."""


def inflate(data: Any, size: int) -> bytes:
    found = zstd.decompress(data)
    assert len(found) == size
    return found


def checked(picture: np.ndarray, palettes: Palettes | None = None) -> int:
    """Encode and decode by both decoders; the number of bytes."""
    height, width = picture.shape[:2]
    data = (palettes or Palettes(ZstdStills().compress)).encode(picture)
    assert data is not None
    for found in (unpacked(data, width, height, inflate), coloured(data, Rect(0, 0, width, height))):
        assert np.array_equal(found[:, :, :3], picture[:, :, :3])
    return len(data)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 200])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 41), (300, 90)])
def test_pixels_are_the_same(count: int, size: tuple[int, int]) -> None:
    dice = np.random.default_rng(count)
    colours = dice.integers(0, 256, (count, 4), np.uint8)
    picture = colours[dice.integers(0, count, size)]
    data = Palettes(ZstdStills().compress).encode(picture)
    # Two colours may share a slot: then zstd takes the rectangle.
    if data is not None or count < 200:
        used = len(np.unique(picture[:, :, :3].reshape(-1, 3), axis=0))
        plain = size[0] * -(-size[1] * bits_of(used) // 8)
        assert checked(picture) <= 1 + 3 * used + plain


def test_what_is_left_out_of_memory_of_another_rectangle_is_no_colour() -> None:
    palettes = Palettes(ZstdStills().compress)
    for seed in range(40):
        picture = blank_screen(Size(60, 40), seed)
        picture[:, seed:] = TEXT[:40, : 60 - seed]
        checked(picture, palettes)


def test_text_takes_a_third_of_what_its_pixels_take() -> None:
    stills = ZstdStills()
    assert checked(TEXT) < len(stills.encode(TEXT)) / 3
    small = TEXT[3:15, 64:72]
    assert len(np.unique(small)) > 2 and checked(small) < len(stills.encode(small)) * 0.7


def test_many_colours_and_two_with_one_hash_are_left_to_others() -> None:
    palettes = Palettes(ZstdStills().compress)
    picture = blank_screen(Size(400, 300))
    photo(picture, Rect(0, 0, 400, 300), 1)
    assert palettes.encode(picture) is None
    many = np.zeros((1, COLOURS_MAX + 1, 4), np.uint8)
    many[0, :, :2] = np.arange(COLOURS_MAX + 1, dtype="<u2").view(np.uint8).reshape(-1, 2)
    assert palettes.encode(many) is None and palettes.encode(many[:, :200]) is not None
    words = np.arange(1 << 20, dtype=np.uint32)
    hashes = words * np.uint32(0x9E3779B1) >> np.uint32(16)
    other = int(np.flatnonzero(hashes[1:] == hashes[0])[0]) + 1
    alike = np.array([[0, other] * SORTED_MAX], "<u4").view(np.uint8).reshape(1, -1, 4)
    assert palettes.encode(alike) is None
    checked(alike[:, :SORTED_MAX], palettes)


@pytest.mark.parametrize(
    ("data", "why"),
    [(bytes((3, *range(11))), "a palette of 4 colours in 12 bytes"), (bytes((2, *range(9))) + b"\x03", "colour 3 of")],
)
def test_damage_is_told(data: bytes, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        unpacked(data, 4, 1, inflate)
