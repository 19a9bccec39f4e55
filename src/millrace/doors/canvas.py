"""The memory of a screen that a door paints from what its wire receives.

Some machines report more than they painted: whole lines, or the whole screen for a caret. Large parts are therefore
compared with what is there, so that readers get what changed and nothing else.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.budget import Account, Budget
from millrace.graph.pictures import PIXEL_BYTES, Mode
from millrace.graph.screen import Screen
from millrace.pixels.convert import Plane
from millrace.pixels.difference import CELL, Difference, cells_within, from_cells, joined, part_of
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import HostNs

SMALL_EXACT, SMALL_MAX = 16, 4096
"""Small parts whose exact place is kept, and those that are collected at all; beyond each they are joined."""
COMPARED_MIN = 128 * 128
"""Pixels from which it pays to look for the parts that differ."""

Rows: TypeAlias = NDArray[np.uint8]
"""Pixels to paint: (rows, columns, 4), in B, G, R and an unused byte."""


def rows_of(data: bytes | bytearray | memoryview, width: int, height: int, stride: int) -> Rows:
    """A picture in memory, not copied. It must hold `stride * (height - 1)` bytes and the last row."""
    return np.ndarray((height, width, PIXEL_BYTES), np.uint8, data, strides=(stride, PIXEL_BYTES, 1))


# Two pictures of the same size: what the screen shows, and `_fresh`, into which a part is put to be compared. Cells are
# compared as a whole, so what surrounds the part in its cells is first made equal.
class Canvas:
    """Paints one screen. What was painted is damage until `publish`."""

    def __init__(self, screen: Screen, budget: Budget) -> None:
        self.screen = screen
        self.size = Size(0, 0)
        """Empty until the first `show`."""
        self._budget = budget
        self._account: Account | None = None
        self._picture: Plane
        self._fresh: Plane
        self._difference: Difference
        self._damage = Damage()
        self._small: list[Rect] = []
        """Small parts that were painted, not in the damage yet."""

    def __bool__(self) -> bool:
        """Whether there is something to publish."""
        return bool(self._damage) or bool(self._small)

    @property
    def whole(self) -> Rect:
        """The whole picture."""
        return Rect(0, 0, self.size.width, self.size.height)

    @property
    def fresh(self) -> Plane:
        """Where a part can be put before `compare`: of the picture's size, contiguous."""
        return self._fresh

    def show(self, size: Size, rows: Rows | None, now_ns: HostNs) -> None:
        """Begin a picture of that size: `rows`, or black. GraphError, and no change, if there is no room."""
        mode = Mode(size.width, size.height, size.width * PIXEL_BYTES)
        # First, and for the larger part, what is only held here: nothing is allocated that has no room.
        account = self._budget.open("screen", {"compared": mode.bytes})
        try:
            picture = np.zeros((size.height, size.width, PIXEL_BYTES), np.uint8)
            fresh, difference = np.empty_like(picture), Difference(size)
            account.hold("difference", difference.bytes)
            if rows is not None:
                picture[:] = rows
            self.screen.set_mode(mode, picture.reshape(-1).data, now_ns)
        except BaseException:
            account.close()
            raise
        self.close()
        self.size, self._account = size, account
        self._picture, self._fresh, self._difference = picture, fresh, difference

    def resize(self, size: Size, now_ns: HostNs) -> None:
        """Change the size, and keep what is in both. GraphError, and no change, if there is no room."""
        before, kept = self._picture, Rect(0, 0, size.width, size.height).common(self.whole)
        self.show(size, None, now_ns)
        part_of(self._picture, kept)[:] = part_of(before, kept)
        self._damage.add(kept)

    def paint(self, at: Rect, rows: Rows, compared: bool = True) -> None:
        """Paint `rows` there, which must be within the picture; large parts only where they differ."""
        if at.area < COMPARED_MIN:
            # A small part is compared as a whole: a machine reports a caret thirty times a second, changed or not.
            part = part_of(self._picture, at)
            if not np.array_equal(part, rows):
                part[:] = rows
                self._small.append(at)
                if len(self._small) > SMALL_MAX:
                    self._join()
            return
        if not compared:
            part_of(self._picture, at)[:] = rows
            self._damage.add(at)
            return
        self.prepare(at)
        part_of(self._fresh, at)[:] = rows
        self.compare(at)

    def prepare(self, at: Rect) -> None:
        """Before `fresh` gets a part: make what surrounds it in its cells equal."""
        x, y = at.x // CELL * CELL, at.y // CELL * CELL
        around = Rect(x, y, -(-at.right // CELL) * CELL - x, -(-at.bottom // CELL) * CELL - y).common(self.whole)
        if around != at:
            part_of(self._fresh, around)[:] = part_of(self._picture, around)

    def compare(self, at: Rect) -> None:
        """Paint what differs in that part of `fresh`."""
        for box in self._difference.boxes(self._picture, self._fresh, [at]):
            part_of(self._picture, box)[:] = part_of(self._fresh, box)
            self._damage.add(box)

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
        if self._damage:
            self.screen.painted(self._damage.take(), painted_ns)

    def close(self) -> None:
        """Release what is held for comparing; the picture itself belongs to the screen."""
        if self._account is not None:
            self._account.close()
            self._account = None
            del self._picture, self._fresh, self._difference
        self.size, self._damage, self._small = Size(0, 0), Damage(), []
