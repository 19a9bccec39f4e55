"""The picture encoder's work: what is made at once and what in another thread, what it holds, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from millrace.budget import ENCODERS, MIB, PROGRAMS, SHARES, Budget
from millrace.codec.avvideo import video_bytes
from millrace.codec.picturesettings import PictureSettings
from millrace.errors import BudgetError, Busy, CodecError
from millrace.graph.pictures import Cursor, Shape
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturecost import WORK_BYTES, work_bytes
from millrace.outlets.pictures import PictureEncoder
from millrace.outlets.picturestrain import Spent
from millrace.outlets.picturework import Lacking, PictureWork, Task
from millrace.pixels.rects import Point, Rect, Size
from millrace.units import NS_PER_S
from millrace.wire.peer.pictures import PartType
from tests.gops import WATCHER
from tests.painting import blank_screen, glyphs, photo
from tests.picturerig import SIZE, STEP_NS, WHOLE, Lane, Rig, View, shown, started


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


def test_many_rectangles_are_not_made_at_once_however_small() -> None:
    rig, view = started()
    rig.lane.at_once = True
    few, many = [Rect(120 * n, 20, 24, 24) for n in range(4)], [Rect(33 * n, 33 * (n % 8), 24, 24) for n in range(16)]
    for rects, elsewhere in ((few, False), (many, True), ([Rect(120 * n, 20, 100, 100) for n in range(4)], True)):
        for rect in rects:
            glyphs(rig.picture, rect, rig.screen.serial)
        assert handed_over(rig, rects) == elsewhere
        assert shown(view, rig)


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


def test_on_a_thin_line_only_what_surely_fits_is_made_at_once() -> None:
    rig, _ = started(picture=1_000_000)
    rig.lane.at_once = True
    for side, elsewhere in ((40, False), (120, True)):
        glyphs(rig.picture, Rect(0, 0, side, side), 7)
        assert handed_over(rig, [Rect(0, 0, side, side)]) == elsewhere


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


def test_picture_is_begun_without_asking_when_it_is_due_for_each_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*args: Any) -> Any:
        asked.append(args)
        return due_for(*args)

    rig, _ = started()
    for _ in range(30):
        rig.join(View())
    rig.settle(1)
    due_for, asked = PictureEncoder._due_for, list[Any]()
    monkeypatch.setattr(PictureEncoder, "_due_for", counted)
    rig.screen.painted([glyphs(rig.picture, Rect(0, 0, 90, 18), 1)], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert rig.waiting and len(asked) == 1


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


@pytest.mark.parametrize("doing", ["nothing", "waiting", "running"])
def test_end_frees_all_even_in_the_middle_of_a_picture(doing: str) -> None:
    rig, view = started()
    sent = len(view.pictures)
    if doing != "nothing":
        rig.screen.painted([WHOLE], rig.now_ns)
        rig.now_ns += STEP_NS
        rig.encoder.handle_timeout(rig.now_ns)
        assert rig.waiting
    work = rig.lane.begin() if doing == "running" else None
    rig.encoder.close()
    rig.encoder.close()
    # What runs uses its memory and its picture until it is done; what waits never runs.
    held = [part for part in ("picture encoder", "reader") if part in rig.budget.shares()]
    assert held == (["picture encoder"] if work else []) and not rig.waiting
    rig.screen.end()
    assert len(rig.freed) == (not work)
    if work is not None:
        work[1](work[0]())
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
    with pytest.raises(BudgetError, match="no room for this picture encoder"):
        rig.join(View())
    rig.encoder.close()
    assert not rig.freed
    rig.screen.end()
    assert rig.budget.held == 0


def test_memory_is_charged_before_there_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*args: Any) -> PictureWork:
        held.append(rig.budget.shares()["picture encoder"])
        return PictureWork(*args)

    rig, held = Rig(), list[int]()
    monkeypatch.setattr("millrace.outlets.pictures.PictureWork", made)
    rig.join(View())
    rig.settle()
    assert len(held) == 1 and held[0] >= work_bytes(SIZE, 1)


@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize("size", [Size(1921, 1081), Size(1280, 720)])
def test_work_is_charged_for_all_that_grows_with_the_screen(size: Size, scale: float) -> None:
    work = PictureWork(size, scale, Formats(), False, 1_000_000, int)
    arrays: list[Any] = [
        one for part in (work.cells, work._copy, work._copy._difference, work._copy._scaled or work)
        for one in vars(part).values() if isinstance(one, np.ndarray)
    ]  # fmt: skip
    took = sum({id(one): one.nbytes for one in arrays}.values())
    assert took <= work_bytes(size, scale) - WORK_BYTES < 1.5 * took
    assert work.video_bytes == video_bytes("avc1", work.size)


@pytest.mark.parametrize(("formats", "lossless"), [(Formats(None), False), (Formats(), True)])
def test_work_that_never_has_video_is_not_charged_for_it(formats: Formats, lossless: bool) -> None:
    assert PictureWork(SIZE, 1, formats, lossless, 1_000_000, int).video_bytes == 0


def test_film_is_stills_until_there_is_memory_for_video() -> None:
    rig, film = Rig(picture=8_000_000), Rect(96, 96, 320, 240)

    def played() -> set[PartType]:
        begun = len(view.pictures)
        for _ in range(12):
            seeds.append(len(seeds))
            photo(rig.picture, film, seeds[-1])
            rig.paint([film])
        return view.types(begun)

    seeds: list[int] = []
    room, limit = round((work_bytes(SIZE, 1) + MIB) / SHARES[ENCODERS]), rig.budget.limit
    rig.budget.limit = room
    view = rig.join(View())
    assert PartType.JPEG in played() and PartType.VIDEO not in view.types() and rig.budget.held < room
    rig.budget.limit = limit
    assert PartType.VIDEO in played() and rig.budget.held > room
    large = Size(960, 640)
    rig.budget.limit = round((rig.budget.held + work_bytes(large, 1)) / SHARES[ENCODERS])
    rig.mode(blank_screen(large))
    rig.settle()
    held = rig.budget.shares()["picture encoder"]
    assert not rig.failures and held < work_bytes(large, 1) + MIB, "what the video of the other mode took is given back"
    rig.encoder.close()
    assert "picture encoder" not in rig.budget.shares()


def test_video_holds_memory_only_from_the_first_film_until_ten_seconds_after_the_last() -> None:
    rig, view = started()
    film, line = Rect(96, 96, 320, 240), Rect(16, 320, 320, 18)
    stills = rig.budget.held
    for seed in range(12):
        glyphs(rig.picture, line, seed)
        rig.screen.painted([line], rig.now_ns)
        rig.now_ns += STEP_NS
        rig.encoder.handle_timeout(rig.now_ns)
        assert rig.waiting and rig.budget.held == stills, "text takes none, while it is encoded either"
        rig.work()
    for again in range(2):
        begun = len(view.pictures)
        # Longer than it is kept: while it plays, it begins no more than once.
        for seed in range(12 * 30):
            photo(rig.picture, film, seed % 12)
            rig.paint([film])
        types = [part.type for picture in view.pictures[begun:] for part in picture.parts]
        assert PartType.VIDEO in types and PartType.JPEG not in types, "the first picture of the film is video, too"
        assert sum(picture.key for picture in view.pictures[begun:]) == 1
        assert rig.budget.held == stills + video_bytes("avc1", SIZE), again
        rig.settle(9)
        assert rig.budget.held > stills and rig.encoder.video
        rig.settle(1.5)
        assert rig.budget.held == stills and not rig.encoder.video and rig.encoder.next_timeout() is None
        assert shown(view, rig)


def test_large_text_on_a_slow_line_is_video_once_memory_is_held_for_it() -> None:
    rig = Rig(picture=400_000)
    view = rig.join(View())
    rig.settle(20)
    begun, stills = len(view.pictures), rig.budget.held
    for seed in range(12):
        glyphs(rig.picture, WHOLE, seed)
        rig.paint([WHOLE])
    assert PartType.VIDEO in view.types(begun) and rig.budget.held > stills
    rig.settle(30)
    assert shown(view, rig)


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


@pytest.mark.parametrize("video", [True, False])
def test_only_what_video_is_about_to_show_is_kept_from_who_lacks_it(video: bool) -> None:
    """A picture without video shows it to nobody."""
    work, film = PictureWork(SIZE, 1, Formats(), False, 20_000_000, lambda: 0), Rect(96, 96, 256, 256)
    picture = blank_screen(SIZE)
    work.make(Task(0, picture, (WHOLE,)))
    for number in range(1, 9):
        photo(picture, film, number)
        made = work.make(Task(number * STEP_NS, picture, (film,)))
    assert made.video
    made = work.make(Task(9 * STEP_NS, None, lacking=(Lacking((film,), ()),), video=video))
    (given,) = made.given
    assert bool(given.left.missing) == video and bool(given.parts) == (not video)
    work.close()


def test_pointer_that_moves_is_no_picture_and_no_work() -> None:
    rig, view = started()
    sent = len(view.pictures)
    rig.screen.define_shape(Shape(1, Size(2, 2), bytes(16)))
    rig.screen.set_cursor(Cursor(1, Point(0, 0), Point(9, 9), True))
    assert rig.encoder.next_timeout() is not None, "the screen has changed, as far as is known"
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert not rig.waiting and len(view.pictures) == sent and rig.encoder.next_timeout() is None


@pytest.mark.parametrize("video", [True, False])
def test_work_that_asks_makes_nothing_of_a_film_until_it_is_said_whether_there_may_be_video(video: bool) -> None:
    work, film, line = (
        PictureWork(SIZE, 1, Formats(), False, 8_000_000, int),
        Rect(96, 96, 256, 256),
        Rect(9, 380, 320, 18),
    )
    picture = blank_screen(SIZE)
    work.make(Task(0, picture, (WHOLE,), ask=True, video=False))
    asked = 0
    for number in range(1, 9):
        photo(picture, film, number)
        glyphs(picture, line, number)
        made = work.make(Task(number * STEP_NS, picture, (film, line), ask=True, video=False))
        if made.asks:
            asked += 1
            assert not made.parts and not made.touched and (asked > 1 or not work.video)
            # What is painted meanwhile belongs to the next picture.
            now = work.reference.copy()
            picture[:] = 0
            made = work.make(Task(number * STEP_NS, video=video))
            assert np.array_equal(work.reference, now) and not made.asks
            types = {part.type for part in made.parts}
            assert made.parts and bool(made.video) == video == (PartType.VIDEO in types)
    glyphs(picture, line, 99)
    assert asked and not work.make(Task(NS_PER_S, picture, (line,), ask=True, video=False)).asks, "text is none"
    work.close()


def film_begins(rig: Rig) -> Callable[[], None]:
    """Play until a picture asks whether there may be video; returns what tells the encoder so."""
    for seed in range(12):
        photo(rig.picture, Rect(96, 96, 320, 240), seed)
        rig.screen.painted([Rect(96, 96, 320, 240)], rig.now_ns)
        rig.now_ns += STEP_NS
        rig.encoder.handle_timeout(rig.now_ns)
        work, done = rig.lane.begin()
        made = work()
        if made[0].asks:
            return lambda: done(made)
        done(made)
        rig.work()
    raise AssertionError("no film")


def test_memory_for_video_is_held_when_a_film_was_found_and_no_earlier() -> None:
    rig, view = started()
    stills = rig.budget.held
    asks = film_begins(rig)
    assert rig.budget.held == stills and not rig.waiting
    begun = len(view.pictures)
    asks()
    assert rig.budget.held == stills + video_bytes("avc1", SIZE) and len(rig.waiting) == 1
    assert rig.encoder.next_timeout() is None and len(view.pictures) == begun
    rig.work()
    assert PartType.VIDEO in view.types(begun) and len(rig.freed) == 0
    rig.settle(20)
    assert shown(view, rig) and rig.budget.held == stills


@pytest.mark.parametrize("how", ["closed before", "closed after", "no thread"])
def test_film_that_ends_before_it_was_encoded_frees_all(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, _ = started()
    asks = film_begins(rig)
    if how == "closed before":
        rig.encoder.close()
        assert "picture encoder" in rig.budget.shares()
    if how == "no thread":

        def busy(self: Any, *args: Any) -> None:
            raise Busy("too many pictures wait to be encoded")

        monkeypatch.setattr(Lane, "__call__", busy)
    asks()
    assert [str(error) for error in rig.failures] == ["too many pictures wait to be encoded"] * (how == "no thread")
    rig.encoder.close()
    rig.screen.end()
    assert not rig.waiting and rig.freed == [0] and not rig.budget.held


def test_time_of_a_film_s_first_picture_is_all_that_it_took() -> None:
    first, rest = Spent(0, 10, 40, 20, False), Spent(0, 100, 130, 7, True)
    assert first.then(rest) == Spent(0, 10, 130, 27, False)


def test_memory_of_a_film_that_has_paused_goes_to_whoever_needs_it() -> None:
    rig, view = started()
    film, stills = Rect(96, 96, 320, 240), rig.budget.held

    def played(seeds: int) -> int:
        for seed in range(seeds):
            photo(rig.picture, film, seed)
            rig.paint([film])
        return rig.budget.held - stills

    assert played(12) > 0
    other, needed = rig.budget.open("stream"), int(rig.budget.limit * PROGRAMS) - stills
    assert not other.fits("queue", needed), "it plays"
    rig.settle(1)
    rig.screen.painted([WHOLE], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert rig.waiting and not other.fits("queue", needed), "its encoder may be in use"
    rig.work()
    rig.settle(1)
    assert other.fits("queue", needed) and not rig.encoder.video
    other.close()
    begun = len(view.pictures)
    assert played(12) > 0 and PartType.VIDEO in view.types(begun)
    rig.settle(3)
    assert shown(view, rig)
    rig.encoder.close()
    assert not rig.budget.sparing
