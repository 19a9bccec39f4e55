"""What changed between two pictures, and what scrolled: no pixel is missed, whatever was painted."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.pixels.convert import Plane
from millrace.pixels.difference import CELL, Difference, cells_of, from_cells, in_cells, joined, part_of
from millrace.pixels.rects import RECTS_MAX, Move, Rect, Size
from millrace.pixels.scroll import BAND, SCROLL_PIXELS_MIN, apply_move, grouped, hashes, scrolled

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 70))


def noise(width: int, height: int, seed: int = 0) -> Plane:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


def painted(picture: Plane, rect: Rect, seed: int) -> Plane:
    """A copy of the picture with other pixels in each place of the rectangle."""
    out = picture.copy()
    part_of(out, rect)[:] += np.random.default_rng(seed).integers(1, 256, (rect.height, rect.width, 4), np.uint8)
    return out


@st.composite
def changes(draw: st.DrawFn) -> tuple[Size, list[Rect]]:
    width, height = draw(SIZES)
    rects = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        rects.append(Rect(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))))
    return Size(width, height), rects


@settings(max_examples=150, deadline=None)
@given(changes())
def test_boxes_cover_each_pixel_that_differs(change: tuple[Size, list[Rect]]) -> None:
    size, rects = change
    old = noise(size.width, size.height)
    new = old
    for seed, rect in enumerate(rects):
        new = painted(new, rect, seed)
    difference = Difference(size)
    # Twice: nothing of the first comparison is left in the second.
    difference.boxes(old, np.invert(old), [difference.whole])
    boxes = difference.boxes(old, new, [difference.whole])
    after = old.copy()
    for box in boxes:
        assert difference.whole.holds(box) and box.area
        part_of(after, box)[:] = part_of(new, box)
    assert np.array_equal(after, new)
    assert len(boxes) <= RECTS_MAX


@pytest.mark.parametrize("width", [64, 65])
def test_one_change_is_cut_to_its_pixels(width: int) -> None:
    old = noise(width, 48)
    for rect in (Rect(5, 7, 1, 1), Rect(4, 0, 9, 31), Rect(width - 1, 47, 1, 1), Rect(0, 0, width, 48)):
        assert Difference(Size(width, 48)).boxes(old, painted(old, rect, 1), [Rect(0, 0, width, 48)]) == [rect]


def test_only_reported_rectangles_are_compared() -> None:
    old = noise(320, 200)
    new = painted(painted(old, Rect(3, 3, 4, 4), 1), Rect(300, 180, 4, 4), 2)
    assert Difference(Size(320, 200)).boxes(old, new, [Rect(290, 170, 30, 30)]) == [Rect(300, 180, 4, 4)]
    assert Difference(Size(320, 200)).boxes(old, new, [Rect(100, 100, 30, 30), Rect(400, 0, 9, 9)]) == []


@settings(max_examples=100, deadline=None)
@given(changes(), changes())
def test_the_old_picture_is_brought_up_to_date_where_it_is_told(
    change: tuple[Size, list[Rect]], told: tuple[Size, list[Rect]]
) -> None:
    size, rects = change
    old = noise(size.width, size.height)
    new = old
    for seed, rect in enumerate(rects):
        new = painted(new, rect, seed)
    before = old.copy()
    boxes = Difference(size).take(old, new, told[1])
    for rect in told[1]:
        assert np.array_equal(part_of(old, rect), part_of(new, rect))
    for box in boxes:
        assert box.area and Rect(0, 0, size.width, size.height).holds(box)
        part_of(before, box)[:] = part_of(new, box)
    assert np.array_equal(before, old), "what differed is told, and nothing else has changed"


def test_a_letter_is_cut_to_its_pixels_and_what_is_scattered_is_divided() -> None:
    old, line = noise(640, 48), Rect(0, 16, 640, 18)
    letter, other = Rect(100, 18, 9, 14), Rect(600, 18, 9, 14)
    new = painted(old, letter, 1)
    assert Difference(Size(640, 48)).take(old.copy(), new, [line]) == [letter]
    assert Difference(Size(640, 48)).take(old.copy(), painted(new, other, 2), [line]) == [letter, other]


def test_rows_with_padding_are_compared() -> None:
    memory = noise(100, 60)
    old, new = memory[:, :70], painted(memory, Rect(60, 50, 30, 3), 1)[:, :70]
    assert Difference(Size(70, 60)).boxes(old, new, [Rect(0, 0, 70, 60)]) == [Rect(60, 50, 10, 3)]


def test_neighbouring_cells_are_joined_and_distant_ones_are_not() -> None:
    cells = np.zeros((40, 60), np.bool_)
    cells[2, 3:6] = cells[2, 8:10] = cells[3, 3:10] = True
    cells[30, 50] = True
    assert set(joined(cells)) == {Rect(3, 2, 7, 2), Rect(50, 30, 1, 1)}
    assert from_cells([Rect(50, 30, 1, 1)], Rect(0, 0, 810, 490)) == [Rect(800, 480, 10, 10)]
    assert cells_of(Size(CELL + 1, CELL)) == (1, 2) and in_cells(Rect(15, 16, 2, 1)) == (slice(1, 2), slice(0, 2))


def test_a_clock_is_not_joined_with_the_film_below_it() -> None:
    cells = np.zeros((45, 80), np.bool_)
    cells[7:30, 1:41] = cells[1:5, 2:10] = True
    assert set(joined(cells)) == {Rect(1, 7, 40, 23), Rect(2, 1, 8, 4)}


def test_holes_within_a_page_do_not_divide_it() -> None:
    cells = np.ones((24, 40), np.bool_)
    cells[4:20:4, 2:38] = False
    assert joined(cells) == (Rect(0, 0, 40, 24),)


def test_any_cells_are_covered_by_few_rectangles() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        cells = random.random((68 if seed else 900, 120)) < random.choice([0.01, 0.2, 0.9])
        rects = joined(cells)
        covered = np.zeros_like(cells)
        for rect in rects:
            covered[rect.y : rect.bottom, rect.x : rect.right] = True
        assert len(rects) <= RECTS_MAX and not (cells & ~covered).any()


def test_checkerboard_of_cells_is_not_made_into_numbers_one_by_one() -> None:
    """That would keep the interpreter from all other threads for as long: 65,000 runs on a screen of 7680 × 4320."""
    cells = np.indices(cells_of(Size(7680, 4320))).sum(0) % 2 == 0
    tracemalloc.start()
    try:
        rects = joined(cells, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rects) == 1 and peak < 10_000_000


def page(lines: int, seed: int, width: int = 600) -> Plane:
    """Lines of 18 rows, in each of which 6 are blank, as a page of text has them."""
    out = np.full((lines * 18, width, 4), 255, np.uint8)
    random = np.random.default_rng(seed)
    for line in range(lines):
        out[line * 18 + 6 : line * 18 + 18, 20 : width - 20] = random.integers(0, 2, (12, width - 40, 1)) * 200
    return out


@pytest.mark.parametrize("width", [500, 1800])
@pytest.mark.parametrize("distance", [-54, -7, 18, 200])
def test_scrolled_page_is_found_with_its_distance(distance: int, width: int) -> None:
    old = page(40, 1, width)
    new = np.roll(old, distance, axis=0)
    new[slice(distance, None) if distance < 0 else slice(0, distance)] = page(12, 2, width)[: abs(distance)]
    move = scrolled(old, new, Rect(0, 0, width, 720))
    assert move is not None and (move.dx, move.dy) == (0, distance)
    after = old.copy()
    apply_move(after, move)
    assert (after == new).all(axis=(1, 2)).mean() > (720 - abs(distance) - 40) / 720
    boxes = Difference(Size(width, 720)).boxes(after, new, [Rect(0, 0, width, 720)])
    for box in boxes:
        part_of(after, box)[:] = part_of(new, box)
    assert np.array_equal(after, new) and sum(box.area for box in boxes) < width * (abs(distance) + 60)


def test_nothing_scrolled_in_noise_flat_colour_or_a_small_box() -> None:
    assert scrolled(noise(600, 300), noise(600, 300, 1), Rect(0, 0, 600, 300)) is None
    flat = np.zeros((300, 600, 4), np.uint8)
    assert scrolled(flat, flat + 1, Rect(0, 0, 600, 300)) is None
    old = page(10, 1)
    assert scrolled(old, np.roll(old, 3, axis=0), Rect(0, 0, SCROLL_PIXELS_MIN // 180 - 2, 180)) is None


def test_window_dragged_aslant_is_no_scroll() -> None:
    """Each row has the same pixels as another had, but not in the same places."""
    old = np.zeros((400, 600, 4), np.uint8)
    new = old.copy()
    part_of(old, Rect(50, 50, 300, 200))[:] = part_of(new, Rect(62, 55, 300, 200))[:] = page(12, 1)[:200, 100:400]
    assert scrolled(old, new, Rect(40, 40, 400, 300)) is None


def test_overlapping_move_reads_before_it_writes() -> None:
    picture = noise(30, 30)
    before = picture.copy()
    apply_move(picture, Move(Rect(2, 3, 20, 20), 1, 2))
    assert np.array_equal(picture[3:23, 2:22], before[1:21, 1:21])


def test_boxes_near_each_other_are_searched_together() -> None:
    near = [Rect(0, 0, 100, 20), Rect(0, 60, 100, 20), Rect(0, 120, 100, 20)]
    assert grouped([near[0], near[2], near[1], Rect(900, 0, 9, 9)]) == [Rect(900, 0, 9, 9), Rect(0, 0, 100, 140)] or (
        sorted(grouped([near[0], near[2], near[1], Rect(900, 0, 9, 9)]), key=lambda r: r.x)
        == [Rect(0, 0, 100, 140), Rect(900, 0, 9, 9)]
    )


@pytest.mark.parametrize("bit", [0, 23, 31, 32, 55, 63])
def test_change_of_any_bit_of_a_row_changes_its_hash(bit: int) -> None:
    """A row is hashed by pairs of pixels; each counts in full, whatever its place."""
    pairs = 4 * BAND
    rows: Plane = np.zeros((pairs, 2 * pairs, 4), np.uint8)
    rows.reshape(pairs, -1).view(np.uint64)[np.arange(pairs), np.arange(pairs)] = np.uint64(1) << np.uint64(bit)
    assert hashes(rows, Rect(0, 0, 2 * pairs, pairs)).all()
