"""Videos that a machine sends itself reach viewers as they are, and are drawn over what its screen shows."""

from __future__ import annotations

import msgspec
import numpy as np

from millrace.graph.pictures import Overlay
from millrace.guest import viewervideos
from millrace.media.packet import End
from millrace.observe.explainpicture import explain_screen, explain_viewer
from millrace.pixels.rects import Rect, Size
from millrace.sim.net import Path as Line
from millrace.units import NS_PER_MS
from millrace.wire.peer.pictures import PartType, Refresh, Watch
from tests.films import COMPOSES, DECODES, Film, Seeing, clip
from tests.unit.test_explain_pictures import guest_of, text
from tests.watch import Desk, Painter

AT = Rect(32, 32, 96, 64)


def scene(count: int = 60, keys: int = 12) -> tuple[Desk, Painter, Film]:
    """A screen of 240 × 160 with something on it, over part of which a video is about to play."""
    desk = Desk(encodes=True)
    painter = desk.add(width=240, height=160)
    painter.pixels[:] = np.random.default_rng(3).integers(0, 255, painter.pixels.shape, np.uint8)
    painter.fill(Rect(0, 0, 100, 20), 90, desk.now_ns)
    return desk, painter, Film(desk, painter, AT, clip(Size(AT.width, AT.height), count, keys))


def test_video_is_passed_through_and_drawn_by_a_viewer_that_can() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(20)
    assert viewer.framed == 20 and len(film.decoded) <= 2, "decoded until the viewer has the first frames"
    assert viewer.shows(film.over(painter.pixels)) and painter.screen.readers[0].leave_out == {film.track.info.key}
    # Nothing of the video is encoded, and what is painted beside it still is.
    painter.fill(Rect(150, 100, 40, 30), 7, desk.now_ns)
    sent = len(viewer.pieces)
    film.play(10)
    kinds = {part.type for piece in viewer.pieces[sent:] for part in piece.parts}
    assert kinds.isdisjoint({PartType.VIDEO, PartType.OVERLAYS}) and viewer.shows(film.over(painter.pixels))
    assert viewer.session.videos.frames == viewer.framed == 30


def test_what_lay_below_is_sent_when_the_video_ends() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    # Not reported to this viewer meanwhile, and equal to what its encoder had before.
    painter.fill(Rect(40, 40, 20, 20), 200, desk.now_ns)
    film.play(3)
    assert viewer.shows(film.over(painter.pixels))
    film.end()
    desk.run(200)
    assert viewer.shows(painter.pixels[:, :, :3]) and not list(desk.home.tracks)


def test_video_follows_its_place_and_what_covers_it() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    for at in (AT.moved(60, 40), AT.moved(-20, 10), AT):
        film.overlay = Overlay(film.track.info.key, at)
        film.at = at
        film.lie(film.overlay)
        desk.run(100)
        assert viewer.shows(film.over(painter.pixels)), "at once, and not with its next frame"
        film.play(2)
        assert viewer.shows(film.over(painter.pixels))
    film.overlay = msgspec.structs.replace(film.overlay, clip=(Rect(32, 32, 40, 64), Rect(90, 60, 38, 20)))
    film.lie(film.overlay)
    painter.fill(Rect(72, 32, 18, 64), 33, desk.now_ns)
    film.play(2)
    assert viewer.shows(film.over(painter.pixels))


def test_clip_that_changes_sends_only_what_comes_from_below_it() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(1_000)
    film.play(15)
    desk.run(300)
    before = viewer.bytes
    for n in range(1, 17):
        # A window is dragged over the video: it covers a strip more each time.
        film.overlay = msgspec.structs.replace(film.overlay, clip=(Rect(AT.x + n, AT.y, AT.width - n, AT.height),))
        film.lie(film.overlay)
        desk.run(40)
        assert viewer.shows(film.over(painter.pixels))
    # The noise below can't be compressed: 4 bytes for each of its pixels.
    assert viewer.bytes - before < 16 * AT.height * 4 + 16 * 2_000
    film.play(2)
    assert viewer.shows(film.over(painter.pixels))


def test_scroll_below_the_video_moves_none_of_it() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    for _ in range(4):
        painter.pixels[:-8] = painter.pixels[8:].copy()
        painter.screen.painted([Rect(0, 0, 240, 160)], desk.now_ns)
        film.play(2)
        assert viewer.shows(film.over(painter.pixels))
    film.end()
    desk.run(300)
    assert viewer.shows(painter.pixels[:, :, :3])


def test_whoever_joins_later_sees_the_decoded_video_until_its_next_key_frame() -> None:
    desk, painter, film = scene(80, keys=40)
    first = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(30)
    decoded = len(film.decoded)
    late = Seeing(desk, COMPOSES)
    film.play(5)
    assert len(film.decoded) > decoded and late.shows(painter.pixels[:, :, :3]) and not late.framed
    film.play(10)
    before = len(film.decoded)
    film.play(6)
    assert late.framed and len(film.decoded) == before, "from the key frame on, nobody needs it decoded"
    assert late.shows(film.over(painter.pixels)) and first.shows(film.over(painter.pixels))


def test_beside_a_viewer_that_cannot_draw_it_both_see_the_video() -> None:
    desk, painter, film = scene()
    able, plain = Seeing(desk, COMPOSES), Seeing(desk, DECODES)
    small = Seeing(desk, msgspec.structs.replace(COMPOSES, settings={"scale": "0.5"}))
    desk.run(100)
    film.play(25)
    desk.run(3_000)
    assert able.framed == 25 and not plain.framed and not small.framed and len(film.decoded) == 25
    assert able.shows(film.over(painter.pixels)) and plain.shows(painter.pixels[:, :, :3])


