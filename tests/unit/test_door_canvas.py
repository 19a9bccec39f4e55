"""The canvas that doors paint on: it shows what was painted, and damage is what differs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.doors.canvas import BAND_PIXELS, JOINED_CELLS, Canvas, few_around
from millrace.errors import GraphError
from millrace.graph.model import Ids
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.pixels.difference import Cells, joined
from millrace.pixels.rects import RECTS_MAX, Rect, Size
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


@pytest.mark.parametrize(("size", "cells"), [
    (Size(1920, 1080), (68, 120)), (Size(3840, 2160), (68, 120)), (Size(7680, 4320), (68, 120)),
    (Size(7_677, 4_317), (68, 120)), (Size(16_384, 16_384), (64, 64)), (Size(16_384, 40), (3, 1024)),
])  # fmt: skip
def test_small_parts_are_joined_in_as_few_steps_on_a_large_screen(
    size: Size, cells: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on the event loop: on 7680 × 4320 it took 14 ms by cells of 16 × 16 pixels."""

    def noted(cells: Cells, *gap: int) -> tuple[Rect, ...]:
        shapes.append(cells.shape)
        return joined(cells, *gap)

    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr("millrace.doors.canvas.joined", noted)
    random = np.random.default_rng(1)
    spots = random.integers(0, (size.width - 9, size.height - 16), (300, 2))
    small = [Rect(int(x), int(y), 9, 16) for x, y in spots]
    whole = Rect(0, 0, size.width, size.height)
    found = few_around(small, whole)
    assert shapes == [cells] and cells[0] * cells[1] <= JOINED_CELLS and len(found) <= RECTS_MAX
    assert all(whole.holds(rect) for rect in found)
    covered = np.zeros((-(-size.height // 8), -(-size.width // 8)), np.bool_)
    for rect in found:
        covered[rect.y // 8 : -(-rect.bottom // 8), rect.x // 8 : -(-rect.right // 8)] = True
    assert all(covered[one.y // 8 : -(-one.bottom // 8), one.x // 8 : -(-one.right // 8)].all() for one in small)
    for near in ([Rect(0, 0, 9, 16)] * 20, [Rect(size.width - 9, size.height - 16, 9, 16)] * 20):
        (box,) = few_around(near, whole)
        assert box.holds(near[0]) and box.width <= size.width // cells[1] + 16


def test_canvas_without_room_changes_nothing() -> None:
    rig = Rig(limit=MIB)
    canvas = Canvas(rig.screen)
    done(canvas.replace(Size(100, 100), noise(100, 100), 0))
    held = rig.budget.held
    with pytest.raises(GraphError):
        done(canvas.show(Size(1000, 1000), 0))
    assert rig.budget.held == held and canvas.size == Size(100, 100) and (rig.shown() == noise(100, 100)).all()
