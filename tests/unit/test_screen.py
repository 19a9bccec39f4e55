"""Screen ports: each rule of graph/screen.py. A reader that applies all updates has the painted picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import BudgetError, GraphError, RightsError
from millrace.graph.pictures import MOVES_MAX, Cursor, KeyPress, Mode, Move, Overlay, Shape
from millrace.graph.screen import READERS_MAX, SHAPES_MAX
from millrace.graph.screenfacts import MODES_SHOWN_NS
from millrace.graph.seat import Watcher
from millrace.pixels.convert import PixelFormat, Plane, blank, convert
from millrace.pixels.rects import Point, Rect, Size
from millrace.rights.model import OWNER
from tests.gops import WATCHER
from tests.paintedscreen import HEIGHT, MODE, RECTS, WIDTH, Painter, Viewer, painter


def test_reader_gets_whole_picture_then_its_own_damage() -> None:
    own = painter()
    slow, quick = Viewer(own.screen.read(WATCHER)), Viewer(own.screen.read(WATCHER))
    assert [view.take() is not None for view in (slow, quick)] == [True, True]
    assert slow.take() is None and slow.taken[0].damage == (MODE.whole,)
    first, second = Rect(0, 0, 2, 2), Rect(8, 8, 2, 2)
    own.screen.painted([own.fill(first)], 1)
    quick.take()
    own.screen.painted([own.fill(second)], 2)
    slow.take(), quick.take()
    assert (slow.taken[-1].damage, quick.taken[-1].damage) == ((first, second), (second,))
    assert (slow.taken[-1].serial, slow.taken[-1].painted_ns) == (3, 2)
    assert np.array_equal(slow.canvas, own.picture) and np.array_equal(quick.canvas, own.picture)


def test_moves_are_sent_only_to_readers_of_previous_picture() -> None:
    own = painter()
    views = [Viewer(own.screen.read(WATCHER)) for _ in range(3)]
    follows, skips, reads = views
    for view in views:
        view.take()
    move = Move(Rect(0, 0, WIDTH, HEIGHT - 4), 0, -4)
    new = Rect(0, HEIGHT - 4, WIDTH, 4)
    own.screen.painted([own.fill(MODE.whole)], 1)
    follows.take()
    reads.hold()
    own.move(move)
    own.screen.painted([own.fill(new)], 2, [move])
    follows.take(), skips.take(), reads.done(), reads.take()
    assert follows.taken[-1].moves == (move,) and follows.taken[-1].damage == (new,)
    assert skips.taken[-1].moves == () == reads.taken[-1].moves
    assert all(np.array_equal(view.canvas, own.picture) for view in views)
    own.move(move)
    own.screen.painted([own.fill(new)], 3, [move])
    own.screen.painted([own.fill(Rect(0, 0, 1, 1))], 4)
    follows.take()
    assert follows.taken[-1].moves == () and np.array_equal(follows.canvas, own.picture)


@pytest.mark.parametrize("move", [Move(Rect(0, 0, 8, 8), 4, 0), Move(Rect(0, 0, WIDTH, HEIGHT + 1), 0, 0)])
def test_move_across_screen_edge_is_damage(move: Move) -> None:
    own = painter()
    view = Viewer(own.screen.read(WATCHER))
    view.take()
    own.fill(Rect(0, 0, 8, 8))
    own.screen.painted([], 1, [move])
    view.take()
    assert view.taken[-1].moves == () and np.array_equal(view.canvas, own.picture)


def test_too_many_moves_become_damage() -> None:
    own = painter()
    view = Viewer(own.screen.read(WATCHER))
    view.take()
    own.screen.painted([], 1, [Move(Rect(0, 0, 1, 1), 0, 0)] * (MOVES_MAX + 1))
    picture = view.take()
    assert picture is not None and (picture.moves, picture.damage) == ((), (Rect(0, 0, 1, 1),))


def test_picture_keeps_memory_and_mode_until_released() -> None:
    own = painter()
    own.fill(MODE.whole)
    reader = own.screen.read(WATCHER)
    picture = reader.take(0)
    assert picture is not None
    before = bytes(picture.pixels)
    own.step = 7
    own.mode()
    assert own.freed == [] and picture.mode == MODE and bytes(picture.pixels) == before
    assert own.budget.shares()["screen"] > 2 * MODE.bytes
    assert reader.take(0) is None and reader.next_timeout() is None
    with pytest.raises(TypeError):
        picture.pixels[0] = 1
    picture.release()
    picture.release()
    assert own.freed == [0] and own.budget.shares()["screen"] < 2 * MODE.bytes + 8 * 1024
    again = reader.take(0)
    assert again is not None and again.damage == (MODE.whole,)
    own.screen.end()
    assert own.freed == [0] and reader.ended
    again.release()
    assert own.freed == [0, 7] and own.budget.held == 0
    own.screen.end()
    for late in (own.mode, lambda: own.screen.read(WATCHER)):
        with pytest.raises(GraphError, match="has ended"):
            late()
    assert own.budget.held == 0


def test_reader_that_never_releases_keeps_memory_of_one_mode() -> None:
    own = painter()
    stuck = own.screen.read(WATCHER)
    assert stuck.take(0)
    for own.step in range(1, 50):
        own.mode()
    assert len(own.freed) == 48 and own.budget.held < 2 * MODE.bytes + 32 * 1024


def test_invalid_or_unaffordable_mode_is_refused_and_old_one_stays() -> None:
    own = Painter(limit=100 * 1024)
    own.mode()
    big = Mode(200, 200, 800)
    with pytest.raises(BudgetError):
        own.screen.set_mode(big, memoryview(bytearray(big.bytes)), 0)
    for mode, words in [
        (Mode(24, 16, 95), "95 a row"),
        (Mode(24, 17, 96), "in 1536 bytes"),
        (Mode(0, 16, 96), "a screen of 0"),
        (Mode(20_000, 16, 80_000), "16384 at most"),
        (Mode(24, 16, 96, "rgb565"), "use bgrx"),
    ]:
        with pytest.raises(GraphError, match=words):
            own.screen.set_mode(mode, memoryview(bytearray(MODE.bytes)), 0)
    assert own.screen.memory is not None and own.screen.memory.mode == MODE and own.freed == []


def test_new_mode_has_no_overlays() -> None:
    own = painter()
    view = Viewer(own.screen.read(WATCHER))
    own.screen.painted([], 1, overlays=[Overlay("film", Rect(0, 0, 4, 4))])
    own.mode()
    picture = view.take()
    assert picture is not None and picture.overlays == ()
    assert [told for told in own.told if isinstance(told, frozenset)] == [frozenset({"film"}), frozenset()]


def test_screen_readers_are_limited() -> None:
    own = painter()
    for _ in range(READERS_MAX):
        own.screen.read(WATCHER)
    with pytest.raises(GraphError, match="already has 256 readers"):
        own.screen.read(WATCHER)
    assert len(own.screen.readers) == READERS_MAX


def test_overlays_come_with_picture_and_composing_reader_gets_no_damage_below() -> None:
    own = painter()
    whole, composes = Viewer(own.screen.read(WATCHER)), Viewer(own.screen.read(WATCHER, leave_out=frozenset({"film"})))
    film = Overlay("film", Rect(4, 4, 8, 8))
    own.screen.painted([own.fill(film.at)], 1, overlays=[film])
    assert own.told[-1] == frozenset({"film"})
    for view in (whole, composes):
        view.take()
    own.screen.painted([own.fill(Rect(5, 5, 2, 2))], 2)
    pictures = [view.take() for view in (whole, composes)]
    assert [picture and picture.damage for picture in pictures] == [(Rect(5, 5, 2, 2),), ()]
    assert [picture and picture.overlays for picture in pictures] == [(film,), (film,)]
    moved = Overlay("film", Rect(6, 4, 8, 8))
    own.screen.painted([own.fill(moved.at)], 3, overlays=[moved])
    composes.take()
    assert np.array_equal(composes.canvas[4:12, 4:6], own.picture[4:12, 4:6])
    own.screen.painted([], 4, overlays=[])
    composes.take()
    assert np.array_equal(composes.canvas, own.picture)


def test_source_paints_overlays_that_some_reader_can_not_compose() -> None:
    own = painter()
    both, one = frozenset({"film", "camera"}), frozenset({"film"})
    first = own.screen.read(WATCHER, leave_out=both)
    own.screen.painted([], 1, overlays=[Overlay("film", Rect(0, 0, 2, 2)), Overlay("camera", Rect(4, 4, 2, 2))])
    second = own.screen.read(WATCHER, leave_out=one)
    second.set_leave_out(both)
    third = own.screen.read(WATCHER)
    third.end()
    assert [told for told in own.told if isinstance(told, frozenset)] == [both - one, frozenset(), both, frozenset()]
    first.end()


def test_cursor_causes_no_damage_and_its_pixels_are_requested_by_number() -> None:
    own = painter()
    view = Viewer(own.screen.read(WATCHER))
    view.take()
    with pytest.raises(GraphError, match="never defined"):
        own.screen.set_cursor(Cursor(3, shown=True))
    shape = Shape(3, Size(2, 1), bytes(8))
    own.screen.define_shape(shape)
    own.screen.set_cursor(Cursor(3, at=Point(5, 5), shown=True))
    picture = view.take()
    assert picture is not None and (picture.damage, picture.cursor.at) == ((), Point(5, 5))
    assert own.screen.shape(3) == shape and view.take() is None
    own.screen.painted([own.fill(MODE.whole)], 1, [])
    own.screen.set_cursor(Cursor(3, at=Point(6, 5), shown=True))
    own.screen.painted([], 2)
    assert view.take() is not None and view.take() is None
    for number in range(10, 10 + SHAPES_MAX):
        own.screen.define_shape(Shape(number, Size(1, 1), bytes(4)))
    assert own.screen.shape(3) == shape and own.screen.shape(10) is None
    for bad in (Shape(1, Size(0, 1), b""), Shape(1, Size(2, 2), bytes(15)), Shape(1, Size(513, 1), bytes(513 * 4))):
        with pytest.raises(GraphError, match="a cursor of"):
            own.screen.define_shape(bad)


def test_only_keyboard_holder_types_points_and_resizes() -> None:
    own = painter()
    other = Watcher("listener/2", OWNER)
    mine, theirs = own.screen.read(WATCHER), own.screen.read(other)
    own.seat.take(WATCHER)
    own.told.clear()
    mine.key(KeyPress(30, True))
    mine.pointer(Point(1, 2), 1, False)
    mine.wish_size(Size(800, 600))
    assert own.told == [(30, True), (Point(1, 2), 1, False), Size(800, 600)]
    for act in (lambda: theirs.key(KeyPress(30, True)), lambda: theirs.wish_size(Size(1, 1))):
        with pytest.raises(RightsError, match="listener/2 only watches"):
            act()


def test_picture_is_converted_once_for_all_readers_where_it_changed() -> None:
    asked: list[tuple[Rect, ...]] = []
    own = painter()

    def noted(picture: Plane, planes: object, changed: object) -> None:
        asked.append(tuple(changed))  # type: ignore[call-overload]
        convert(picture, planes, asked[-1])  # type: ignore[arg-type]

    own.screen.convert = noted  # type: ignore[assignment]
    own.fill(MODE.whole)
    readers = [own.screen.read(WATCHER) for _ in range(3)]
    planes = []
    for rect in (MODE.whole, Rect(3, 3, 4, 4)):
        own.screen.painted([own.fill(rect)], 1)
        for reader in readers:
            picture = reader.take(0)
            assert picture is not None
            planes.append(picture.converted(PixelFormat.NV12))
            picture.release()
    assert asked == [(MODE.whole,), (Rect(3, 3, 4, 4),)] and all(held is planes[0] for held in planes)
    fresh = blank(PixelFormat.NV12, Size(WIDTH, HEIGHT))
    convert(own.picture, fresh, [MODE.whole])
    assert all(np.array_equal(a, b) for a, b in zip(planes[0].planes, fresh.planes, strict=True))


@pytest.mark.parametrize("to", list(PixelFormat))
def test_known_colours_are_converted_by_bt_601(to: PixelFormat) -> None:
    colours = {
        (0, 0, 0): (16, 128, 128),
        (255, 255, 255): (235, 128, 128),
        (0, 0, 255): (82, 90, 240),
        (255, 0, 0): (41, 240, 110),
    }
    for bgr, (luma, blue, red) in colours.items():
        planes = blank(to, Size(5, 3))
        convert(np.full((3, 5, 4), (*bgr, 0), np.uint8), planes, [Rect(0, 0, 5, 3)])
        assert abs(int(planes.planes[0][2, 4]) - luma) <= 1
        if to is PixelFormat.I420:
            assert abs(int(planes.planes[1][1, 2]) - blue) <= 1 and abs(int(planes.planes[2][1, 2]) - red) <= 1
        elif to is PixelFormat.NV12:
            assert np.abs(planes.planes[1][1, 2].astype(int) - (blue, red)).max() <= 1


MOVES = st.builds(
    lambda to, dx, dy: Move(to, max(to.right - WIDTH, min(dx, to.x)), max(to.bottom - HEIGHT, min(dy, to.y))),
    RECTS, st.integers(-8, 8), st.integers(-8, 8),
)  # fmt: skip
OVERLAYS = st.lists(st.builds(Overlay, st.sampled_from(["film", "camera"]), RECTS), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("paint"), st.lists(RECTS, max_size=3), st.lists(MOVES, max_size=2), st.none() | OVERLAYS),
    st.tuples(st.sampled_from(["take", "hold", "done"]), st.integers(0, 2)),
    st.tuples(st.just("leave_out"), st.integers(0, 2), st.frozensets(st.sampled_from(["film", "camera"]))),
    st.tuples(st.sampled_from(["mode", "cursor"])),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_reader_applying_all_updates_has_the_painted_picture(steps: list[tuple[object, ...]]) -> None:
    own = painter()
    own.screen.define_shape(Shape(0, Size(1, 1), bytes(4)))
    views = [Viewer(own.screen.read(WATCHER)) for _ in range(3)]
    for name, *values in steps:
        if name == "paint":
            rects, moves, overlays = values
            moved = [own.move(move) for move in moves]  # type: ignore[attr-defined]
            own.screen.painted([own.fill(rect) for rect in rects], own.step, moved, overlays)  # type: ignore[arg-type,attr-defined]
        elif name == "mode":
            own.mode()
        elif name == "cursor":
            own.screen.set_cursor(Cursor(at=Point(own.step, 0), shown=True))
        elif name == "leave_out":
            views[values[0]].reader.set_leave_out(values[1])  # type: ignore[index,arg-type]
        else:
            getattr(views[values[0]], str(name))()  # type: ignore[index]
    for view in views:
        view.done()
        view.take(MODES_SHOWN_NS)
        leave_out = np.zeros((HEIGHT, WIDTH), bool)
        for overlay in own.screen.overlays:
            if overlay.track in view.reader.leave_out:
                leave_out[overlay.at.y : overlay.at.bottom, overlay.at.x : overlay.at.right] = True
        assert np.array_equal(view.canvas[~leave_out], own.picture[~leave_out])
    own.screen.end()
    assert own.budget.held == 0


def test_composing_reader_gets_moves_out_of_overlay_as_damage() -> None:
    own = painter()
    composes = Viewer(own.screen.read(WATCHER, leave_out=frozenset({"film"})))
    film = Overlay("film", Rect(0, 0, 8, 8))
    own.screen.painted([], 1, overlays=[film])
    composes.take()
    own.screen.painted([own.fill(film.at)], 2)
    composes.take()
    move = own.move(Move(Rect(8, 8, 8, 8), 8, 8))
    own.screen.painted([], 3, [move])
    composes.take()
    assert composes.taken[-1].moves == () and np.array_equal(composes.canvas[8:, 8:], own.picture[8:, 8:])


def test_overlay_across_screen_edge_damages_screen_only() -> None:
    own = painter()
    composes = Viewer(own.screen.read(WATCHER, leave_out=frozenset({"film"})))
    composes.take()
    for at in (Rect(-10, -10, 14, 14), Rect(WIDTH - 4, HEIGHT - 4, 10, 10), Rect(WIDTH + 1, 0, 5, 5)):
        own.screen.painted([], 1, overlays=[Overlay("film", at)])
        composes.take()
        own.screen.painted([], 2, overlays=[])
        picture = composes.take()
        part = at.common(Rect(0, 0, WIDTH, HEIGHT))
        assert picture is not None and picture.damage == ((part,) if part.area else ())


def test_composing_reader_gets_moves_out_of_a_vanishing_overlay_as_damage() -> None:
    own = painter()
    composes = Viewer(own.screen.read(WATCHER, leave_out=frozenset({"film"})))
    film = Overlay("film", Rect(0, 0, 8, 8))
    own.screen.painted([], 1, overlays=[film])
    composes.take()
    own.screen.painted([own.fill(film.at)], 2)
    composes.take()
    own.screen.painted([], 3, [own.move(Move(Rect(8, 8, 8, 8), 8, 8))], overlays=[])
    composes.take()
    assert composes.taken[-1].moves == () and np.array_equal(composes.canvas, own.picture)


def test_picture_is_due_when_a_reader_composes_less_than_before() -> None:
    own = painter()
    reads = Viewer(own.screen.read(WATCHER, leave_out=frozenset({"film"})))
    film = Overlay("film", Rect(0, 0, 8, 8))
    own.screen.painted([], 1, overlays=[film])
    own.screen.painted([own.fill(film.at)], 2)
    reads.take()
    reads.reader.set_leave_out(frozenset())
    assert reads.reader.next_timeout() == 0 and reads.take() is not None
    assert reads.taken[-1].damage == (film.at,) and np.array_equal(reads.canvas, own.picture)
