"""What is known of a picture's cells: nothing is taken for exact that is not."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.outlets.cells import EXACT, FAIR, IDLE_NS, LOSSY, STALE, STILL_NS, CellMap, inner_cells
from millrace.pixels.difference import Cells, in_cells
from millrace.pixels.rects import Move, Rect, Size
from millrace.units import NS_PER_S

STEP_NS = NS_PER_S // 30


def cells_in(known: CellMap, rect: Rect) -> Cells:
    out = np.zeros(known.levels.shape, np.bool_)
    out[in_cells(rect)] = True
    return out


def test_only_whole_cells_become_exact_and_touched_ones_become_worse() -> None:
    known = CellMap(Size(100, 50))
    known.sent(Rect(8, 8, 40, 20), LOSSY)
    assert (known.levels[0:2, 0:3] == LOSSY).all() and known.levels.sum() == 6 * LOSSY
    known.sent(Rect(8, 8, 40, 20), EXACT)
    assert known.levels[0].tolist() == [LOSSY, LOSSY, LOSSY, 0, 0, 0, 0], "only the second row has whole cells"
    known.sent(known.whole, EXACT)
    assert not known.levels.any(), "the edge of the picture ends cells"
    known.sent(known.whole, LOSSY)
    known.sent(Rect(16, 16, 32, 16), FAIR)
    assert known.levels[1].tolist() == [LOSSY, FAIR, FAIR, LOSSY, LOSSY, LOSSY, LOSSY]
    assert inner_cells(Rect(90, 40, 10, 10), known.whole) == (slice(3, 4), slice(6, 7))


def test_often_is_four_of_twelve_pictures() -> None:
    known, rect = CellMap(Size(64, 64)), Rect(0, 0, 32, 32)
    for step in range(3):
        known.changed(cells_in(known, rect), step * STEP_NS)
        assert not known.often(rect)
    known.changed(cells_in(known, rect), 3 * STEP_NS)
    assert known.often(rect) and not known.often(Rect(32, 32, 32, 32))
    # Twice a second is not often, however many times.
    slow = CellMap(Size(64, 64))
    for step in range(20):
        slow.changed(cells_in(slow, rect), step * NS_PER_S // 2)
        assert not slow.often(rect)


def test_what_stands_still_is_due_and_photos_when_all_is_idle() -> None:
    known, film, photo = CellMap(Size(64, 64)), Rect(0, 0, 32, 32), Rect(32, 32, 32, 32)
    assert known.due_ns() is None
    known.changed(cells_in(known, film), NS_PER_S)
    known.sent(film, LOSSY)
    known.sent(photo, FAIR)
    assert known.due_ns() == NS_PER_S + STILL_NS and known.hot(NS_PER_S).sum() == 4
    assert not known.unsharp(NS_PER_S + STILL_NS - 1).any()
    assert np.array_equal(known.unsharp(NS_PER_S + STILL_NS), cells_in(known, film))
    known.sent(film, EXACT)
    assert known.due_ns() == NS_PER_S + IDLE_NS and not known.hot(NS_PER_S).any()
    assert np.array_equal(known.unsharp(NS_PER_S + IDLE_NS), cells_in(known, photo))
    known.sent(Rect(0, 48, 16, 16), STALE)
    assert known.due_ns() == 0 and known.unsharp(NS_PER_S)[3, 0]


@pytest.mark.parametrize("move", [Move(Rect(16, 16, 64, 32), 0, 16), Move(Rect(20, 5, 64, 40), -3, -7),
                                  Move(Rect(5, 40, 40, 50), 5, 33)])  # fmt: skip
def test_quality_moves_with_the_pixels(move: Move) -> None:
    """By pixels: no cell is better than the worst pixel in it."""
    random = np.random.default_rng(1)
    known = CellMap(Size(96, 96))
    known.levels[:] = random.choice([EXACT, EXACT, FAIR, LOSSY], known.levels.shape)
    pixels = np.kron(known.levels, np.ones((16, 16), np.uint8))
    origin, to = move.origin, move.to
    pixels[to.y : to.bottom, to.x : to.right] = pixels[origin.y : origin.bottom, origin.x : origin.right].copy()
    known.moved(move)
    assert (known.levels >= pixels.reshape(6, 16, 6, 16).max(axis=(1, 3))).all()


def test_density_is_known_only_where_most_was_measured() -> None:
    known = CellMap(Size(64, 64))
    known.measured(Rect(0, 0, 32, 32), 512)
    assert known.known_density(Rect(0, 0, 32, 32)) == 0.5
    assert known.known_density(Rect(0, 0, 64, 64)) is None and known.known_density(Rect(0, 0, 64, 32)) == 0.5
