"""The copy of a screen that viewers were sent: what really changed in it, and what scrolled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millrace.outlets.cells import CellMap
from millrace.outlets.scaled import Scaled
from millrace.pixels.convert import Plane
from millrace.pixels.difference import CELL, Cells, Difference, cells_within, from_cells, in_cells, joined, part_of
from millrace.pixels.rects import Move, Rect, Size
from millrace.pixels.scroll import APART, SCROLL_PIXELS_MIN, apply_move, grouped, scrolled
from millrace.units import HostNs

SCROLL_AGAIN, SCROLL_REST = 0.5, 1 / 64
"""The share of a place that must have moved again; and how much may differ after that, in the rows of what has moved
across the screen, as a share of it. More is a sign that the place is another by now."""
VAIN_MAX, VAIN_EVERY = 4, 8
"""So many pictures on end a place is searched in which nothing scrolls; after that, in every eighth."""


class Reference:
    """A copy in the size that viewers see. It belongs to one thread at a time."""

    def __init__(self, size: Size, cells: CellMap, scaled: Scaled | None) -> None:
        self.picture: Plane = np.zeros((size.height, size.width, 4), np.uint8)
        self.fresh = True
        """Nothing was taken yet."""
        self._size, self._whole = size, Rect(0, 0, size.width, size.height)
        self._cells, self._scaled = cells, scaled
        self._difference = Difference(size)
        self._scrolling: Rect | None = None
        """What last scrolled; None if it was not found there again."""
        self._vain: dict[Rect, int] = {}
        """Places of the last picture that nothing scrolled in, and in how many pictures on end."""

    def take(
        self, picture: Plane, damage: Sequence[Rect], moves: Sequence[Move], now_ns: HostNs
    ) -> tuple[list[Move], list[Rect]]:
        """Bring the copy up to date: the moves and rectangles that lead there from what it was."""
        source = picture if self._scaled is None else self._scaled.take(picture)
        if self.fresh:
            # Nobody has seen anything yet: every viewer lacks the whole picture.
            self.fresh = False
            self.picture[:] = source
            return [], []
        painted = [*damage, *(move.to for move in moves)]
        if self._scaled is not None:
            return self._compared(source, self._scaled.touched(painted), [], now_ns)
        for move in moves:
            self._move(move)
        return self._compared(source, painted, list(moves), now_ns)

    def _compared(
        self, source: Plane, painted: list[Rect], moves: list[Move], now_ns: HostNs
    ) -> tuple[list[Move], list[Rect]]:
        if not moves and sum(rect.area for rect in painted) < SCROLL_PIXELS_MIN:
            boxes = self._difference.take(self.picture, source, painted)
            self._cells.changed(cells_within(boxes, self._size), now_ns)
            return [], boxes
        again = self._scrolled_again(source, painted)
        found = self._difference.cells(self.picture, source, painted)
        if again and _beside(found, again[0].to) > SCROLL_REST * again[0].to.area / CELL**2:
            self._scrolling = None
        moves, boxes = self._scrolled(source, list(joined(found)), moves + again)
        for box in boxes:
            part_of(self.picture, box)[:] = part_of(source, box)
        for move in moves:
            found[in_cells(move.to)] = True
        self._cells.changed(found, now_ns)
        return moves, boxes

    def _move(self, move: Move) -> None:
        apply_move(self.picture, move)
        self._cells.moved(move)

    # To find that all of a page has changed is half of what a scroll costs, and it is mostly not the last one.
    def _scrolled_again(self, source: Plane, painted: list[Rect]) -> list[Move]:
        """The move where one was the last time, before anything is compared, if most of that place moved again."""
        place, self._scrolling = self._scrolling, None
        if place is None or not any(rect.holds(place) for rect in painted):
            return []
        move = scrolled(self.picture, source, place)
        if move is None or move.to.area < SCROLL_AGAIN * place.area:
            return []
        self._scrolling = place
        self._move(move)
        return [move]

    def _scrolled(self, source: Plane, rects: list[Rect], moves: list[Move]) -> tuple[list[Move], list[Rect]]:
        """Also the moves within large changes, given in cells; and the boxes that differ after them."""
        # What came in where something has moved was nowhere else before.
        moved = [_place(move) for move in moves]
        large = [
            group for group in grouped(rects, APART // CELL)
            if group.area >= SCROLL_PIXELS_MIN // CELL**2 and not any(place.holds(group) for place in moved)
        ]  # fmt: skip
        self._vain = {group: self._vain.get(group, 0) + 1 for group in large}
        large = [group for group in large if _worth(self._vain[group])]
        found = [(group, move) for group in large if (move := self._scroll(source, group)) is not None]
        # What has not moved is cut before the next comparison.
        still = [rect for rect in rects if not any(group.holds(rect) for group, _ in found)]
        boxes = [self._difference.cut(self.picture, source, rect) for rect in still]
        for group, move in found:
            del self._vain[group]
            self._move(move)
            boxes += self._difference.boxes(self.picture, source, from_cells([group], self._whole))
        return moves + [move for _, move in found], boxes

    def _scroll(self, source: Plane, group: Rect) -> Move | None:
        move = scrolled(self.picture, source, self._difference.cut(self.picture, source, group))
        if move is not None and (self._scrolling is None or move.to.area > self._scrolling.area):
            self._scrolling = move.to.around(move.origin)
        return move


def _beside(found: Cells, moved: Rect) -> int:
    """How many cells differ in the rows of what has moved, across the screen."""
    return int(np.count_nonzero(found[-(-moved.y // CELL) : moved.bottom // CELL]))


def _worth(times: int) -> bool:
    """Whether to search a place again where nothing scrolled so often: a film, which may become a page."""
    return times <= VAIN_MAX or times % VAIN_EVERY == 0


def _place(move: Move) -> Rect:
    """Where a move leads from and to, in cells."""
    rows, columns = in_cells(move.to.around(move.origin))
    return Rect(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
