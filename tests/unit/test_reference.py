"""The copy of what viewers were sent: it is what the source shows, whatever was painted; scrolls are found cheaply."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.outlets import reference
from millrace.outlets.cells import CellMap
from millrace.outlets.picturecost import scaled
from millrace.outlets.reference import Reference
from millrace.outlets.scaled import Scaled
from millrace.pixels.convert import Plane
from millrace.pixels.difference import CELL, Difference, in_cells, part_of
from millrace.pixels.rects import Move, Rect, Size
from tests.painting import blank_screen, glyphs, photo

SIZE, WINDOW = Size(960, 640), Rect(64, 40, 800, 560)
WHOLE = Rect(0, 0, SIZE.width, SIZE.height)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pixels of each comparison of large rectangles."""
    found: list[int] = []
    inner = Difference._compared

    def spy(self, old, new, rows, columns):  # type: ignore[no-untyped-def]
        found.append((rows.stop - rows.start) * (columns.stop - columns.start) * CELL * CELL)
        return inner(self, old, new, rows, columns)

    monkeypatch.setattr(Difference, "_compared", spy)
    return found


class Page:
    """A screen with a page of text, and the copy of it."""

    def __init__(self) -> None:
        self.picture: Plane = blank_screen(SIZE)
        self.line = 0
        glyphs(self.picture, WINDOW, 1)
        self.copy = Reference(SIZE, CellMap(SIZE), None)
        self.copy.take(self.picture, [WHOLE], [], 0)

    def scroll(self, window: Rect = WINDOW, rows: int = 36) -> None:
        """Scroll without saying so."""
        self.line += 1
        part = part_of(self.picture, window)
        part[:-rows] = part[rows:].copy()
        glyphs(self.picture, Rect(window.x, window.bottom - rows, window.width, rows), 100 + self.line)

    def take(self, *damage: Rect) -> tuple[list[Move], list[Rect]]:
        out = self.copy.take(self.picture, damage or [WINDOW], [], self.line)
        assert np.array_equal(self.copy.picture, self.picture)
        return out


def test_page_that_scrolls_again_is_compared_once(compared: list[int]) -> None:
    page, counts = Page(), []
    for _ in range(4):
        page.scroll()
        compared.clear()
        moves, boxes = page.take()
        assert {(move.dx, move.dy) for move in moves} == {(0, -36)}
        assert sum(box.area for box in boxes) < 0.2 * WINDOW.area, "what came in is told, no more"
        counts.append(sum(compared))
    assert counts[0] > 1.8 * WINDOW.area and max(counts[1:]) < 1.3 * WINDOW.area


def test_other_changes_beside_a_page_that_scrolls_again_are_found() -> None:
    page = Page()
    for number in range(4):
        page.scroll()
        glyphs(page.picture, Rect(8, 8, 40, 24), number)
        part_of(page.picture, Rect(900, 300, 50, 90))[:] = 40 * number
        moves, boxes = page.take(WHOLE)
        assert len(moves) == 1
        if number > 1:
            assert any(box.x >= 880 for box in boxes) and any(box.right <= 64 for box in boxes)


def test_page_that_became_narrower_is_found_anew() -> None:
    page, narrow = Page(), Rect(464, 40, 400, 560)
    for _ in range(3):
        page.scroll()
        page.take()
    for _ in range(4):
        page.scroll(narrow)
        moves, boxes = page.take()
        assert sum(box.area for box in boxes) < 0.2 * narrow.area, "what stands still is not sent"
        assert [move.to.x >= 464 for move in moves] == [True]


def test_page_that_became_wider_is_found_anew() -> None:
    page, narrow = Page(), Rect(464, 40, 400, 560)
    for _ in range(3):
        page.scroll(narrow)
        page.take()
    for _ in range(3):
        page.scroll()
        moves, _ = page.take()
    assert moves[0].to.x < 90 and moves[0].to.width > 700


