"""Finds scrolled content: rows that are where other rows were before.

Each row of the box is hashed. Rows that, with those below, are unique in the old picture vote for the distance between
their old and new place. A wrong match costs nothing but bytes: whoever applies the move compares the pictures
afterwards.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Move, Rect

SCROLL_PIXELS_MIN = 40_000
"""Smaller boxes are sent faster than they are searched."""
AGREE = 0.3
"""The share of votes that a distance needs."""
ROWS_MIN = 8
PROBED = 8
"""Rows compared before a move is believed."""
BAND = 64
"""Pairs of pixels in a band."""
_MIXED = np.uint64(0x9E3779B97F4A7C15)
_WEIGHTS: NDArray[np.uint64] = np.arange(1, 8 * BAND + 1, 2, dtype=np.uint64) * _MIXED
"""Of each pair of a band: odd, so that a change of any one pair changes the sum."""
APART = 48
"""Boxes at most this many pixels apart are searched as one: blank lines within a page don't change when it scrolls."""

Hashes: TypeAlias = NDArray[np.uint64]


def grouped(boxes: list[Rect], apart: int = APART) -> list[Rect]:
    """Boxes joined with those near them."""
    out: list[Rect] = []
    for box in boxes:
        near = [other for other in out if _near(box, other, apart)]
        while near:
            out = [other for other in out if other not in near]
            for other in near:
                box = box.around(other)
            near = [other for other in out if _near(box, other, apart)]
        out.append(box)
    return out


def _near(one: Rect, other: Rect, apart: int) -> bool:
    wide = Rect(one.x - apart, one.y - apart, one.width + 2 * apart, one.height + 2 * apart)
    return wide.common(other).area > 0


# Of a wide box three bands are enough to tell its rows apart, and take a fraction of the time.
def hashes(picture: Plane, box: Rect) -> Hashes:
    """One hash for each row of a box with an even number of columns."""
    pairs = part_of(picture, box).reshape(box.height, -1).view(np.uint64)
    found: Hashes = np.zeros(box.height, np.uint64)
    for begin, end in _bands(pairs.shape[1]):
        # einsum, as a product of integers by `@` takes longer.
        found = found * _MIXED + np.einsum("ij,j->i", pairs[:, begin:end], _WEIGHTS[: end - begin])
    return found


def _bands(width: int) -> list[tuple[int, int]]:
    """The columns that are looked at: all, or as many as `BAND` at the left, in the middle and at the right."""
    if width <= 4 * BAND:
        return [(0, width)]
    middle = (width - BAND) // 2
    return [(0, BAND), (middle, middle + BAND), (width - BAND, width)]


def scrolled(old: Plane, new: Plane, box: Rect) -> Move | None:
    """The vertical move that explains most of what changed within `box`, if there is one."""
    x = box.x + 1 & ~1
    box = Rect(x, box.y, box.right - x & ~1, box.height)
    if box.area < SCROLL_PIXELS_MIN or box.height < 2 * ROWS_MIN:
        return None
    before, after = hashes(old, box), hashes(new, box)
    distance = _elected(_with_next(before), _with_next(after))
    if not distance:
        return None
    rows = np.arange(max(0, distance), box.height + min(0, distance))
    same = rows[(after[rows] == before[rows - distance]) & (after[rows] != before[rows])]
    if len(same) < ROWS_MIN or not _true(part_of(old, box), part_of(new, box), same, distance):
        return None
    first, last = int(same[0]), int(same[-1]) + 1
    return Move(Rect(box.x, box.y + first, box.width, last - first), 0, distance)


# Rows that are shown twice or three times, as a desktop at another scale has them, are unique only together.
def _with_next(rows: Hashes) -> Hashes:
    """Hashes of each row with the two after it."""
    found: Hashes = (rows[:-2] * _MIXED + rows[1:-1]) * _MIXED + rows[2:]
    return found


def _true(old: Plane, new: Plane, rows: NDArray[np.intp], distance: int) -> bool:
    """Whether such rows are equal, for a few: a hash does not change if the content also moves sideways."""
    some = rows[:: max(1, len(rows) // PROBED)]
    return bool((new[some] == old[some - distance]).all(axis=(1, 2)).mean() > 0.5)


def _elected(before: Hashes, after: Hashes) -> int:
    """The distance that most rows agree on; 0 for none."""
    known, where, count = np.unique(before, return_index=True, return_counts=True)
    place = np.minimum(np.searchsorted(known, after), len(known) - 1)
    voters = np.flatnonzero((known[place] == after) & (count[place] == 1))
    distances, votes = np.unique(voters - where[place[voters]], return_counts=True)
    votes[distances == 0] = 0
    if not len(votes) or votes.max() < max(ROWS_MIN, AGREE * len(voters)):
        return 0
    return int(distances[votes.argmax()])


def apply_move(picture: Plane, move: Move) -> None:
    """Move the content within a picture; the two places may overlap."""
    to, origin, step = part_of(picture, move.to), part_of(picture, move.origin), abs(move.dy)
    if not step:
        to[:] = origin
        return
    # Strips as high as the distance don't overlap, so numpy needs no copy of the whole. They are moved in the order in
    # which none is overwritten before it was read.
    strips = range(0, move.to.height, step)
    for y in strips if move.dy < 0 else reversed(strips):
        to[y : y + step] = origin[y : y + step]
