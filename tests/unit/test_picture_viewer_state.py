"""What a picture encoder knows of its viewers: what each lacks and is sent, and who lacks the same."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.line import QUEUED_MAX_NS
from millrace.outlets.pictures import Job
from millrace.outlets.pictureviewer import Share, Viewer
from millrace.outlets.picturework import Given, Lacking, Made
from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.pictures import Part, PartType

LEFT, RIGHT, LOW = Rect(0, 0, 100, 50), Rect(300, 0, 100, 50), Rect(0, 200, 100, 50)
STILL, OWN = Part(PartType.ZSTD, RIGHT, b"still"), Part(PartType.ZSTD, LEFT, b"own")
FILM = Part(PartType.VIDEO, LOW, b"film")


class Sink:
    """A sink that is ready, and takes pictures, when it is told to."""

    def __init__(self) -> None:
        self.is_ready, self.sparing, self.roomy = True, False, True
        self.keys: list[bool] = []

    def ready(self, now_ns: int) -> bool:
        return self.is_ready

    def push(self, picture: EncodedPicture) -> bool:
        self.keys.append(picture.key)
        return self.roomy


def viewer(rate: int = 8_000_000, missing: Rect | None = None, rough: Rect | None = None) -> tuple[Viewer, Any]:
    sink: Any = Sink()
    one = Viewer(sink, rate)
    for rect, damage in ((missing, one.missing), (rough, one.rough)):
        if rect is not None:
            damage.add(rect)
    return one, sink


def made(film: bool = False, key: bool = False, given: tuple[Given, ...] = ()) -> Made:
    """A picture with a still, and perhaps video."""
    video = (LOW,) if film else ()
    return Made((FILM, STILL) if film else (STILL,), (RIGHT, *video), video, key, given, None, 0)


def picture(*parts: Part) -> EncodedPicture:
    return EncodedPicture(1, 0, parts, False, sum(len(part.data) for part in parts))


def answer(one: Viewer, left: Lacking, *parts: Part) -> tuple[Lacking, Given]:
    """What was made for what it lacks now."""
    return one.lacking(), Given(parts, left)


def test_what_is_seen_roughly_is_seen_so_where_it_moves_and_nothing_else_is() -> None:
    one, _ = viewer(rough=LEFT)
    one.push(picture(Part(PartType.MOVE, RIGHT, dx=300, dy=0), Part(PartType.ZSTD, LEFT, b"")), 0)
    assert set(one.rough.rects) == {LEFT, RIGHT}
    one.push(picture(Part(PartType.MOVE, LOW, dx=0, dy=-200)), 0)
    assert set(one.rough.rects) == {LEFT, RIGHT}, "it came from where all is seen exactly"
    other, _ = viewer()
    other.push(picture(Part(PartType.MOVE, RIGHT, dx=300, dy=0)), 0)
    assert not other.rough


def test_first_picture_of_a_viewer_that_has_nothing_is_a_key_picture_with_video_or_without() -> None:
    one, sink = viewer()
    sink.roomy = False
    one.push(picture(STILL), 0)
    sink.roomy = True
    for _ in range(2):
        one.push(picture(STILL), 0)
    one.voided(Size(640, 400))
    one.push(picture(OWN), 0)
    one.push(picture(STILL), 0)
    assert sink.keys == [True, True, False, True, False]


def test_a_viewer_is_asked_again_only_when_its_sink_says_so_and_its_line_is_free() -> None:
    one, sink = viewer(8_000_000)
    assert one.ready(0)
    one.push(picture(Part(PartType.ZSTD, LEFT, bytes(100_000))), 0)
    assert not one.ready(0) and not one.asleep, "its line frees itself"
    free_ns = 100_000_000 - QUEUED_MAX_NS
    assert not one.ready(free_ns - 1) and one.ready(free_ns) and one.line.free_ns() == free_ns
    sink.is_ready = False
    assert not one.ready(100_000_000) and one.asleep
    one.wake()
    assert not one.asleep


def test_another_rate_is_that_of_its_line() -> None:
    one, _ = viewer(8_000_000)
    one.set_rate(80_000_000)
    one.push(picture(Part(PartType.ZSTD, LEFT, bytes(100_000))), 0)
    assert one.line.queued_ns(0) == 10_000_000


def test_viewers_that_lack_the_same_are_brought_up_to_date_together() -> None:
    one, same, (other, sparing), whole = viewer(missing=LEFT)[0], viewer(missing=LEFT)[0], viewer(missing=LEFT), viewer(
        rough=LEFT
    )[0]  # fmt: skip
    sparing.sparing = True
    job = Job(None, 0, [one, same, other, whole])
    for each in (one, same, other, whole):
        job.lacks(each, refine=False)
    assert [viewers for _, viewers in job.catching] == [[one, same], [other]]
    job.lacks(whole, refine=True)
    assert job.catching[-1][1] == [whole]


def test_a_viewer_of_another_size_lacks_all_of_it_and_the_video() -> None:
    one, _ = viewer(rough=LEFT)
    one.takes(made(film=True, key=True), True, None)
    assert one.video
    one.voided(Size(640, 400))
    assert one.missing.rects == (Rect(0, 0, 640, 400),) and not one.rough and not one.video


@pytest.mark.parametrize(("film", "key", "had", "share"), [
    (False, False, False, Share.ALL), (True, False, True, Share.ALL), (True, True, False, Share.ALL),
    (True, False, False, Share.STILLS),
])  # fmt: skip
def test_a_viewer_that_lacks_nothing_is_sent_what_is_for_all_and_video_if_it_can_show_it(
    film: bool, key: bool, had: bool, share: Share
) -> None:
    one, _ = viewer()
    one.takes(made(film=True, key=had), had, None)
    one.missing.take()
    assert one.takes(made(film, key), True, None) == (share, ()) and not one.catching
    assert one.missing.rects == ((LOW,) if share is Share.STILLS else ())
    assert one.video == (had or key)


def test_what_was_not_sent_is_missing_and_video_only_if_there_was_any() -> None:
    one, _ = viewer()
    one.takes(made(film=True, key=True), True, None)
    assert one.takes(made(), False, None) == (Share.NONE, ()) and one.video
    assert one.missing.rects == (RIGHT,)
    assert one.takes(made(film=True), True, None) == (Share.NONE, ()) and not one.video, "nothing was made for it"
    assert set(one.missing.rects) == {RIGHT, LOW}


def test_a_viewer_that_lacks_something_is_sent_that_alone_until_it_lacks_nothing() -> None:
    one, _ = viewer(missing=LEFT)
    rest = Lacking((LOW,), (LEFT,))
    assert one.takes(made(), True, answer(one, rest, OWN)) == (Share.NONE, (OWN,)) and one.catching
    assert (one.missing.rects, one.rough.rects) == ((LOW,), (LEFT,))
    assert one.takes(made(), True, answer(one, Lacking((), (LEFT,)), OWN)) == (Share.NONE, (OWN,))
    assert not one.missing
    assert one.takes(made(), True, answer(one, Lacking((), ()), OWN)) == (Share.ALL, (OWN,))
    assert not one.rough, "with what is for all, it is sent exactly what it saw roughly"


def test_what_was_made_for_a_viewer_is_void_once_it_lacks_everything() -> None:
    for missing, rough in ((LEFT, None), (None, LEFT)):
        one, _ = viewer(missing=missing, rough=rough)
        for_it = answer(one, Lacking((), ()), OWN)
        one.voided(Size(640, 400))
        assert one.takes(made(), True, for_it) == (Share.NONE, ())
        assert one.missing.rects == (Rect(0, 0, 640, 400),)


def test_a_picture_without_room_is_missing_and_fills_no_line() -> None:
    one, sink = viewer()
    one.takes(made(film=True, key=True), True, None)
    sink.roomy = False
    assert not one.push(picture(STILL, OWN), 0)
    assert set(one.missing.rects) == {LEFT, RIGHT} and one.video and not one.line.queued_ns(0)
    assert not one.push(picture(FILM), 0)
    assert not one.video and set(one.missing.rects) == {LEFT, RIGHT, LOW}
