"""Lines of a picture that have changed."""

from __future__ import annotations

import random
from itertools import pairwise

from millrace.pixels.lines import GAP, Lines
from millrace.pixels.rects import Rect


def test_lines_that_changed_are_taken_once_and_those_between_with_them() -> None:
    lines = Lines(100, 80)
    assert not lines and lines.take() == []
    lines.add(Rect(7, 10, 1, 2))
    lines.add(Rect(50, 12 + GAP - 1, 10, 1))
    lines.add(Rect(-5, 60, 300, 400))
    assert lines and lines.take() == [Rect(0, 10, 100, GAP + 2), Rect(0, 60, 100, 20)]
    assert not lines and lines.take() == []


def test_what_lies_beyond_the_picture_does_not_count() -> None:
    lines = Lines(100, 80)
    for rect in (Rect(100, 0, 5, 5), Rect(-9, -9, 9, 9), Rect(0, 80, 100, 1), Rect(3, 3, 0, 5)):
        lines.add(rect)
    assert not lines and lines.take() == []
    none = Lines(0, 0)
    none.add(Rect(0, 0, 10, 10))
    assert not none and none.take() == []


def test_all_that_changed_is_taken_and_no_more_than_a_gap_besides() -> None:
    rng = random.Random(5)
    for _ in range(200):
        lines, changed = Lines(40, 200), set[int]()
        for _ in range(rng.randrange(1, 12)):
            y, height = rng.randrange(200), rng.randrange(1, 20)
            lines.add(Rect(rng.randrange(40), y, 1, height))
            changed.update(range(y, min(200, y + height)))
        taken = lines.take()
        rows = {row for rect in taken for row in range(rect.y, rect.bottom)}
        assert changed <= rows and {rect.y for rect in taken} | {rect.bottom - 1 for rect in taken} <= changed
        assert all(after.y - before.bottom >= GAP for before, after in pairwise(taken))
