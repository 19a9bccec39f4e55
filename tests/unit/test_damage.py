"""Damage: few rectangles cover all that changed, and many changes take little time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.pixels.rects import MANY, RECTS_MAX, Damage, Rect
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
