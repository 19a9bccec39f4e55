"""Thumbnails of a screen, and what changed of them: the work, which runs in another thread.

Each pixel is the mean of a square of `factor` × `factor` pixels of the screen, so a changed rectangle can be scaled by
itself. The factor is a power of two: libyuv takes the mean of all pixels only when it halves or quarters a picture, and
otherwise of four of them. What is left over at the right and lower edges is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from millrace.codec import yuv
from millrace.codec.stills import encode_jpeg
from millrace.graph.pictures import PIXEL_BYTES
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import EMPTY, Rect, Size

ROOM = Size(360, 256)
"""A thumbnail fits into this."""
QUALITY = 60
_STEP = 4
PNG_AREA_MAX = 512
"""Up to this many pixels, a PNG is smaller than a JPEG, which has 600 bytes of tables."""


class Still(NamedTuple):
    """A part of a thumbnail, as a PNG or JPEG."""

    at: Rect
    data: bytes


class Made(NamedTuple):
    """What changed of a thumbnail, None if nothing did; and the whole of it, if that was asked for."""

    patch: Still | None
    whole: Still | None


class ThumbnailWork:
    """The thumbnail of a screen of one size. It belongs to one thread at a time."""

    def __init__(self, screen: Size) -> None:
        self.screen = screen
        self.factor = 1
        while screen.width // self.factor > ROOM.width or screen.height // self.factor > ROOM.height:
            self.factor *= 2
        self.size = Size(max(1, screen.width // self.factor), max(1, screen.height // self.factor))
        self._picture: Plane = np.zeros((self.size.height, self.size.width, PIXEL_BYTES), np.uint8)

    def make(self, picture: Plane | None, damage: Iterable[Rect], whole: bool) -> Made:
        """Follow the screen, if there is a picture, and encode; CodecError if that fails."""
        box = EMPTY if picture is None else self._follow(picture, damage)
        everything = Rect(0, 0, self.size.width, self.size.height)
        return Made(self._still(box) if box.area else None, self._still(everything) if whole else None)

    def _follow(self, picture: Plane, damage: Iterable[Rect]) -> Rect:
        """Scale what is damaged; returns the rectangle in which the thumbnail is another one now."""
        before, box = self._picture.copy(), EMPTY
        for rect in damage:
            if (at := self._scaled(rect)).area:
                self._scale(picture, at)
                box = box.around(at) if box.area else at
        if not box.area:
            return EMPTY
        changed = (part_of(self._picture, box)[:, :, :3] != part_of(before, box)[:, :, :3]).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):
            return EMPTY
        x, y = int(columns[0]), int(rows[0])
        return Rect(box.x + x, box.y + y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)

    def _scaled(self, rect: Rect) -> Rect:
        """The pixels of the thumbnail that a rectangle of the screen touches."""
        factor, (wide, high) = self.factor, (self.size.width, self.size.height)
        x, y = rect.x // factor, rect.y // factor
        right, bottom = min(wide, -(-rect.right // factor)), min(high, -(-rect.bottom // factor))
        return Rect(x, y, max(0, right - x), max(0, bottom - y))

    def _scale(self, picture: Plane, at: Rect) -> None:
        # A screen narrower or lower than the factor has less than one square.
        factor, (high, wide) = self.factor, picture.shape[:2]
        square = Rect(at.x * factor, at.y * factor, min(wide, at.width * factor), min(high, at.height * factor))
        part, into = part_of(picture, square), part_of(self._picture, at)
        while factor > _STEP:
            factor //= _STEP
            smaller: Plane = np.empty(
                (max(1, len(part) // _STEP), max(1, part.shape[1] // _STEP), PIXEL_BYTES), np.uint8
            )
            yuv.scale(part, smaller)
            part = smaller
        yuv.scale(part, into)

    def _still(self, at: Rect) -> Still:
        part = part_of(self._picture, at)
        return Still(at, _png(part) if at.area <= PNG_AREA_MAX else encode_jpeg(part, QUALITY, half_colours=True))


def _png(part: Plane) -> bytes:
    from PIL import Image

    height, width = part.shape[:2]
    image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(part), "raw", "BGRX", 0, 1)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
