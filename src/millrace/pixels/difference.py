"""What really changed between two pictures of one size.

A source may report more damage than there is. The comparison works on pairs of pixels (u64) and sums up cells of 16 by
16 pixels; neighbouring cells are joined into rectangles, which are then cut to the pixels that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.convert import Plane
from millrace.pixels.rects import EMPTY, RECTS_MAX, Rect, Size, few

CELL = 16
"""The side of a cell in pixels: that of a macroblock."""
GAP = 3
"""Rectangles at most this many cells apart are joined: one more costs more than the pixels between them."""
RUNS_MAX = 192
"""Beyond this many runs of changed cells, more distant ones are joined."""
DENSE = 0.125
"""A rectangle of which a smaller share differs is worth dividing."""
WASTE = 0.25
"""Rows of cells are joined while at most this share of the union did not change."""
SPARSE, SPARSE_MAX = 0.5, 64
"""A side of a rectangle is a change of its own if a smaller share of its rows did change, and so many cells not."""

Cells: TypeAlias = NDArray[np.bool_]
"""One flag for each cell of a picture: (rows, columns)."""


def cells_of(size: Size) -> tuple[int, int]:
    """Rows and columns of the cells that cover a picture."""
    return -(-size.height // CELL), -(-size.width // CELL)


def in_cells(rect: Rect) -> tuple[slice, slice]:
    """The cells that a rectangle touches, as an index."""
    return slice(rect.y // CELL, -(-rect.bottom // CELL)), slice(rect.x // CELL, -(-rect.right // CELL))


def cells_within(rects: Iterable[Rect], size: Size) -> Cells:
    """The cells of a picture of that size that rectangles touch."""
    found: Cells = np.zeros(cells_of(size), np.bool_)
    for rect in rects:
        found[in_cells(rect)] = True
    return found


def part_of(picture: Plane, rect: Rect) -> Plane:
    """The pixels of a rectangle, not copied."""
    return picture[rect.y : rect.bottom, rect.x : rect.right]


class Difference:
    """Compares pictures of one size; it keeps buffers, so it belongs to one thread at a time."""

    def __init__(self, size: Size) -> None:
        self.whole = Rect(0, 0, size.width, size.height)
        self._rows, self._columns = cells_of(size)
        # Two pixels at a time, which needs rows of an even number of them.
        self._unit: type[np.unsignedinteger[Any]] = np.uint32 if size.width % 2 else np.uint64
        self._pixels = 1 if size.width % 2 else 2
        self._units = CELL // self._pixels
        self._differs: Cells = np.zeros((self._rows * CELL, self._columns * self._units), np.bool_)
        self._used: list[tuple[slice, slice]] = []

    def cells(self, old: Plane, new: Plane, rects: Iterable[Rect]) -> Cells:
        """The cells that differ, among those that `rects` touch."""
        for used in self._used:
            self._differs[used] = False
        found: Cells = np.zeros((self._rows, self._columns), np.bool_)
        self._used = []
        before, after = self._by_unit(old), self._by_unit(new)
        for rect in rects:
            if (rect := rect.common(self.whole)).area:
                rows, columns = in_cells(rect)
                found[rows, columns] |= self._compared(before, after, rows, columns)
        return found

    def _by_unit(self, picture: Plane) -> NDArray[Any]:
        return picture.reshape(len(picture), -1).view(self._unit)

    def _compared(self, old: NDArray[Any], new: NDArray[Any], rows: slice, columns: slice) -> Cells:
        where = (
            slice(rows.start * CELL, rows.stop * CELL),
            slice(columns.start * self._units, columns.stop * self._units),
        )
        self._used.append(where)
        part, first = self._differs[where], old[where]
        # The last row and column of cells may reach beyond the picture, where nothing is ever set.
        np.not_equal(first, new[where], out=part[: first.shape[0], : first.shape[1]])
        # Eight flags are one u64, so a row of a cell is one or two of them.
        words = part.view(np.uint64).reshape(rows.stop - rows.start, CELL, -1)
        lines = np.bitwise_or.reduce(words, axis=1)
        cells: Cells = lines.reshape(len(lines), columns.stop - columns.start, -1) != 0
        return np.logical_or.reduce(cells, axis=2) if cells.shape[2] > 1 else cells[:, :, 0]

    def boxes(self, old: Plane, new: Plane, rects: Iterable[Rect]) -> list[Rect]:
        """Rectangles that cover all pixels within `rects` that differ, each cut to such pixels."""
        return [self.cut(old, new, rect) for rect in joined(self.cells(old, new, rects))]

    # Damage may overlap: what was taken with one rectangle does not differ any more in the next.
    def take(self, old: Plane, new: Plane, rects: Iterable[Rect]) -> list[Rect]:
        """Bring `old` up to date within a few small rectangles; returns what differed, each rectangle's by itself."""
        boxes: list[Rect] = []
        for rect in rects:
            rect = rect.common(self.whole)
            box = tight(old, new, rect) if rect.area else EMPTY
            found = self.boxes(old, new, [rect]) if box is None else [box] if box.area else []
            for one in found:
                part_of(old, one)[:] = part_of(new, one)
            boxes += found
        return boxes

    def cut(self, old: Plane, new: Plane, cells: Rect) -> Rect:
        """The smallest rectangle, in pixels, around what differs in those cells of the last comparison; some must."""
        part = self._differs[cells.y * CELL : cells.bottom * CELL, cells.x * self._units : cells.right * self._units]
        # Eight flags at a time: numpy's own `any` along the first axis takes longer.
        words = part.view(np.uint64)
        rows = np.flatnonzero(np.bitwise_or.reduce(words, axis=1))
        columns = np.flatnonzero(np.bitwise_or.reduce(words, axis=0).view(np.bool_))
        y, bottom = cells.y * CELL + int(rows[0]), cells.y * CELL + int(rows[-1]) + 1
        x = cells.x * CELL + int(columns[0]) * self._pixels
        right = cells.x * CELL + (int(columns[-1]) + 1) * self._pixels
        if self._pixels == 2:
            x += bool(np.array_equal(old[y:bottom, x], new[y:bottom, x]))
            right -= bool(np.array_equal(old[y:bottom, right - 1], new[y:bottom, right - 1]))
        return Rect(x, y, right - x, bottom - y)


