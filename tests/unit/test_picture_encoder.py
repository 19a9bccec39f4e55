"""The picture encoder on virtual time: viewers show what was painted after each step, exactly where that is due."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from millrace.budget import PROGRAMS, Budget
from millrace.codec.picturesettings import PictureSettings
from millrace.errors import BudgetError, CodecError
from millrace.graph.pictures import Cursor, Move, Shape
from millrace.outlets.line import QUEUED_MAX_NS, Line
from millrace.outlets.picturechoice import Formats, How, Room, choice, tiles
from millrace.outlets.pictures import KEY_INTERVAL_NS, PictureEncoder
from millrace.outlets.picturework import PROBE_BYTES, Task
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Point, Rect, Size
from millrace.pixels.scroll import apply_move
from millrace.sim.desktop import Desktop
from millrace.units import NS_PER_S
from millrace.wire.peer.pictures import PartType
from tests.gops import WATCHER
from tests.painting import blank_screen, glyphs, photo, steps
from tests.picturerig import SIZE, STEP_NS, Rig, View, shown

WHOLE = Rect(0, 0, 640, 400)
EXACT = {PartType.ZSTD, PartType.PALETTE}


def desktop(picture: Plane) -> None:
    glyphs(picture, Rect(0, 0, 400, 200), 3)
    photo(picture, Rect(400, 200, 240, 200), 4)


def started(size: Size = SIZE, formats: Formats | None = None, **settings: Any) -> tuple[Rig, View]:
    """A viewer that has the first picture."""
    rig = Rig(size, formats, **settings)
    desktop(rig.picture)
    view = rig.join(View((formats or Formats()).video or "avc1"))
    rig.settle()
    assert shown(view, rig)
    return rig, view


@pytest.mark.parametrize("kind", ["caret", "typing", "scroll", "drag"])
def test_desktop_is_exact_after_each_step_on_a_fast_line(kind: str) -> None:
    rig, view = started()
    begun = len(view.pictures)
    for rects in steps(kind, rig.picture, 5, 12):
        rig.paint(rects)
        assert shown(view, rig)
    assert view.types(begun) <= {*EXACT, PartType.MOVE}
    if kind == "scroll":
        assert PartType.MOVE in view.types(begun)
    if kind in ("caret", "typing"):
        assert view.bytes(begun) < 12 * 400


def handed_over(rig: Rig, rects: list[Rect]) -> bool:
    """Whether the next picture is made in another thread, not at once."""
    rig.screen.painted(rects, rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    there = bool(rig.waiting)
    rig.run(rig.now_ns + STEP_NS)
    rig.work()
    return there


def test_what_takes_no_time_is_made_at_once_and_all_else_in_another_thread() -> None:
    rig, view = started()
    rig.lane.at_once = True
    letter, window = Rect(20, 20, 9, 18), Rect(0, 0, 400, 200)
    for rect, elsewhere in ((letter, False), (window, True), (letter, False)):
        glyphs(rig.picture, rect, 7 + rig.screen.serial)
        assert handed_over(rig, [rect]) == elsewhere
        assert shown(view, rig)
    late = rig.join(View())
    glyphs(rig.picture, letter, 99)
    assert handed_over(rig, [letter]), "somebody lacks the whole picture"
    rig.settle()
    assert shown(view, rig) and shown(late, rig)


def test_no_video_and_no_sharpening_is_made_at_once() -> None:
    rig, view = started()
    rig.lane.at_once = True
    film = Rect(96, 96, 160, 160)
    there = []
    for seed in range(8):
        photo(rig.picture, film, seed)
        there.append(handed_over(rig, [film]))
    assert not there[0] and all(there[-3:])
    rig.now_ns += NS_PER_S
    assert handed_over(rig, [Rect(20, 20, 9, 18)]), "the film stands still by now"
    rig.settle()
    assert shown(view, rig)


def strips(size: Size) -> Rig:
    """A screen that takes more than half a megabyte."""
    rig = Rig(size, Formats(jpeg=False))
    for x in range(0, size.width, 200):
        photo(rig.picture, Rect(x, 0, 40, size.height), 3)
    return rig


def test_a_viewer_of_whose_line_nothing_is_known_is_sent_a_part_of_the_screen_first() -> None:
    rig = strips(Size(1280, 960))
    known, view = rig.join(View()), View()
    rig.settle()
    view.untried = True
    rig.join(view)
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    assert len(view.pictures) == 1 and view.bytes() < 1.5 * PROBE_BYTES < known.pictures[0].size
    begun_ns, view.untried = rig.now_ns, False
    rig.settle()
    assert view.times_ns[1] == begun_ns, "the rest follows as soon as its line is known"
    assert shown(view, rig)


def test_on_a_thin_line_only_what_surely_fits_is_made_at_once() -> None:
    rig, _ = started(picture=1_000_000)
    rig.lane.at_once = True
    for side, elsewhere in ((40, False), (120, True)):
        glyphs(rig.picture, Rect(0, 0, side, side), 7)
        assert handed_over(rig, [Rect(0, 0, side, side)]) == elsewhere


def test_grey_film_is_video_though_it_has_few_colours() -> None:
    source = Desktop(Size(720, 520), "film")
    rig = Rig(source.size)
    view = rig.join(View())
    rig.settle()
    for _ in range(14):
        rects = source.paint(rig.now_ns)
        rig.picture[:] = source.picture
        rig.paint(rects)
    assert all(PartType.VIDEO in {part.type for part in picture.parts} for picture in view.pictures[-4:])


def test_film_is_one_video_that_is_sharpened_when_it_stands_still() -> None:
    rig, view = started()
    rig.play("film", 14)
    film = view.pictures[-4:]
    assert all([part.type for part in picture.parts].count(PartType.VIDEO) == 1 for picture in film)
    assert all(part.type in (PartType.VIDEO, PartType.DRAW, *EXACT) for p in film for part in p.parts)
    assert view.canvas is not None and 25 < view.canvas.error(rig.picture) < 60
    keys = [p.key for p in view.pictures if any(part.type == PartType.VIDEO for part in p.parts)]
    assert keys[0] and not any(keys[1:])
    begun = len(view.pictures)
    rig.settle(0.3)
    assert PartType.JPEG in view.types(begun) and PartType.VIDEO not in view.types(begun)
    rig.settle(2)
    assert shown(view, rig), "photos are sent exactly when all is idle"
    begun = len(view.pictures)
    rig.settle(60)
    assert len(view.pictures) == begun and rig.encoder.next_timeout() is None, "nothing is sent while nothing changes"


def test_text_typed_beside_a_film_is_exact_at_once() -> None:
    rig, view = started()
    rig.play("film", 10)
    place = Rect(20, 370, 80, 18)
    for step in range(6):
        rig.screen.painted([glyphs(rig.picture, place, step)], rig.now_ns)
        rig.paint([photo(rig.picture, Rect(160, 100, 212, 132), 1, 20 + step)])
        assert view.canvas is not None
        assert np.array_equal(part_of(view.canvas.pixels, place)[:, :, :3], part_of(rig.picture, place)[:, :, :3])
    assert PartType.VIDEO in {part.type for part in view.pictures[-1].parts}


def test_slow_line_is_never_overfilled_and_ends_exact() -> None:
    rig, view = started(picture=2_000_000)
    line = Line(2_000_000)
    for kind in ("scroll", "film", "drag"):
        rig.play(kind, 15, seed=2)
    queued = []
    for picture, sent_ns in zip(view.pictures, view.times_ns, strict=True):
        queued.append(line.queued_ns(sent_ns))
        line.sent(picture.size, sent_ns)
    # A key picture may take longer than its share, and what comes after it waits.
    assert max(queued) <= QUEUED_MAX_NS and PartType.VIDEO in view.types() and EXACT & view.types()
    rig.settle(20)
    assert shown(view, rig)


def test_lossless_is_never_anything_else() -> None:
    rig, view = started(picture="lossless")
    rig.play("film", 12)
    rig.settle(1)
    assert shown(view, rig) and view.types() <= {*EXACT, PartType.MOVE}


@pytest.mark.parametrize(
    "formats",
    [Formats(None), Formats(None, False), Formats("vp8"), Formats("avc1", False, False), Formats(palette=False)],
)
def test_viewers_are_sent_only_what_they_can_show(formats: Formats) -> None:
    rig, view = started(formats=formats, picture=8_000_000)
    rig.play("film", 10)
    rig.play("scroll", 4)
    rig.settle(15)
    assert shown(view, rig)
    assert (PartType.VIDEO in view.types()) == (formats.video is not None)
    assert formats.jpeg or PartType.JPEG not in view.types()
    assert formats.zstd or not EXACT & view.types()
    assert (PartType.PALETTE in view.types()) == (formats.zstd and formats.palette)


def test_viewer_that_was_not_ready_gets_what_it_lacks_from_the_newest_picture() -> None:
    rig, quick = started()
    slow = rig.join(View())
    rig.settle(1)
    slow.open = False
    rig.play("typing", 10)
    rig.play("scroll", 3)
    held = len(slow.pictures)
    assert shown(quick, rig) and not shown(slow, rig)
    slow.open = True
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    rig.settle(0.05)
    assert shown(slow, rig) and len(slow.pictures) == held + 1
    rig.play("typing", 3, seed=9)
    assert shown(slow, rig) and slow.pictures[-1].parts == quick.pictures[-1].parts, "in step again, and shared"


def test_viewer_that_missed_video_waits_for_a_shared_key_picture() -> None:
    rig, quick = started()
    slow = rig.join(View())
    rig.settle(1)
    film = [Rect(160, 100, 212, 132)]
    for step in range(60):
        slow.open = not 10 <= step < 14
        photo(rig.picture, film[0], 1, step)
        rig.paint(film)
    keys = [p.painted_ns for p in quick.pictures if any(q.type == PartType.VIDEO and q.flags for q in p.parts)]
    assert 2 <= len(keys) <= 5 and all(b - a >= KEY_INTERVAL_NS for a, b in pairwise(keys))
    assert slow.pictures[-1].parts == quick.pictures[-1].parts
    rig.settle()
    assert shown(slow, rig) and shown(quick, rig)


def test_joiner_in_a_film_sees_the_rest_at_once_and_the_film_by_a_key_picture() -> None:
    rig, first = started()
    for step in range(30):
        photo(rig.picture, Rect(160, 100, 212, 132), 1, step)
        if step == 15:
            late = rig.join(View())
        rig.paint([Rect(160, 100, 212, 132)])
    assert late.canvas is not None and late.canvas.drawn.all() and late.canvas.error(rig.picture) > 28
    assert late.pictures[-1].parts == first.pictures[-1].parts
    rig.settle()
    assert shown(late, rig)


def test_joiners_at_once_share_their_first_picture() -> None:
    rig, _ = started()
    views = [rig.join(View()) for _ in range(3)]
    rig.settle(0.05)
    assert len({id(view.pictures[0].parts[0].data) for view in views}) == 1
    assert all(shown(view, rig) for view in views)


def test_joiner_on_a_slow_line_sees_a_rough_picture_first() -> None:
    rig = Rig(picture=1_000_000)
    photo(rig.picture, WHOLE, 1)
    view = rig.join(View())
    while view.canvas is None or not view.canvas.drawn.all():
        rig.settle(0.1)
    assert rig.now_ns < 3 * NS_PER_S and view.types() == {PartType.JPEG}
    assert view.canvas.error(rig.picture) > 25
    rig.settle(60)
    assert shown(view, rig)


def test_failed_decoder_is_helped_by_a_refresh() -> None:
    rig, view = started()
    rig.play("film", 10)
    assert view.canvas is not None
    view.canvas.pixels[:] = 99
    view.canvas._decoder = None
    rig.settle(0.6)
    rig.encoder.refresh(view)
    rig.play("film", 8, seed=2)
    rig.settle()
    assert shown(view, rig)


def test_moves_of_the_source_are_passed_on() -> None:
    rig, view = started()
    begun = len(view.pictures)
    move = Move(Rect(0, 0, 400, 180), 0, -20)
    apply_move(rig.picture, move)
    rig.paint([glyphs(rig.picture, Rect(0, 180, 400, 20), 8)], [move])
    assert shown(view, rig) and PartType.MOVE in view.types(begun) and view.bytes(begun) < 12_000


def test_what_is_seen_roughly_is_sharpened_also_after_it_was_moved() -> None:
    rig, view = started()
    rig.play("film", 10)
    move = Move(Rect(160, 150, 212, 132), 0, 50)
    apply_move(rig.picture, move)
    rig.paint([], [move])
    assert not shown(view, rig)
    rig.settle()
    assert shown(view, rig)


def test_other_mode_starts_anew_and_odd_sizes_work() -> None:
    rig, view = started()
    for size in (Size(333, 201), Size(1, 1), Size(640, 400)):
        other = blank_screen(size)
        photo(other, Rect(0, 0, size.width, size.height), 6)
        rig.mode(other)
        rig.settle()
        assert view.canvas is not None and view.canvas.size == size and shown(view, rig)
        for step in range(8):
            rig.paint([photo(other, Rect(0, 0, size.width, size.height), 6, step)])
        rig.settle()
        assert shown(view, rig)
    assert len(rig.freed) == 3


def test_scaled_picture_is_that_of_the_screen() -> None:
    rig = Rig(scale=0.5)
    desktop(rig.picture)
    view = rig.join(View())
    rig.settle()
    rig.play("scroll", 6)
    rig.play("typing", 6)
    rig.settle()
    assert view.canvas is not None and view.canvas.size == Size(320, 200)
    mean = rig.picture.reshape(200, 2, 320, 2, 4).mean(axis=(1, 3)).round().astype(np.uint8)
    assert view.canvas.error(mean) > 30


def test_over_reported_damage_costs_nothing() -> None:
    rig, view = started()
    begun = len(view.pictures)
    for _ in range(5):
        rig.paint([WHOLE])
    assert len(view.pictures) == begun
    glyphs(rig.picture, Rect(50, 50, 9, 18), 77)
    rig.paint([WHOLE])
    assert view.bytes(begun) < 600 and shown(view, rig)


def test_pointer_alone_is_no_picture() -> None:
    rig, view = started()
    begun = len(view.pictures)
    rig.screen.define_shape(Shape(1, Size(1, 1), bytes(4)))
    for step in range(5):
        rig.screen.set_cursor(Cursor(1, at=Point(step, step), shown=True))
        rig.now_ns += STEP_NS
        rig.encoder.handle_timeout(rig.now_ns)
        assert not rig.waiting and rig.encoder.next_timeout() is None
    assert len(view.pictures) == begun
    rig.play("typing", 1)
    assert shown(view, rig)


def test_pictures_keep_to_their_number_a_second() -> None:
    rig, view = started(fps=10)
    begun = len(view.pictures)
    rig.play("typing", 90)
    # One more after the pause, and a seventh more while none is left out.
    assert 27 <= len(view.pictures) - begun <= 35


def test_rate_may_change_while_it_runs() -> None:
    rig, view = started(picture=20_000_000)
    rig.play("film", 12)
    sizes = {}
    for rate in (20_000_000, 1_000_000, None):
        rig.encoder.set_rate(rate)
        rig.play("film", 14, seed=rate or 3)
        sizes[rate] = sum(picture.size for picture in view.pictures[-8:])
    assert sizes[1_000_000] < 8 * 1_000_000 // 240 * 2
    rig.encoder.set_rate(1)
    assert rig.encoder.rate == 50_000
    rig.encoder.set_rate(None)
    rig.settle(30)
    assert shown(view, rig)


def test_no_viewer_no_work() -> None:
    rig, view = started()
    view.open = False
    rig.paint([glyphs(rig.picture, Rect(0, 0, 90, 18), 1)])
    assert rig.encoder.next_timeout() is None, "it would only find that nobody is ready"
    view.open = True
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    assert shown(view, rig)
    rig.encoder.leave(view)
    rig.encoder.leave(view)
    rig.paint([glyphs(rig.picture, Rect(0, 0, 90, 18), 2)])
    assert rig.encoder.next_timeout() is None and not rig.waiting


def test_one_picture_at_a_time_and_its_lease_ends_with_it() -> None:
    rig, view = started()
    rig.screen.painted([glyphs(rig.picture, Rect(0, 0, 90, 18), 1)], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert len(rig.waiting) == 1 and rig.encoder.next_timeout() is None
    rig.encoder.handle_timeout(rig.now_ns)
    # Its memory stays while it is read, although the screen has another mode already.
    rig.mode(blank_screen(SIZE))
    assert len(rig.waiting) == 1 and rig.freed == []
    rig.work()
    assert len(rig.freed) == 1
    rig.settle()
    assert shown(view, rig)


def test_end_frees_all_even_in_the_middle_of_a_picture() -> None:
    for busy in (False, True):
        rig, view = started()
        sent = len(view.pictures)
        if busy:
            rig.screen.painted([WHOLE], rig.now_ns)
            rig.now_ns += STEP_NS
            rig.encoder.handle_timeout(rig.now_ns)
            assert rig.waiting
        rig.encoder.close()
        rig.encoder.close()
        assert ("picture encoder" in rig.budget.shares()) == busy
        rig.work()
        rig.screen.end()
        assert "picture encoder" not in rig.budget.shares() and len(rig.freed) == 1
        assert len(view.pictures) == sent and rig.encoder.next_timeout() is None and not rig.failures


def test_failure_ends_the_encoder_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, _ = started()

    def broken(self: Any, task: Task) -> None:
        raise CodecError("no")

    monkeypatch.setattr("millrace.outlets.picturework.PictureWork.make", broken)
    rig.paint([glyphs(rig.picture, Rect(0, 0, 90, 18), 1)])
    assert [str(error) for error in rig.failures] == ["no"]
    assert rig.encoder.next_timeout() is None and "picture encoder" not in rig.budget.shares()


def test_screen_too_large_for_the_budget_is_refused() -> None:
    rig = Rig()
    rig.budget.limit = rig.budget.held + 100_000
    rig.join(View())
    rig.settle()
    assert "no room" in str(rig.failures[0]) and not rig.freed
    rig.screen.end()
    assert rig.budget.held == 0


def test_choices_follow_the_size_and_what_is_left_of_the_line() -> None:
    room, all_ = Room(20_000, 60_000), Formats()
    text, big = 60_000, 400_000
    assert choice(15_000, text, True, room, all_, False) is How.LOSSLESS
    assert choice(30_000, text, True, room, all_, False) is How.VIDEO
    assert choice(30_000, text, False, room, all_, False) is How.LOSSLESS
    assert choice(70_000, big, False, room, all_, False) is How.VIDEO
    assert choice(19_000, 18_000, True, room, all_, False) is How.VIDEO, "film, although it would fit"
    assert choice(19_000, 9_000, True, room, all_, False) is How.LOSSLESS, "a strip"
    assert choice(19_000, 18_000, False, room, all_, False) is How.LOSSLESS
    assert choice(70_000, big, False, room, Formats(None), False) is How.JPEG
    assert choice(70_000, big, False, room, Formats(None, False), False) is How.LATER
    assert choice(70_000, big, False, room, all_, True) is How.LATER
    assert choice(15_000, 10_000, True, room, all_, True) is How.LOSSLESS
    assert room.less(5_000) == Room(15_000, 55_000)


@pytest.mark.parametrize(
    "rect", [Rect(0, 0, 1920, 1080), Rect(3, 5, 1001, 700), Rect(5, 7, 9, 18), Rect(7, 0, 5000, 3)]
)
def test_tiles_cover_a_rectangle_once(rect: Rect) -> None:
    seen = np.zeros((1100, 5100), np.uint8)
    for tile in tiles(rect):
        part_of(seen, tile)[:] += 1
        assert tile.area <= 65_536 * 1.1
    assert part_of(seen, rect).all() and seen.sum() == rect.area


def test_line_is_filled_and_empties() -> None:
    line = Line(8_000_000)
    assert line.share == 33_333 and line.queued_ns(0) == 0
    line.sent(100_000, 5 * NS_PER_S)
    assert line.queued_ns(5 * NS_PER_S) == NS_PER_S // 10
    line.sent(100_000, 5 * NS_PER_S)
    assert line.free_ns() == 5 * NS_PER_S + NS_PER_S // 5 - QUEUED_MAX_NS
    assert line.queued_ns(6 * NS_PER_S) == 0


def anything(rig: Rig, random: np.random.Generator, views: list[View]) -> None:
    """Something that may happen to a screen and its viewers."""
    wide, high = int(random.integers(1, 400)), int(random.integers(1, 300))
    place = Rect(int(random.integers(0, 640 - wide)), int(random.integers(0, 400 - high)), wide, high)
    match int(random.integers(0, 9)):
        case 0 | 1:
            rig.paint([glyphs(rig.picture, place, int(random.integers(99)))])
        case 2 | 3:
            rig.paint([photo(rig.picture, Rect(100, 60, 212, 132), 1, int(random.integers(99)))])
        case 4:
            move = Move(Rect(50, 100, 300, 200), int(random.integers(-50, 51)), int(random.integers(-99, 101)))
            apply_move(rig.picture, move)
            rig.paint([], [move])
        case 5:
            part_of(rig.picture, Rect(0, 60, 600, 300))[:] = part_of(rig.picture, Rect(0, 80, 600, 300)).copy()
            rig.paint([Rect(0, 60, 600, 300)])
        case 6:
            view = views[int(random.integers(len(views)))]
            view.open = not view.open
            rig.encoder.handle_timeout(rig.now_ns)
            rig.work()
        case 7 if len(views) < 4:
            views.append(rig.join(View()))
        case _:
            rig.encoder.set_rate([None, 3_000_000, 20_000_000][int(random.integers(3))])
            rig.encoder.refresh(views[int(random.integers(len(views)))])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_all_viewers_end_with_the_painted_picture(seed: int) -> None:
    rig, view = started()
    random, views = np.random.default_rng(seed), [view]
    for _ in range(45):
        anything(rig, random, views)
    for each in views:
        each.open = True
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    rig.settle(20)
    assert all(shown(each, rig) for each in views) and not rig.failures
    assert rig.encoder.next_timeout() is None


def test_encoder_that_finds_no_room_holds_none() -> None:
    rig = Rig()
    readers, held, limit = len(rig.screen.readers), rig.budget.held, rig.budget.limit

    def another(budget: Budget) -> PictureEncoder:
        return PictureEncoder(
            rig.screen, PictureSettings(), WATCHER, rig.woken, lane=rig.lane, clock=lambda: rig.now_ns, budget=budget,
            formats=Formats(), failed=rig.failures.append, computed=lambda: 0, told=lambda *told: None,
        )  # fmt: skip

    # No room for its reader, which may use less of the budget, and none for itself.
    for budget, room in ((rig.budget, int(held / PROGRAMS)), (Budget(limit=1), limit)):
        rig.budget.limit = room
        with pytest.raises(BudgetError):
            another(budget)
        assert (rig.budget.held, len(rig.screen.readers)) == (held, readers)


def test_picture_is_handed_over_viewer_by_viewer_and_the_next_waits_for_that() -> None:
    rig, first = started()
    views = [first, *(rig.join(View()) for _ in range(9))]
    rig.settle()
    before = [len(view.pictures) for view in views]
    rig.picture[10:300, 10:300] = 200
    rig.screen.painted([Rect(10, 10, 290, 290)], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    (work, done) = rig.waiting.pop()
    done(work())
    assert [len(view.pictures) for view in views] == before and rig.encoder.next_timeout() == 0
    going = rig.encoder.deliver()
    for number in range(4):
        next(going)
        assert [len(view.pictures) for view in views] == [n + (at <= number) for at, n in enumerate(before)]
    # Meanwhile one leaves, one comes, and the screen is painted: no other picture is begun.
    rig.encoder.leave(views[6])
    late = rig.join(View())
    rig.picture[0:9, 0:9] = 7
    rig.screen.painted([Rect(0, 0, 9, 9)], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert not rig.waiting
    list(going)
    assert [len(view.pictures) - n for view, n in zip(views, before, strict=True)] == [1] * 6 + [0] + [1] * 3
    assert not late.pictures
    rig.settle()
    assert all(shown(view, rig) for view in (*views[:6], *views[7:], late))
    # One that ends with a picture that is not handed over gives all of it back.
    rig.screen.painted([WHOLE], rig.now_ns)
    rig.picture[:] = 1
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    (work, done) = rig.waiting.pop()
    done(work())
    rig.encoder.close()
    assert not list(rig.encoder.deliver()) and "picture encoder" not in rig.budget.shares()
