"""Passed videos in trouble: viewers that are hidden, slow or want less, no room, videos that come and go."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from millrace.budget import SHARES, VIEWERS, Account
from millrace.guest import viewervideos
from millrace.pixels.rects import Rect, Size
from millrace.sim.net import Path as Line
from millrace.units import NS_PER_MS
from millrace.wire.peer.pictures import ChangeView, Hidden, PartType, Refresh, Watch
from tests.films import COMPOSES, DECODES, Film, Seeing, clip
from tests.fuzz import spiceserver as server
from tests.scenario.test_passed_videos import AT, scene
from tests.spicewire import noise
from tests.watch import Desk


def test_frames_of_a_video_that_nobody_could_draw_are_not_sent() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.overlay = msgspec.structs.replace(film.overlay, clip=(AT,) * 257)
    film.lie(film.overlay)
    film.play(15)
    assert not viewer.framed and len(film.decoded) == 15 and viewer.shows(painter.pixels[:, :, :3])


@pytest.mark.parametrize("settings", [{"picture": "2M"}, {"fps": "10"}, {"scale": "0.5"}])
def test_viewer_that_has_asked_for_less_than_the_machine_sends_is_sent_no_frame(settings: dict[str, str]) -> None:
    desk, _, film = scene()
    viewer = Seeing(desk, msgspec.structs.replace(COMPOSES, settings=settings))
    desk.run(100)
    film.play(15)
    assert not viewer.framed and len(film.decoded) == 15 and not film.track._subscriptions
    viewer.say(ChangeView({"picture": "lossless", "fps": "60", "scale": "1"}))
    desk.run(600)
    film.play(15)
    assert viewer.framed


def test_viewer_that_is_hidden_has_nothing_decoded_for_others() -> None:
    desk, painter, film = scene(80, keys=40)
    viewer, hidden = Seeing(desk, COMPOSES), Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(20)
    decoded = len(film.decoded)
    hidden.say(Hidden(True))
    assert len(film.track._subscriptions) == 1, "what it is not sent is not kept for it"
    film.play(15)
    assert len(film.decoded) == decoded and viewer.shows(film.over(painter.pixels))
    hidden.say(Hidden(False))
    film.play(3)
    assert len(film.decoded) > decoded and hidden.shows(painter.pixels[:, :, :3])
    film.play(10)
    before = len(film.decoded)
    film.play(5)
    assert len(film.decoded) == before and hidden.shows(film.over(painter.pixels))


def test_viewer_without_an_encoder_leaves_the_track() -> None:
    desk, _, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(5)
    viewer.say(ChangeView({"picture": "off"}))
    desk.run(1_100)
    assert not film.track._subscriptions and not viewer.session.videos.due
    viewer.say(ChangeView({"picture": "auto"}))
    framed = viewer.framed
    film.play(20)
    assert viewer.framed > framed


def test_video_that_had_no_room_passes_through_once_there_is_some() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.end()
    desk.run(100)
    budget = desk.home.admission.budget
    left = int(budget.limit * SHARES[VIEWERS]) - budget._shared[VIEWERS]
    other = budget.open("other", {"all": left - 60_000}, VIEWERS)
    again = Film(desk, painter, AT, film.frames)
    again.play(10)
    assert not viewer.framed and len(again.decoded) == 10
    assert viewer.session.videos.lacks(again.track.info.key) == "has no room for its frames"
    other.close()
    again.play(40)
    assert not viewer.session.videos._refused
    assert viewer.framed > 10 and viewer.shows(again.over(painter.pixels))


@pytest.mark.parametrize(("leave", "lacks"), [("leave", "was sent too few frames lately"), ("hide", "")])
def test_video_that_lost_frames_rests_also_for_a_viewer_that_was_sent_none_meanwhile(leave: str, lacks: str) -> None:
    desk, _, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(10)
    videos, key = viewer.session.videos, film.track.info.key
    videos._videos[key].rests_until_ns = desk.now_ns + viewervideos.REST_NS
    getattr(videos, leave)()
    film.play(20)
    assert videos.lacks(key) == lacks


def test_frame_larger_than_a_message_is_not_sent_and_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    monkeypatch.setattr(viewervideos, "FRAME_MAX", min(map(len, film.frames)) - 1)
    film.play(20)
    assert not viewer.framed and viewer.shows(film.over(painter.pixels))
    monkeypatch.undo()
    film.play(20)
    assert viewer.framed and viewer.ended is None


def test_frames_that_have_no_room_beside_a_picture_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(5)
    decoded, fits = len(film.decoded), Account.fits
    monkeypatch.setattr(Account, "fits", lambda one, name, *rest: name != "sending" and fits(one, name, *rest))
    film.play(10)
    assert len(film.decoded) > decoded and viewer.shows(painter.pixels[:, :, :3]) and viewer.ended is None
    monkeypatch.undo()
    film.play(15)
    assert viewer.shows(film.over(painter.pixels))


def test_frame_without_bytes_ends_no_viewer_and_waits_for_a_key_frame() -> None:
    desk, painter, film = scene()
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(5)
    film.always, film.frames = False, [*film.frames[:5], b"", *film.frames[:12]]
    film.play(1)
    assert viewer.ended is None and viewer.session.videos.lacks(film.track.info.key) == "waits for a key frame"
    film.always = True
    film.play(4)
    assert viewer.ended is None and viewer.shows(film.over(painter.pixels))


def test_video_that_was_covered_for_a_moment_goes_on_whatever_its_encoder_does_meanwhile() -> None:
    desk, painter, film = scene(20, keys=1)
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(10)
    desk.threads.takes_ns = 100 * NS_PER_MS
    painter.screen.painted([Rect(0, 100, 240, 60)], desk.now_ns)
    desk.run(10)
    # Its encoder is at work, for nothing, and knows of none of this when that is done.
    film.lie()
    desk.run(10)
    film.lie(film.overlay)
    desk.run(20)
    desk.threads.takes_ns = 0
    film.play(10)
    assert viewer.shows(film.over(painter.pixels))


def test_videos_that_begin_and_end_twenty_times_a_second_leave_nothing_behind() -> None:
    desk, painter, film = scene(4, keys=2)
    able, plain = Seeing(desk, COMPOSES), Seeing(desk, DECODES)
    desk.run(1_000)
    frames, budget = film.frames, desk.home.admission.budget
    film.end()
    desk.run(300)
    held = budget.held
    for n in range(60):
        film = Film(desk, painter, AT.moved(n % 7 * 9, n % 5 * 11), frames)
        for _ in range(n % 3 + 1):
            film.show(desk.now_ns)
            desk.run(15)
        film.end()
        desk.run(5)
    desk.run(500)
    assert able.shows(painter.pixels[:, :, :3]) and plain.shows(painter.pixels[:, :, :3])
    assert able.ended is None and plain.ended is None and not list(desk.home.tracks) and able.framed
    assert budget.held <= held + 64 * 1024 and not able.session.videos.due


def test_numbers_of_videos_are_used_again_when_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewervideos, "NUMBER_MAX", 3)
    desk, painter, film = scene(6, keys=3)
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    lasting = Film(desk, painter, Rect(150, 20, 64, 48), clip(Size(64, 48), 6, 3))
    numbers = set()
    for _ in range(8):
        film.end()
        film = Film(desk, painter, AT, film.frames)
        film.lie(lasting.overlay, film.overlay)
        for _ in range(5):
            lasting.show(desk.now_ns)
            film.play(1)
        numbers.add(viewer.session.videos._videos[film.track.info.key].number)
        assert viewer.shows(lasting.over(film.over(painter.pixels)))
    assert len(numbers) == 2, "that of the lasting one is not free"


def test_frames_that_waited_are_few_in_one_picture() -> None:
    desk, _, film = scene(600, keys=600)
    viewer = Seeing(desk, COMPOSES)
    desk.run(100)
    film.play(3)
    film.always = False
    sent = len(viewer.pieces)
    for _ in range(200):
        film.show(desk.now_ns)
    desk.run(300)
    counts = [sum(part.type == PartType.FRAME for part in piece.parts) for piece in viewer.pieces[sent:]]
    assert max(counts) == viewervideos.FRAMES_MAX and sum(counts) == 200


def test_what_is_painted_is_sent_although_frames_fill_the_line() -> None:
    desk = Desk(encodes=True)
    painter = desk.add(width=240, height=160)
    painter.fill(Rect(0, 0, 240, 160), 90, desk.now_ns)
    frames = server.vp8(noise(AT.width, AT.height), 50)
    film, spot = Film(desk, painter, AT, frames), (slice(2, 10), slice(2, 10))
    # As much as the video takes, but for its key frames.
    line = Line(5 * NS_PER_MS, rate_bps=sum(map(len, frames[1:])) // 49 * 8 * 25)
    viewer = Seeing(desk, COMPOSES, path=line)
    desk.run(2_000)
    waited, began = list[int](), 0
    for n in range(420):
        film.show(desk.now_ns)
        for _ in range(8):
            desk.run(5)
            if began and np.array_equal(viewer.seen.pixels[spot][:, :, :3], painter.pixels[spot][:, :, :3]):
                waited.append((desk.now_ns - began) // NS_PER_MS)
                began = 0
        if n % 25 == 20 and not began:
            painter.fill(Rect(2, 2, 8, 8), n // 25 * 9, desk.now_ns)
            began = desk.now_ns
    assert viewer.framed > 10 and len(waited) > 12 and max(waited) < 1_000, waited


@pytest.mark.parametrize("names", [COMPOSES, DECODES])
def test_what_follows_a_refresh_needs_nothing_before_it(names: Watch) -> None:
    desk, painter, film = scene()
    film.end()
    viewer = Seeing(desk, names)
    desk.run(300)
    assert viewer.pieces[0].key
    sent = len(viewer.pieces)
    viewer.say(Refresh("a frame was damaged"))
    desk.run(1_200)
    painter.fill(Rect(0, 0, 9, 9), 3, desk.now_ns)
    desk.run(300)
    keys = [piece.key for piece in viewer.pieces[sent:]]
    assert keys[0] and not keys[-1] and viewer.shows(painter.pixels[:, :, :3])