# Ten calls of numpy instead of fifty: for a letter, they take longer than its pixels.
def tight(old: Plane, new: Plane, rect: Rect) -> Rect | None:
    """The smallest rectangle around what differs within a small one; None if it is mostly of what does not."""
    before, after = part_of(old, rect), part_of(new, rect)
    box = differing(before, after)
    if box is None:
        return EMPTY
    count = np.count_nonzero(_words(part_of(before, box)) != _words(part_of(after, box)))
    return box.moved(rect.x, rect.y) if count >= DENSE * box.area else None


def differing(old: Plane, new: Plane) -> Rect | None:
    """The smallest rectangle around the pixels that differ between two pictures of one size; None if none does."""
    differs = _words(old) != _words(new)
    rows = differs.any(axis=1).nonzero()[0]
    if not len(rows):
        return None
    y, bottom = int(rows[0]), int(rows[-1]) + 1
    # As bytes: numpy's own `any` along the first axis takes longer.
    columns = np.bitwise_or.reduce(differs[y:bottom].view(np.uint8), axis=0).nonzero()[0]
    x, right = int(columns[0]), int(columns[-1]) + 1
    return Rect(x, y, right - x, bottom - y)


def _words(picture: Plane) -> NDArray[np.uint32]:
    words: NDArray[np.uint32] = picture.view(np.uint32)[:, :, 0]
    return words


def joined(cells: Cells, gap: int = GAP) -> tuple[Rect, ...]:
    """A few rectangles that cover all these cells, in cells."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    if not len(rows):
        return ()
    one = Rect(int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    # Mostly a single change: a letter, a window.
    if one.area - np.count_nonzero(cells) <= WASTE * one.area and not _has_sparse_side(
        cells[one.y : one.bottom, one.x : one.right]
    ):
        return (one,)
    rects: list[Rect] = []
    for apart in (gap, 4 * gap, cells.shape[1]):
        starts, ends = _runs(cells, apart)
        # With the last gap there is one run a row at most.
        if len(starts) > RUNS_MAX and apart < cells.shape[1]:
            continue
        rects = _stacked(starts.tolist(), ends.tolist(), gap)
        if len(rects) <= RECTS_MAX:
            break
    return tuple(few(rects))


# A quarter of a large rectangle would be a clock above a film, which would then be judged and sent as one. Holes within
# a rectangle are none of this: a page of text has them, and is sent as a whole.
def _has_sparse_side(cells: Cells) -> bool:
    """Whether so much of a side of a rectangle did not change that the rest is better off by itself."""
    for side in (cells, cells[::-1], cells.T, cells.T[::-1]):
        full = np.flatnonzero(np.count_nonzero(side, axis=1) >= SPARSE * side.shape[1])
        sparse = side[: full[0]] if len(full) else side
        if sparse.size - np.count_nonzero(sparse) > SPARSE_MAX:
            return True
    return False


# Runs as plain numbers: with a thousand of them, objects would take longer than the comparison of the pixels.
def _stacked(starts: list[list[int]], ends: list[list[int]], gap: int) -> list[Rect]:
    """Runs below each other, joined to rectangles."""
    open_: list[list[int]] = []
    done: list[list[int]] = []
    last = -1
    for (y, x), (_, right) in zip(starts, ends, strict=True):
        if y != last:
            done += [box for box in open_ if box[3] + gap < y]
            open_ = [box for box in open_ if box[3] + gap >= y]
            last = y
        _take(open_, x, y, right)
    return [Rect(x, y, right - x, bottom - y) for x, y, right, bottom in done + open_]


def _take(open_: list[list[int]], x: int, y: int, right: int) -> None:
    """Add a run to the rectangle above that it fits, or begin one."""
    for box in open_:
        if box[0] > right or x > box[2]:
            continue
        wide = max(box[2], right) - min(box[0], x)
        union = wide * (max(box[3], y + 1) - box[1])
        if union - (box[2] - box[0]) * (box[3] - box[1]) - (right - x) <= WASTE * union:
            box[0], box[2], box[3] = min(box[0], x), max(box[2], right), max(box[3], y + 1)
            return
    open_.append([x, y, right, y + 1])


# Arrays: as plain numbers, the tens of thousands of a checkerboard would hold up all threads for milliseconds.
def _runs(cells: Cells, gap: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of cells begin and end, as rows of (row, column), joined over gaps."""
    padded = np.zeros((len(cells), cells.shape[1] + 2), np.int8)
    padded[:, 1:-1] = cells
    edges = padded[:, 1:] - padded[:, :-1]
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    apart = (starts[1:, 0] != ends[:-1, 0]) | (starts[1:, 1] - ends[:-1, 1] > gap)
    begins, stops = np.append(True, apart), np.append(apart, True)
    return starts[begins], ends[stops]


def from_cells(rects: Sequence[Rect], whole: Rect) -> list[Rect]:
    """Rectangles of cells as pixels within a picture."""
    return [Rect(r.x * CELL, r.y * CELL, r.width * CELL, r.height * CELL).common(whole) for r in rects]