def test_film_is_seldom_searched_and_a_page_in_its_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    page, searched = Page(), list[int]()
    inner = reference.scrolled
    monkeypatch.setattr(reference, "scrolled", lambda *args: (searched.append(page.line), inner(*args))[1])
    for number in range(1, 41):
        page.line = number
        photo(page.picture, WINDOW, number)
        page.take()
    assert searched == [1, 2, 3, 4, 8, 16, 24, 32, 40]
    glyphs(page.picture, WINDOW, 1)
    page.take()
    moves = []
    for _ in range(9):
        page.scroll()
        moves.append(page.take()[0])
    assert moves[-1] and [bool(move) for move in moves] == sorted(bool(move) for move in moves), "found, and ever after"


@pytest.mark.parametrize("scale", [1, 0.5])
def test_copy_is_the_source_whatever_scrolls(scale: float) -> None:
    random = np.random.default_rng(5)
    picture, made = blank_screen(SIZE), scaled(SIZE, scale)
    glyphs(picture, WHOLE, 1)
    copy = Reference(made, CellMap(made), Scaled(made, scale) if scale != 1 else None)
    copy.take(picture, [WHOLE], [], 0)
    window, moved = WINDOW, 0
    for number in range(60):
        if random.random() < 0.2:
            x, y = (int(v) for v in random.integers(0, (300, 200)))
            window = Rect(x, y, int(random.integers(260, 960 - x)), int(random.integers(260, 640 - y)))
        rows = int(random.integers(1, 60)) * int(random.choice((-1, 1)))
        part = part_of(picture, window)
        part[:] = np.roll(part, rows, axis=0)
        glyphs(picture, Rect(window.x, window.y, 64, 40), number)
        rects = [WHOLE] if random.random() < 0.3 else [window]
        moves, boxes = copy.take(picture, rects, [], number)
        moved += len(moves)
        whole = Rect(0, 0, made.width, made.height)
        assert all(whole.holds(rect) for rect in (*boxes, *(move.to for move in moves)))
        fresh = Reference(made, CellMap(made), Scaled(made, scale) if scale != 1 else None)
        fresh.take(picture, [WHOLE], [], 0)
        assert np.array_equal(copy.picture, fresh.picture)
    assert moved > 20


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Rect]:
    """The places that were searched for scrolls."""
    found: list[Rect] = []
    inner = reference.scrolled

    def spy(old: Plane, new: Plane, box: Rect) -> Move | None:
        found.append(box)
        return inner(old, new, box)

    monkeypatch.setattr(reference, "scrolled", spy)
    return found


def test_place_that_was_not_painted_is_not_searched_again(searched: list[Rect]) -> None:
    page, beside = Page(), Rect(64, 40, 800, 300)
    page.scroll()
    page.take()
    searched.clear()
    glyphs(page.picture, beside, 5)
    page.take(beside)
    assert not any(box.height > beside.height for box in searched)
    page.scroll()
    searched.clear()
    page.take()
    assert searched, "nothing is known of the place any more"


def test_what_comes_in_with_a_scroll_is_not_searched(searched: list[Rect]) -> None:
    """It may be large, and was nowhere before."""
    page = Page()
    for _ in range(3):
        page.scroll(rows=180)
        searched.clear()
        moves, _ = page.take()
        assert len(moves) == 1
    assert len(searched) == 1


def test_scroll_of_a_small_part_of_a_place_is_what_is_looked_for_next() -> None:
    page, part = Page(), Rect(64, 348, 800, 252)
    for _ in range(2):
        page.scroll()
        page.take()
    assert page.copy._scrolling is not None and page.copy._scrolling.area > 0.9 * WINDOW.area
    page.scroll(part, 18)
    page.take()
    assert page.copy._scrolling is not None and page.copy._scrolling.area <= part.area


def test_what_has_moved_has_changed() -> None:
    """It is sharpened when it stands still again, and a place that moves often is not sent exactly at once."""
    page = Page()
    for _ in range(3):
        page.scroll()
        moves, _ = page.take()
    assert moves and all((page.copy._cells.changed_ns[in_cells(move.to)] == page.line).all() for move in moves)


def test_moves_of_the_source_are_told_however_little_was_painted() -> None:
    page = Page()
    said = Move(Rect(64, 40, 60, 20), 0, -36)
    part_of(page.picture, said.to)[:] = part_of(page.picture, said.origin).copy()
    moves, boxes = page.copy.take(page.picture, [], [said], 1)
    assert (moves, boxes) == ([said], []) and np.array_equal(page.copy.picture, page.picture)