def test_viewer_that_falls_behind_is_shown_the_decoded_video_meanwhile() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    decoded = len(film.decoded)
    viewer.acks = False
    film.play(60)
    assert len(film.decoded) > decoded + 10, "its frames were dropped, and the door decodes them again"
    viewer.acks = True
    viewer.wire.send_shown(viewer.wire._serial, desk.now_ns, desk.now_ns)
    framed = viewer.framed
    film.play(100)
    assert viewer.framed == framed and len(film.decoded) > decoded + 100, "its line may be too thin"
    film.play(200)
    assert viewer.framed > framed and viewer.shows(film.over(painter.pixels))
    assert desk.home.admission.budget.held < 64 * 1024 * 1024


def test_frame_that_cannot_be_decoded_is_followed_by_decoded_pictures() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    viewer.say(Refresh("the decoder failed"))
    framed, decoded = viewer.framed, len(film.decoded)
    film.play(6)
    assert viewer.framed == framed and len(film.decoded) > decoded and viewer.shows(painter.pixels[:, :, :3])
    film.play(10)
    assert viewer.framed > framed and viewer.shows(film.over(painter.pixels))


def test_video_goes_on_in_another_mode_and_after_the_viewer_was_hidden() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(15)
    painter.show(320, 200, desk.now_ns)
    painter.fill(Rect(0, 0, 320, 200), 60, desk.now_ns)
    film.lie(film.overlay)
    film.play(14)
    assert viewer.shows(film.over(painter.pixels))
    viewer.session.receive('{"type": "hidden", "hidden": true}', desk.now_ns)
    framed = viewer.framed
    film.play(40)
    assert viewer.framed == framed
    viewer.session.receive('{"type": "hidden", "hidden": false}', desk.now_ns)
    film.play(20)
    assert viewer.framed > framed and viewer.shows(film.over(painter.pixels))


def test_slow_line_keeps_its_frames_few_and_what_is_held_bounded() -> None:
    desk, painter, film = scene(120)
    viewer = Seeing(desk, COMPOSES, path=Line(20 * NS_PER_MS, rate_bps=400_000))
    desk.run(100)
    film.play(120)
    assert viewer.ended is None and desk.home.admission.budget.held < 64 * 1024 * 1024
    film.end()
    desk.run(6_000)
    assert viewer.shows(painter.pixels[:, :, :3])


def test_who_has_it_how_is_explained() -> None:
    desk, _, film = scene(80, keys=40)
    able, plain = Seeing(desk, COMPOSES), Seeing(desk, DECODES)
    desk.run(100)
    film.play(30)
    late = Seeing(desk, COMPOSES)
    film.play(2)
    (listed,) = desk.home.screens
    told = text(explain_screen(guest_of(desk), listed), "video")
    assert told == (
        f"{film.track.info.key}, 96 × 64 at 32, 32, comes encoded from the machine: passed through to"
        f" {able.session.key}; decoded here for {plain.session.key}, which draws no such video itself,"
        f" {late.session.key}, which waits for a key frame"
    )
    assert "passed through to" in text(explain_viewer(guest_of(desk), able.session), "video")
    film.end()
    assert not text(explain_screen(guest_of(desk), listed), "video")


def test_leaving_viewers_leave_the_track() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(3)
    assert film.track._subscriptions
    viewer.leave()
    film.play(3)
    assert not film.track._subscriptions and not painter.screen.readers


def test_overlays_that_no_viewer_could_be_told_of_are_decoded() -> None:
    at, track, told = Rect(0, 0, 10, 10), "track/1", viewervideos.passable
    fine = Overlay(track, at)
    for odd in (
        Overlay(track, at, rotation=90), Overlay(track, at, source=at), Overlay(track, Rect(40_000, 0, 10, 10)),
        Overlay(track, Rect(0, 0, 16_384, 16_384)),
    ):  # fmt: skip
        assert told([odd, fine]) == (fine,)
    assert not told([Overlay(track, at, (at,) * 257)]) and not told([Overlay(f"track/{n}", at) for n in range(65)])
    half = Overlay(track, Rect(0, 0, 4_096, 2_048))
    assert told([half, half]) == (half, half)
    assert not told([half, half, fine]) and not told([Overlay(track, half.at, (half.at,) * 3)])


def test_video_over_another_stays_over_it_and_leaves_it_when_it_ends() -> None:
    desk, painter, lower = scene()
    viewer = Seeing(desk, COMPOSES)
    upper = Film(desk, painter, AT.moved(40, 24), clip(Size(AT.width, AT.height), 30, 6, seed=9))
    lower.lie(lower.overlay, upper.overlay)
    desk.run(100)
    for _ in range(12):
        lower.show(desk.now_ns)
        upper.play(1)
    assert viewer.shows(upper.over(lower.over(painter.pixels)))
    lower.play(2)
    assert viewer.shows(upper.over(lower.over(painter.pixels)))
    upper._publisher.push(End("over"))
    upper.lie(lower.overlay)
    desk.run(200)
    lower.play(2)
    assert viewer.shows(lower.over(painter.pixels))


def test_video_that_is_larger_than_the_screen_is_drawn_as_far_as_it_lies_there() -> None:
    desk, painter, film = scene()
    film.end()
    at = Rect(-32, -16, 320, 240)
    large = Film(desk, painter, at, clip(Size(320, 240), 12))
    painter.paint = lambda tracks: None  # type: ignore[method-assign]
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    large.play(8)
    assert viewer.ended is None and viewer.shows(large.newest[16:176, 32:272, :3])


def test_viewer_that_names_no_codec_is_sent_no_frame() -> None:
    desk, painter, film = scene()
    other = Seeing(desk, Watch(formats=["raw"], overlays=["av1"]))
    desk.run(100)
    film.play(20)
    assert not other.framed and other.shows(painter.pixels[:, :, :3])
