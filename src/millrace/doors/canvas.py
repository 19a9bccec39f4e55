"""The memory of a screen that a door paints from what its wire receives.

Some machines report more than they painted: whole lines, or the whole screen for a caret. So what they send is compared
with what is there, in bands that stay in the processor's cache, and only what differs is copied. That is coarse, a box
in each band: it runs on the event loop. Encoders compare again, cell by cell, in another thread.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.graph.pictures import PIXEL_BYTES, Mode
from millrace.graph.screen import Screen
from millrace.pixels.convert import Plane
from millrace.pixels.difference import cells_within, differing, from_cells, joined, part_of
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import HostNs

SMALL_EXACT, SMALL_MAX = 16, 4096
"""Small parts whose exact place is kept, and those that are collected at all; beyond each they are joined."""
SMALL = 128 * 128
"""The most pixels of a small part."""
BAND_PIXELS = 64 * 1024
"""Compared at once."""

Rows: TypeAlias = NDArray[np.uint8]
"""Pixels to paint: (rows, columns, 4), in B, G, R and an unused byte."""


def rows_of(data: bytes | bytearray | memoryview, width: int, height: int, stride: int) -> Rows:
    """A picture in memory, not copied. It must hold `stride * (height - 1)` bytes and the last row."""
    return np.ndarray((height, width, PIXEL_BYTES), np.uint8, data, strides=(stride, PIXEL_BYTES, 1))


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

    def show(self, size: Size, rows: Rows | None, now_ns: HostNs) -> None:
        """Begin a picture of that size: `rows`, or black. GraphError, and no change, if there is no room."""
        # Nothing of it is resident before it is painted.
        picture = np.zeros((size.height, size.width, PIXEL_BYTES), np.uint8)
        mode = Mode(size.width, size.height, size.width * PIXEL_BYTES)
        self.screen.set_mode(mode, picture.reshape(-1).data, now_ns)
        if rows is not None:
            picture[:] = rows
        self.size, self._picture, self._damage, self._small = size, picture, Damage(), []

    def resize(self, size: Size, now_ns: HostNs) -> None:
        """Change the size, and keep what is in both. GraphError, and no change, if there is no room."""
        before, kept = self._picture, Rect(0, 0, size.width, size.height).common(self.whole)
        self.show(size, None, now_ns)
        part_of(self._picture, kept)[:] = part_of(before, kept)
        self._damage.add(kept)

    def paint(self, at: Rect, rows: Rows) -> None:
        """Paint `rows` there, which must be within the picture: what differs of them."""
        for y in self.bands(at):
            band = rows[y - at.y : y - at.y + self.high(at)]
            self.paint_band(Rect(at.x, y, at.width, len(band)), band)

    def high(self, at: Rect) -> int:
        """How many lines of a part are compared at once."""
        return max(1, BAND_PIXELS // at.width)

    def bands(self, at: Rect) -> range:
        """Where the bands of a part begin."""
        return range(at.y, at.bottom, self.high(at))

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

    # Encoders count how much of these has changed.
    def lines(self, at: Rect) -> memoryview:
        """The memory of whole lines, to be written at once: they are damage."""
        self._damage.add(at)
        return part_of(self._picture, at).reshape(-1).data

    def blank(self) -> None:
        """Paint everything black."""
        self._picture[:] = 0
        self._damage.add(self.whole)

    # A text console paints its characters one by one: two thousand rectangles are joined by the cells that they touch,
    # which takes a microsecond each, and not one by one, which takes a hundred.
    def _join(self) -> None:
        """Put the small parts into the damage."""
        small, self._small = self._small, []
        if len(small) > SMALL_EXACT:
            small = from_cells(joined(cells_within(small, self.size)), self.whole)
        for rect in small:
            self._damage.add(rect)

    def publish(self, painted_ns: HostNs) -> None:
        """Publish what was painted since the last time as the next picture."""
        self._join()
        if self._reported:
            self.screen.facts.compared(self._reported, self._changed, painted_ns)
            self._reported = self._changed = 0
        if self._damage:
            self.screen.painted(self._damage.take(), painted_ns)
