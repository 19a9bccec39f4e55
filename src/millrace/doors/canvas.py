"""The memory of a screen that a door paints from what its wire receives.

Some machines report more than they painted: whole lines, or the whole screen for a caret. So what they send is compared
with what is there, in bands that stay in the processor's cache, and only what differs is copied. That is coarse, a box
in each band: it runs on the event loop. Encoders compare again, cell by cell, in another thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.graph.pictures import PIXEL_BYTES, Mode
from millrace.graph.screen import Screen
from millrace.pixels.convert import Plane
from millrace.pixels.difference import cells_of, cells_within, differing, from_cells, joined, part_of
from millrace.pixels.rects import Damage, Rect, Size, bands
from millrace.units import HostNs

SMALL_EXACT, SMALL_MAX = 16, 256
"""Small parts whose exact place is kept, and those that are collected at all; beyond each they are joined."""
JOINED_CELLS = 9_216
"""The most cells by which small parts are joined: of 16 × 16 pixels up to 1920 × 1200, of larger ones beyond, so that
it takes no longer."""
SMALL = 128 * 128
"""The most pixels of a small part."""
BAND_PIXELS = 64 * 1024
"""Compared at once."""
LINE_PIXELS = 64
"""A line of fewer pixels takes as long: it is elsewhere in memory."""

BLACK = 0

Rows: TypeAlias = NDArray[np.uint8]
"""Pixels to paint: (rows, columns, 4), in B, G, R and an unused byte."""


def few_around(small: Iterable[Rect], whole: Rect) -> list[Rect]:
    """A few rectangles that cover these of a picture, by the cells that they touch."""
    by, shrunk = 1, whole
    while math.prod(cells_of(size := Size(shrunk.width, shrunk.height))) > JOINED_CELLS:
        by *= 2
        shrunk = _shrunk(whole, by)
    found = from_cells(joined(cells_within((_shrunk(rect, by) for rect in small), size)), shrunk)
    return [Rect(rect.x * by, rect.y * by, rect.width * by, rect.height * by).common(whole) for rect in found]


def _shrunk(rect: Rect, by: int) -> Rect:
    """The smallest rectangle that covers one in a picture of which each pixel is so many either way."""
    x, y = rect.x // by, rect.y // by
    return Rect(x, y, -(-rect.right // by) - x, -(-rect.bottom // by) - y)


def rows_of(data: bytes | bytearray | memoryview, width: int, height: int, stride: int) -> Rows:
    """A picture in memory, not copied. It must hold `stride * (height - 1)` bytes and the last row."""
    return np.ndarray((height, width, PIXEL_BYTES), np.uint8, data, strides=(stride, PIXEL_BYTES, 1))


# What takes long is an iterator, each step of which takes about as long as a band. It must be run to its end before
# another is begun, and before anything is published.
class Canvas:
    """Paints one screen. What was painted is damage until `publish`."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.size = Size(0, 0)
        """Empty until the first `show`."""
        self._picture: Plane = np.zeros((0, 0, PIXEL_BYTES), np.uint8)
        self._damage = Damage()
        self._reported = self._changed = 0
        """Pixels that were compared since the last `publish`, and those of them in boxes that differ."""
        self._small: list[Rect] = []
        """Small parts that were painted, not in the damage yet."""

    def __bool__(self) -> bool:
        """Whether there is something to publish."""
        return bool(self._damage) or bool(self._small) or bool(self._reported)

    @property
    def whole(self) -> Rect:
        """The whole picture."""
        return Rect(0, 0, self.size.width, self.size.height)

    # Nothing of zeros is resident before it is painted. What is filled anyway need not be zero before.
    def show(self, size: Size, now_ns: HostNs) -> Iterator[None]:
        """Begin a black picture of that size, which nobody is shown before `publish`.

        GraphError, and no change, if there is no room.
        """
        self._begin(np.zeros((size.height, size.width, PIXEL_BYTES), np.uint8), now_ns)
        yield

    def replace(self, size: Size, rows: Rows, now_ns: HostNs) -> Iterator[None]:
        """Begin a picture of that size and `rows`, as `show` does."""
        self._begin(np.empty((size.height, size.width, PIXEL_BYTES), np.uint8), now_ns)
        yield from self._fill(self.whole, rows)

    def resize(self, size: Size, now_ns: HostNs) -> Iterator[None]:
        """Begin a picture of that size, as `show` does, and keep what is in both."""
        before, kept = self._picture, Rect(0, 0, size.width, size.height).common(self.whole)
        self._begin(np.empty((size.height, size.width, PIXEL_BYTES), np.uint8), now_ns)
        yield from self._fill(kept, part_of(before, kept))
        yield from self._fill(Rect(kept.width, 0, size.width - kept.width, kept.height), BLACK)
        yield from self._fill(Rect(0, kept.height, size.width, size.height - kept.height), BLACK)

    def _begin(self, picture: Plane, now_ns: HostNs) -> None:
        height, width = picture.shape[:2]
        mode = Mode(width, height, width * PIXEL_BYTES)
        self.screen.set_mode(mode, picture.reshape(-1).data, now_ns)
        self.screen.await_paint()
        self.size, self._picture, self._small = Size(width, height), picture, []
        self._damage = Damage([self.whole])

    def _fill(self, at: Rect, rows: Rows | int) -> Iterator[None]:
        for band in self.bands(at):
            part = rows if isinstance(rows, int) else part_of(rows, band.moved(-at.x, -at.y))
            part_of(self._picture, band)[:] = part
            yield

    def paint(self, at: Rect, rows: Rows) -> Iterator[None]:
        """Paint `rows` there, which must be within the picture: what differs of them."""
        for band in self.bands(at):
            self.paint_band(band, part_of(rows, band.moved(-at.x, -at.y)))
            yield

    def bands(self, at: Rect, line_pixels: int = LINE_PIXELS) -> Iterator[Rect]:
        """The parts of a part that are painted at once, if its lines are no shorter than so many pixels."""
        yield from bands(at, BAND_PIXELS // max(at.width, line_pixels) * at.width)

    def paint_band(self, at: Rect, rows: Rows) -> None:
        """Paint a band, if it differs."""
        self._reported += at.area
        box = differing(part_of(self._picture, at), rows)
        if box is None:
            return
        self._changed += box.area
        there = box.moved(at.x, at.y)
        part_of(self._picture, there)[:] = part_of(rows, box)
        if box.area > SMALL:
            self._damage.add(there)
            return
        self._small.append(there)
        if len(self._small) > SMALL_MAX:
            self._join()

    def lines(self, at: Rect) -> memoryview:
        """The memory of whole lines, to be written at once: the writer says what is damage."""
        return part_of(self._picture, at).reshape(-1).data

    # Encoders count how much of it has changed.
    def painted(self, at: Rect) -> None:
        """This was written into `lines`, or some of it."""
        self._damage.add(at)

    def blank(self) -> Iterator[None]:
        """Paint everything black."""
        self._damage.add(self.whole)
        return self._fill(self.whole, BLACK)

    # A text console paints its characters one by one: two thousand rectangles are joined by the cells that they touch,
    # all together: one by one, each would be compared with all that are there.
    def _join(self) -> None:
        """Put the small parts into the damage."""
        small, self._small = self._small, []
        self._damage.add_all(few_around(small, self.whole) if len(small) > SMALL_EXACT else small)

    def publish(self, painted_ns: HostNs) -> None:
        """Publish what was painted since the last time as the next picture."""
        self._join()
        if self._reported:
            self.screen.facts.compared(self._reported, self._changed, painted_ns)
            self._reported = self._changed = 0
        if self._damage:
            self.screen.painted(self._damage.take(), painted_ns)
