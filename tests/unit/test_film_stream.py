"""The area of a screen's film, which follows it slowly, and the stream that codes it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from millrace.codec.videoencoder import VideoEncoder
from millrace.errors import CodecError
from millrace.outlets import filmstream
from millrace.outlets.filmarea import PATIENCE_MAX_NS, SETTLE_NS, FilmArea
from millrace.outlets.filmstream import ANEW_NS, FilmStream
from millrace.outlets.line import LAN_RATE
from millrace.pixels.convert import Convert
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_S
from millrace.wire.peer.pictures import VIDEO_KEY, PartType

WHOLE = Rect(0, 0, 1920, 1080)
FILM = Rect(100, 50, 640, 360)
ELSEWHERE = FILM.moved(1000, 600)
AREA = Rect(96, 48, 656, 368)
STEP_NS = NS_PER_S // 30


def test_area_is_that_of_the_film_at_edges_of_macroblocks() -> None:
    area = FilmArea(WHOLE)
    assert area.take([FILM], 0) and area.at == AREA
    assert not area.take([Rect(100, 50, 320, 360)], STEP_NS) and area.at == AREA


def test_area_ends_with_the_screen_and_is_never_too_small_for_an_encoder() -> None:
    area = FilmArea(Rect(0, 0, 1367, 767))
    area.take([Rect(1300, 700, 67, 67)], 0)
    assert area.at == Rect(1296, 688, 71, 79)
    area = FilmArea(Rect(0, 0, 1367, 767))
    area.take([Rect(1364, 764, 3, 3)], 0)
    assert area.at == Rect(1296, 688, 71, 79)
    area = FilmArea(Rect(0, 0, 40, 30))
    area.take([Rect(0, 0, 8, 8)], 0)
    assert area.at == Rect(0, 0, 40, 30)


def test_large_film_has_the_whole_screen() -> None:
    area = FilmArea(WHOLE)
    area.take([Rect(0, 0, 1600, 900)], 0)
    assert area.at == WHOLE


def test_area_that_is_outgrown_becomes_the_whole_screen() -> None:
    area = FilmArea(WHOLE)
    area.take([FILM], 0)
    assert area.take([FILM.moved(100, 0)], STEP_NS) and area.at == WHOLE
    assert not area.take([FILM.moved(400, 0)], 2 * STEP_NS)


@pytest.mark.parametrize("speed", [1, 5, 20])
def test_film_in_a_window_that_moves_begins_few_streams(speed: int) -> None:
    area, began = FilmArea(WHOLE), []
    for step in range(60 * 30):
        x = abs(speed * step % 2400 - 1200)
        if area.take([Rect(x, 300, 320, 240)], step * STEP_NS):
            began.append(step * STEP_NS)
    assert len(began) <= 10 and len([ns for ns in began if ns > 20 * NS_PER_S]) <= 4


def test_area_that_lasts_is_made_smaller_soon_again() -> None:
    area, now_ns = FilmArea(WHOLE), 0
    for _ in range(3):
        area.take([FILM], now_ns)
        area.take([FILM.moved(100, 0)], now_ns + STEP_NS)
        began_ns = now_ns = now_ns + STEP_NS
        while area.at == WHOLE:
            now_ns += STEP_NS
            area.take([FILM], now_ns)
        took_ns, began_ns = now_ns - began_ns, now_ns
        while now_ns < began_ns + 40 * NS_PER_S:
            now_ns += STEP_NS
            area.take([FILM], now_ns)
    assert took_ns < SETTLE_NS + 3 * STEP_NS


def test_area_that_is_too_large_for_long_becomes_smaller() -> None:
    area = FilmArea(WHOLE)
    area.take([Rect(0, 0, 1600, 900)], 0)
    pictures = range(1, 2 * SETTLE_NS // STEP_NS + 3)
    found = [number for number in pictures if area.take([FILM], number * STEP_NS)]
    assert len(found) == 1 and found[0] * STEP_NS > SETTLE_NS and area.at == AREA


def changes(area: FilmArea, film: Rect, begin_ns: int, end_ns: int) -> Iterator[int]:
    """When the area becomes another one, while this rectangle is film."""
    return (now_ns for now_ns in range(begin_ns, end_ns, STEP_NS) if area.take([film], now_ns))


def outgrown(area: FilmArea, film: Rect, now_ns: int) -> int:
    """How long it takes until an area that this film outgrows is made smaller."""
    area.take([film], now_ns)
    assert area.at == WHOLE
    smaller_ns = next(changes(area, film, now_ns + STEP_NS, now_ns + 2 * PATIENCE_MAX_NS))
    assert area.at.holds(film) and area.at != WHOLE
    return smaller_ns - now_ns


def test_area_is_made_smaller_when_it_has_been_too_large_for_longer_than_two_seconds() -> None:
    area = FilmArea(WHOLE)
    area.take([FILM], 0)
    area.take([Rect(300, 200, 640, 360)], 1)
    assert area.at == WHOLE
    for now_ns in (NS_PER_S, SETTLE_NS, 1 + SETTLE_NS):
        assert not area.take([FILM], now_ns)
    assert area.take([FILM], 2 + SETTLE_NS)
    assert area.at == Rect(96, 48, 848, 512), "all that was film since it was outgrown, and not the newest only"


def test_area_more_than_half_of_which_is_film_stays_and_is_looked_at_again_later() -> None:
    area = FilmArea(WHOLE)
    area.take([WHOLE], 0)
    assert not list(changes(area, Rect(0, 0, 1920, 560), STEP_NS, 4 * SETTLE_NS)) and area.at == WHOLE
    part = FilmArea(WHOLE)
    part.take([FILM], 0)
    assert not list(changes(part, Rect(96, 48, 656, 192), STEP_NS, 4 * SETTLE_NS)) and part.at == AREA
    # What was film before the last look counts no more.
    assert next(changes(area, FILM, 4 * SETTLE_NS, 9 * SETTLE_NS)) and area.at == AREA


def test_each_time_that_an_area_was_made_smaller_and_is_outgrown_the_next_lasts_four_times_longer() -> None:
    area, now_ns, lasted = FilmArea(WHOLE), STEP_NS, list[float]()
    area.take([FILM], 0)
    for number in range(5):
        took_ns = outgrown(area, FILM if number % 2 else ELSEWHERE, now_ns)
        lasted.append(took_ns / SETTLE_NS)
        now_ns += took_ns + STEP_NS
    assert [round(one) for one in lasted] == [1, 4, 16, 60, 60]


def test_whole_screen_that_is_needed_leaves_the_patience_as_it_is_and_a_part_that_lasts_ends_it() -> None:
    area = FilmArea(WHOLE)
    area.take([ELSEWHERE], 0)
    now_ns = outgrown(area, FILM, STEP_NS) + 2 * STEP_NS
    area.take([WHOLE], now_ns)
    assert not list(changes(area, WHOLE, now_ns + STEP_NS, now_ns + 13 * SETTLE_NS))
    now_ns += 13 * SETTLE_NS
    smaller_ns = next(changes(area, FILM, now_ns, now_ns + 20 * SETTLE_NS))
    assert smaller_ns - now_ns > 3 * SETTLE_NS, "looked at every four times two seconds"
    assert not list(changes(area, FILM, smaller_ns + STEP_NS, smaller_ns + 20 * SETTLE_NS))
    assert outgrown(area, ELSEWHERE, smaller_ns + 20 * SETTLE_NS) <= SETTLE_NS + 2 * STEP_NS


def test_film_after_a_pause_has_an_area_of_its_own() -> None:
    area = FilmArea(WHOLE)
    area.take([FILM], 0)
    assert area.take([FILM.moved(960, 500)], SETTLE_NS + 1) and area.at == Rect(1056, 544, 656, 368)
    assert not area.take([FILM.moved(960, 500)], 3 * SETTLE_NS), "the same area is the same stream"


def test_video_begins_with_a_key_picture_with_each_area_and_after_the_rate_of_a_lan() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (480, 640, 4), np.uint8)
    video = FilmStream("avc1", Rect(0, 0, 640, 480), LAN_RATE)
    film, rest = Rect(20, 20, 100, 60), Rect(40, 90, 20, 20)
    assert video.name == ""
    keys, sizes = [], []
    for step, rects in enumerate(([film], [film], [film, rest], [film], [film])):
        if step == 4:
            # Constant quality ends with the line that had room for it.
            video.set_rate(1_000_000)
        first, *more = video.encode(picture, rects, step * STEP_NS, False)
        assert (first.dx, first.dy, first.at) == ((16, 16, film) if step < 2 else (0, 0, film))
        assert [(part.type, part.at, part.dx, part.dy) for part in more] == [
            (PartType.DRAW, rect, first.dx, first.dy) for rect in rects[1:]
        ]
        keys.append(first.flags == VIDEO_KEY)
        sizes.append(video.name.rpartition(", ")[2])
    assert keys == [True, False, True, False, True]
    assert sizes == ["112 × 64", "112 × 64", "640 × 480", "640 × 480", "640 × 480"]
    video.close()
    assert video.name == ""


class Opened:
    """Encoders that were opened, by their rates; and whether what they encode is a key picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codec: str = "avc1", rate: int = LAN_RATE) -> None:
        self.rates: list[int | None] = []
        opened = filmstream.video_encoder

        def noted(codec: str, size: Size, rate: int | None, convert: Convert) -> VideoEncoder:
            self.rates.append(rate)
            return opened(codec, size, rate, convert)

        monkeypatch.setattr(filmstream, "video_encoder", noted)
        self.video, self._picture = FilmStream(codec, Rect(0, 0, 640, 480), rate), np.zeros((480, 640, 4), np.uint8)

    def encode(self, step: int, x: int = 20) -> bool:
        first, *_ = self.video.encode(self._picture, [Rect(x, 20, 100, 60)], step * STEP_NS, False)
        return first.flags == VIDEO_KEY


