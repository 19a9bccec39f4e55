"""The picture encoder on virtual time: viewers show what was painted after each step, exactly where that is due."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.graph.pictures import Cursor, Move, Shape
from millrace.outlets.line import QUEUED_MAX_NS, Line
from millrace.outlets.picturechoice import Formats
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Point, Rect, Size
from millrace.pixels.scroll import apply_move
from millrace.sim.desktop import Desktop
from millrace.wire.peer.pictures import PartType
from tests.painting import blank_screen, glyphs, photo, steps
from tests.picturerig import STEP_NS, WHOLE, Rig, View, desktop, shown, started

EXACT = {PartType.ZSTD, PartType.PALETTE}


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
    # The film ends just below a clock, which is sent by itself: none of the film is sent losslessly besides.
    assert all(part.at.area < 8_000 for picture in view.pictures[-4:] for part in picture.parts if part.type in EXACT)


@pytest.mark.parametrize("codec", ["avc1", "vp8"])
def test_video_is_of_the_films_part_of_the_screen_and_follows_it(codec: str) -> None:
    rig = Rig(Size(960, 640), Formats(codec))
    view = rig.join(View(codec))
    rig.settle()
    places = Rect(20, 30, 240, 160), Rect(690, 470, 240, 160)
    for place in places:
        for step in range(14):
            rig.paint([photo(rig.picture, place, 3, step)])
        (video,) = (part for part in view.pictures[-1].parts if part.type == PartType.VIDEO)
        assert (video.dx, video.dy) == (place.x & ~15, place.y & ~15) and video.at == place
        assert view.canvas is not None and view.canvas.error(rig.picture) > 25
        rig.settle(3)
        assert shown(view, rig)
    assert rig.encoder.video.endswith(", 256 × 176")
    late = rig.join(View(codec))
    rig.settle(3)
    assert shown(late, rig)


def test_film_in_a_window_that_is_dragged_begins_few_streams_and_is_no_trouble() -> None:
    rig = Rig(Size(960, 640))
    view = rig.join(View())
    rig.settle()
    for step in range(150):
        rig.paint([photo(rig.picture, Rect(20 + 4 * step, 200, 240, 160), 3, step)])
    parts = [part for picture in view.pictures for part in picture.parts if part.type == PartType.VIDEO]
    assert 2 <= sum(part.flags & 1 for part in parts) <= 5 and len(parts) > 100
    assert not [told for told in rig.told if told[0] == "key pictures"]


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
