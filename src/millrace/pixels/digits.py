"""Digits for clocks in pictures: five by seven dots each, scaled up."""

from __future__ import annotations

from functools import cache

import numpy as np

from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect

WIDE, HIGH = 6, 8
"""Dots of a character with the space behind and below it."""
_ROWS = {
    "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202",
    "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
    ":": "000c0c000c0c00", ".": "00000000000c0c", "-": "0000001f000000", " ": "00000000000000",
}  # fmt: skip
"""A row of dots is a byte of five bits, the left one highest."""


def dots(text: str) -> Plane:
    """(8, 6 × characters) of 0 and 1; unknown characters are blank."""
    out = np.zeros((HIGH, WIDE * len(text)), np.uint8)
    for index, char in enumerate(text):
        out[: HIGH - 1, index * WIDE : index * WIDE + WIDE - 1] = _character(char if char in _ROWS else " ")
    return out


@cache
def _character(char: str) -> Plane:
    rows = np.frombuffer(bytes.fromhex(_ROWS[char]), np.uint8)
    return np.unpackbits(rows[:, None], axis=1)[:, 3:]


def write(picture: Plane, at: Point, text: str, scale: int, ink: tuple[int, int, int], ground: int = 0) -> Rect:
    """Write into (rows, columns, 4) BGRX, `ink` on grey `ground`; returns what changed."""
    words = np.array([ground * 0x010101, int.from_bytes(bytes(ink), "little")], "<u4")
    shown = words[dots(text)].repeat(scale, 0).repeat(scale, 1)
    rect = Rect(at.x, at.y, shown.shape[1], shown.shape[0])
    part = picture[rect.y : rect.bottom, rect.x : rect.right].view("<u4")[:, :, 0]
    part[:] = shown[: part.shape[0], : part.shape[1]]
    return rect
