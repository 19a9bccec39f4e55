"""Viewers that lack the same are brought up to date with the same parts."""

from __future__ import annotations

from millrace.outlets.picturejob import Job
from millrace.outlets.pictureviewer import Viewer
from millrace.pixels.rects import Rect, Size
from tests.picturerig import View


def test_viewers_that_lack_the_same_share_what_brings_it() -> None:
    viewers = [Viewer(View(), 1_000_000) for _ in range(4)]
    for viewer in viewers[:2]:
        viewer.voided(Size(64, 48))
    viewers[2].uncovered([Rect(0, 0, 8, 8), Rect(9, 9, 0, 5)])
    job = Job(None, 5, viewers)
    for viewer in viewers:
        job.lacks(viewer, refine=False)
    assert [(lacking.missing, held) for lacking, held in job.catching] == [
        ((Rect(0, 0, 64, 48),), viewers[:2]), ((Rect(0, 0, 8, 8),), viewers[2:3]),
    ]  # fmt: skip
    assert job.viewers == frozenset(viewers) and not job.key and not job.first


def test_what_is_seen_roughly_is_refined_only_when_nothing_was_painted() -> None:
    viewer = Viewer(View(), 1_000_000)
    viewer.rough.add(Rect(0, 0, 8, 8))
    for refine in (False, True):
        job = Job(None, 5, [viewer])
        job.lacks(viewer, refine)
        assert bool(job.catching) == refine
