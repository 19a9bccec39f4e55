"""What a picture encoder knows of its viewers: what each lacks, and who lacks the same."""

from __future__ import annotations

from typing import Any

from millrace.outlets.pictureviewers import Job, Viewer
from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.pictures import Part, PartType

LEFT, RIGHT = Rect(0, 0, 100, 50), Rect(300, 0, 100, 50)


class Sink:
    """A sink that is ready when it is told to be."""

    def __init__(self) -> None:
        self.is_ready, self.untried = True, False

    def ready(self, now_ns: int) -> bool:
        return self.is_ready


def viewer(rate: int = 8_000_000) -> tuple[Viewer, Any]:
    sink: Any = Sink()
    return Viewer(sink, rate), sink


def test_what_is_seen_roughly_is_seen_so_where_it_moves() -> None:
    one, _ = viewer()
    one.rough.add(LEFT)
    one.moved([Part(PartType.MOVE, RIGHT, dx=300, dy=0), Part(PartType.ZSTD, LEFT, b"")])
    assert set(one.rough.rects) == {LEFT, RIGHT}
    other, _ = viewer()
    other.moved([Part(PartType.MOVE, RIGHT, dx=300, dy=0)])
    assert not other.rough


def test_a_viewer_is_asked_again_only_when_its_sink_says_so_and_its_line_is_free() -> None:
    one, sink = viewer(8_000_000)
    assert one.ready(0)
    one.line.sent(100_000, 0)
    assert not one.ready(0) and not one.asleep, "its line frees itself"
    assert one.ready(100_000_000)
    sink.is_ready = False
    assert not one.ready(100_000_000) and one.asleep


def test_viewers_that_lack_the_same_are_brought_up_to_date_together() -> None:
    (one, _), (same, _), (other, untried), (whole, _) = viewer(), viewer(), viewer(), viewer()
    for each in (one, same, other):
        each.missing.add(LEFT)
    untried.untried = True
    whole.rough.add(LEFT)
    job = Job(None, 0, [one, same, other, whole])
    for each in (one, same, other, whole):
        job.lacks(each, refine=False)
    assert [viewers for _, viewers in job.catching] == [[one, same], [other]]
    job.lacks(whole, refine=True)
    assert job.catching[-1][1] == [whole]


def test_a_viewer_of_another_size_lacks_all_of_it_and_the_video() -> None:
    one, _ = viewer()
    one.video = True
    one.rough.add(LEFT)
    one.voided(Size(640, 400))
    assert one.missing.rects == (Rect(0, 0, 640, 400),) and not one.rough and not one.video


def test_what_was_not_sent_is_missing_and_video_only_if_there_was_any() -> None:
    one, _ = viewer()
    one.video = True
    one.missed([LEFT], video=False)
    assert one.video and one.missing.rects == (LEFT,)
    one.missed([RIGHT], video=True)
    assert not one.video and set(one.missing.rects) == {LEFT, RIGHT}
