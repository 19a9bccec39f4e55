"""Viewers of one picture encoder: those that join, were not ready or missed something get what they lack."""

from __future__ import annotations

from itertools import pairwise

import pytest

from millrace.errors import BudgetError
from millrace.outlets import pictures
from millrace.outlets.picturechoice import Formats
from millrace.outlets.pictures import KEY_INTERVAL_NS
from millrace.outlets.picturework import PROBE_BYTES, PictureWork
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_S
from millrace.wire.peer.pictures import PartType
from tests.painting import blank_screen, glyphs, photo
from tests.picturerig import STEP_NS, WHOLE, Rig, View, shown, started


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
    view.sparing = True
    rig.join(view)
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    assert len(view.pictures) == 1 and view.bytes() < 1.5 * PROBE_BYTES < known.pictures[0].size
    begun_ns, view.sparing = rig.now_ns, False
    rig.settle()
    assert view.times_ns[1] == begun_ns, "the rest follows as soon as its line is known"
    assert shown(view, rig)


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


def test_viewer_that_asks_for_all_while_a_picture_is_made_gets_all() -> None:
    rig, other = started()
    view = rig.join(View())
    rig.settle()
    view.open = False
    rig.paint([glyphs(rig.picture, Rect(0, 0, 90, 18), 1)])
    view.open = True
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    assert rig.waiting and view.canvas is not None, "what it lacked is being encoded"
    view.canvas.pixels[:] = 99
    rig.encoder.refresh(view)
    rig.work()
    rig.settle()
    assert shown(view, rig) and shown(other, rig)


def test_viewer_without_room_for_a_picture_gets_what_it_lacks_in_small_ones() -> None:
    rig = strips(Size(1280, 960))
    quick, poor = rig.join(View()), View()
    rig.settle()
    poor.room = 2 * PROBE_BYTES
    rig.join(poor)
    rig.encoder.handle_timeout(rig.now_ns)
    rig.work()
    rig.settle(1)
    assert not poor.pictures and not poor.open and rig.encoder.next_timeout() is None
    poor.sparing = True
    while not shown(poor, rig):
        poor.open = True
        rig.encoder.handle_timeout(rig.now_ns)
        rig.work()
        rig.settle(0.1)
    assert len(poor.pictures) >= 3 and shown(quick, rig)


def test_picture_is_handed_over_viewer_by_viewer_and_the_next_waits_for_that() -> None:
    rig, first = started()
    views = [first, *(rig.join(View()) for _ in range(9))]
    rig.settle()
    before = [len(view.pictures) for view in views]
    rig.picture[10:300, 10:300] = 200
    rig.screen.painted([Rect(10, 10, 290, 290)], rig.now_ns)
    rig.now_ns += STEP_NS
    rig.encoder.handle_timeout(rig.now_ns)
    work, done = rig.lane.begin()
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
    work, done = rig.lane.begin()
    done(work())
    rig.encoder.close()
    assert not list(rig.encoder.deliver()) and "picture encoder" not in rig.budget.shares()


@pytest.mark.parametrize("error", [MemoryError, BudgetError])
def test_without_memory_for_another_mode_the_picture_that_was_taken_is_given_back(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    rig, _ = started()

    def no_room(*_: object) -> None:
        raise error("no room")

    monkeypatch.setattr(pictures, PictureWork.__name__, no_room)
    rig.mode(blank_screen(Size(320, 200)))
    try:
        rig.encoder.handle_timeout(rig.now_ns + NS_PER_S)
    except MemoryError:
        assert error is MemoryError and not rig.failures
        rig.encoder.close()
    rig.screen.end()
    assert len(rig.freed) == 2 and not rig.budget.held
