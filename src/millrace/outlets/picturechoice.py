"""How a changed rectangle is sent. Pure: sizes, counts and what is left of the line go in, a choice comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from typing import NamedTuple

from millrace.outlets.cells import PHOTO
from millrace.pixels.difference import CELL
from millrace.pixels.rects import Rect

VIDEO_CODECS = ("avc1", "vp8")
"""In order of preference: VP8 codes the whole picture each time."""
TILE_WIDTH = 512
TILE_PIXELS = 65_536
TILE_PIXELS_MIN = 2_048
SMALL = 4_096
"""Rectangles up to this many pixels are text, a cursor or a button: too small to be worth a judgement."""
FILM_PIXELS = 16_384
"""Less than this is not film, however often it changes: the strip of dense text that a scroll uncovers is small."""
SMALL_BYTES = 4 * SMALL
"""The most that one takes."""
ONCE_SHARES = 3
"""What changed once may take this many pictures' shares of the line: 100 ms."""
SHARPEN_SHARES = 1.2
"""What is sharpened in one picture, in shares."""


class How(Enum):
    """How to send a rectangle."""

    LOSSLESS = "lossless"
    VIDEO = "video"
    JPEG = "jpeg"
    LATER = "later"
    """It doesn't fit now, and is sent with one of the next pictures."""


class Formats(NamedTuple):
    """What viewers can show; viewers that share an encoder can show the same."""

    video: str | None = "avc1"
    jpeg: bool = True
    zstd: bool = True
    palette: bool = True
    overlays: frozenset[str] = frozenset()
    """Codecs of videos that they draw over the picture themselves."""

    @classmethod
    def named(
        cls, codecs: Collection[str], formats: Collection[str], overlays: frozenset[str] = frozenset()
    ) -> Formats:
        """What a viewer that names these can show; unknown names say nothing. A palette's pixels come as zstd."""
        video = next((codec for codec in VIDEO_CODECS if codec in codecs), None)
        zstd = "zstd" in formats
        return cls(video, "jpeg" in formats, zstd, zstd and "palette" in formats, overlays)


class Room(NamedTuple):
    """What is left of the line for one picture, in bytes: of its share, and of 100 ms."""

    share: int
    once: int

    def less(self, size: int) -> Room:
        """After so many bytes."""
        return Room(self.share - size, self.once - size)


def is_film(density: float, pixels: int, often: bool) -> bool:
    """Whether a rectangle of so many bytes a pixel by zstd is a photo that keeps changing."""
    return often and density > PHOTO and pixels >= FILM_PIXELS


def limit(pixels: int, often: bool, room: Room) -> int:
    """How many bytes a changed rectangle may take losslessly."""
    return room.share if often and pixels > SMALL else room.once


# 4:2:0 shows coloured text with 26 to 29 dB whatever its QP, so text is sent losslessly if it fits at all, and what is
# sent as video is sent again when it is still.
def choice(size: float, pixels: int, often: bool, room: Room, formats: Formats, lossless: bool) -> How:
    """For a rectangle of so many pixels, that takes `size` bytes losslessly."""
    fits = size <= room.once
    if lossless:
        return How.LOSSLESS if fits else How.LATER
    if not is_film(size / pixels, pixels, often) and size <= limit(pixels, often, room):
        return How.LOSSLESS
    if formats.video is not None:
        return How.VIDEO
    if formats.jpeg and room.once > 0:
        return How.JPEG
    return How.LOSSLESS if fits else How.LATER


def tiles(rect: Rect, pixels: int = TILE_PIXELS) -> Iterator[Rect]:
    """A rectangle in pieces of at most about so many pixels, at edges of cells."""
    if rect.area <= pixels and rect.width <= 4 * TILE_WIDTH:
        yield rect
        return
    columns = -(-rect.width // TILE_WIDTH)
    wide = max(CELL, -(-rect.width // columns // CELL) * CELL)
    high = max(CELL, pixels // wide // CELL * CELL)
    x = rect.x
    while x < rect.right:
        right = min(rect.right, (x + wide) // CELL * CELL)
        y = rect.y
        while y < rect.bottom:
            bottom = min(rect.bottom, (y + high) // CELL * CELL)
            yield Rect(x, y, right - x, bottom - y)
            y = bottom
        x = right


def fewer(rects: list[Rect], most: int) -> list[Rect]:
    """At most so many rectangles that cover these: the last are joined with those that grow least by it."""
    while len(rects) > most:
        last = rects[-1]
        costs = [rect.around(last).area - rect.area for rect in rects[:-1]]
        index = costs.index(min(costs))
        rects = [*rects[:index], rects[index].around(last), *rects[index + 1 : -1]]
    return rects
