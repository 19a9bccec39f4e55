"""The canvas that doors paint on: it shows what was painted, and damage is what differs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.doors.canvas import BAND_PIXELS, Canvas
from millrace.errors import GraphError
from millrace.graph.model import Ids
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.pixels.rects import Rect, Size
from millrace.rights.model import OWNER
from tests.qemuconsole import MIB, Rig, noise


def done(steps: Iterator[None]) -> int:
    """Run steps to their end; how many there were."""
    return sum(1 for _ in steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(129, 300), st.integers(129, 200), st.lists(st.tuples(*[st.integers(0, 300)] * 4), max_size=6))
def test_canvas_shows_what_was_painted_whatever_is_compared(
    width: int, height: int, parts: list[tuple[int, int, int, int]]
) -> None:
    screens = Screens("alice", Ids(), Budget())
    rig = Rig()
    screen = screens.add(rig.door, "x", "door/1")
    canvas, truth = Canvas(screen), noise(width, height)
    done(canvas.replace(Size(width, height), truth, 0))
    canvas.publish(0)
    reader = screen.read(Watcher("viewer/1", OWNER))
    seen = np.zeros_like(truth)
    for seed, (x, y, wide, high) in enumerate(parts):
        at = Rect(x, y, wide, high).common(canvas.whole)
        if not at.area:
            continue
        rows = truth[at.y : at.bottom, at.x : at.right].copy()
        rows[: 1 + seed] = noise(at.width, min(1 + seed, at.height), seed)
        truth[at.y : at.bottom, at.x : at.right] = rows
        done(canvas.paint(at, rows))
        canvas.publish(seed)
        picture = reader.take(10**9 * (seed + 1))
        if picture is not None:
            for rect in picture.damage:
                seen[rect.y : rect.bottom, rect.x : rect.right] = truth[rect.y : rect.bottom, rect.x : rect.right]
            picture.release()
            assert (seen == truth).all()
    assert screen.memory is not None and (screen.memory.picture == truth).all()


def test_distant_changes_of_a_large_part_are_a_box_in_each_band() -> None:
    canvas = Canvas(Rig().screen)
    picture = noise(1024, 512)
    done(canvas.replace(Size(1024, 512), picture, 0))
    canvas.publish(0)
    reader = canvas.screen.read(Watcher("viewer/1", OWNER))
    first = reader.take(10**9)
    assert first is not None
    first.release()
    high = BAND_PIXELS // 1024
    for y in (3, 3 + 4 * high):
        picture[y, 500 + y] ^= 255
    done(canvas.paint(canvas.whole, picture))
    canvas.publish(1)
    second = reader.take(2 * 10**9)
    assert second is not None and set(second.damage) == {Rect(503, 3, 1, 1), Rect(503 + 4 * high, 3 + 4 * high, 1, 1)}


def test_canvas_without_room_changes_nothing() -> None:
    rig = Rig(limit=MIB)
    canvas = Canvas(rig.screen)
    done(canvas.replace(Size(100, 100), noise(100, 100), 0))
    held = rig.budget.held
    with pytest.raises(GraphError):
        done(canvas.show(Size(1000, 1000), 0))
    assert rig.budget.held == held and canvas.size == Size(100, 100) and (rig.shown() == noise(100, 100)).all()
