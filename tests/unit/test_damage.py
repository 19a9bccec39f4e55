"""Damage: few rectangles cover all that changed, and many changes take little time."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.pixels.rects import MANY, OTHERS_MAX, RECTS_MAX, Damage, Rect, beyond
from tests.paintedscreen import HEIGHT, RECTS, WIDTH


@given(st.lists(RECTS, max_size=200))
def test_damage_covers_all_changes_in_few_rectangles(rects: list[Rect]) -> None:
    damage, painted, covered = Damage(rects), np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    for rect in rects:
        painted[rect.y : rect.bottom, rect.x : rect.right] = True
    for rect in damage.rects:
        covered[rect.y : rect.bottom, rect.x : rect.right] = True
    assert len(damage.rects) <= RECTS_MAX and not (painted & ~covered).any()


@given(st.lists(st.lists(RECTS, max_size=90), max_size=5))
def test_damage_covers_changes_that_come_together(pictures: list[list[Rect]]) -> None:
    damage, painted, covered = Damage(), np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    for rects in pictures:
        damage.add_all(rects)
        for rect in rects:
            painted[rect.y : rect.bottom, rect.x : rect.right] = True
        assert len(damage.rects) <= RECTS_MAX
    for rect in damage.rects:
        covered[rect.y : rect.bottom, rect.x : rect.right] = True
    assert not (painted & ~covered).any()


def test_many_changes_are_not_joined_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    damage = Damage([Rect(3 * n, 5, 1, 1) for n in range(RECTS_MAX)])
    monkeypatch.setattr(Damage, "_nearest", lambda damage, rect: pytest.fail("it takes the time of a sound's cycle"))
    damage.add_all(Rect(3 * n, 9, 1, 1) for n in range(RECTS_MAX))
    assert len(damage.rects) == RECTS_MAX
    damage.take()
    damage.add_all(Rect(3 * n, 9, 1, 1) for n in range(MANY - 1))
    assert len(damage.rects) == MANY - 1


def test_what_lies_beyond_others_is_exact_for_few_and_never_too_little() -> None:
    rng = random.Random(4)

    def some(count: int) -> list[Rect]:
        return [
            Rect(rng.randrange(60), rng.randrange(60), rng.randint(1, 30), rng.randint(0, 30)) for _ in range(count)
        ]

    def mask(rects: list[Rect]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        out = np.zeros((96, 96), np.bool_)
        for rect in rects:
            out[rect.y : rect.bottom, rect.x : rect.right] = True
        return out

    for count, others in ((1, 1), (2, 3), (3, 0), (2, OTHERS_MAX), (80, 4), (3, 200)):
        for _ in range(20):
            rects, taken = some(count), some(others)
            left, wanted = mask(beyond(rects, taken)), mask(rects) & ~mask(taken)
            assert (left | wanted == left).all() and len(beyond(rects, taken)) <= RECTS_MAX
            if count <= 3 and others <= 3:
                assert (left == wanted).all()
    whole = Rect(0, 0, 9, 9)
    assert beyond([whole], [whole]) == [] and beyond([whole], []) == [whole]