def test_video_that_begins_anew_keeps_to_the_newest_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, rate=5_000_000)
    opened.encode(0)
    opened.video.set_rate(2_000_000)
    opened.encode(1, 220)
    assert opened.rates == [5_000_000, 2_000_000]


def test_rate_that_wavers_about_that_of_a_lan_makes_one_new_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    keys = [opened.encode(0)]
    for step in range(1, 300):
        opened.video.set_rate(LAN_RATE - 1_000_000 if step % 2 else LAN_RATE + 1_000_000)
        keys.append(opened.encode(step))
    assert opened.rates == [None, LAN_RATE - 1_000_000] and sum(keys) == 2 and keys[1], "at once on a line that is thin"


def test_encoder_that_can_keep_to_one_rate_begins_anew_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, "vp8", 1_000_000)
    keys = [opened.encode(0)]
    for step in range(1, 100):
        opened.video.set_rate(1_000_000 + step)
        keys.append(opened.encode(step))
    times = [step for step, key in enumerate(keys) if key]
    assert times[:2] == [0, 1] and set(np.diff(times[1:])) == {-(-ANEW_NS // STEP_NS)}
    # The newest rate is kept to in the end, although it is told once.
    opened.video.set_rate(2_000_000)
    assert sum(opened.encode(step) for step in range(100, 200)) == 1 and opened.rates[-1] == 2_000_000
    # One that returns to what the encoder has needs no other.
    opened.video.set_rate(3_000_000)
    opened.video.set_rate(2_000_000)
    assert not any(opened.encode(step) for step in range(200, 300))


@pytest.mark.parametrize(("codec", "most"), [("avc1", 150_000), ("vp8", 200_000)])
def test_no_picture_is_larger_than_a_piece_may_be(codec: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, random = Rect(0, 0, 640, 400), np.random.default_rng(5)
    # As small for this screen as a piece is for one of 1920 × 1200 and more.
    monkeypatch.setattr(filmstream, "VIDEO_MAX", most)
    stream, keys = FilmStream(codec, whole, LAN_RATE), 0
    for n in range(6):
        noise = random.integers(0, 255, (400, 640, 4), np.uint8)
        (video,) = stream.encode(noise, [whole], n * STEP_NS, False)
        assert len(video.data) <= most
        keys += bool(video.flags & VIDEO_KEY)
    assert keys == 1, "the stream does not begin anew for each of them"


def test_picture_that_no_rate_makes_small_enough_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Rect(0, 0, 640, 400)
    monkeypatch.setattr(filmstream, "VIDEO_MAX", 100)
    with pytest.raises(CodecError, match="100 at most"):
        FilmStream("avc1", whole, LAN_RATE).encode(
            np.random.default_rng(5).integers(0, 255, (400, 640, 4), np.uint8), [whole], 0, False
        )
