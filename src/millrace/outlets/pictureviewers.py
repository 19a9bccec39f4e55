"""What a picture encoder knows of each of its viewers, and of the picture that is being encoded for them."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.graph.screen import Picture
from millrace.outlets.encoded import PictureSink
from millrace.outlets.line import QUEUED_MAX_NS, Line
from millrace.outlets.picturework import Lacking
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import HostNs
from millrace.wire.peer.pictures import Part, PartType


class Viewer:
    """One viewer: what it lacks, and how full its line is."""

    def __init__(self, sink: PictureSink, rate: int) -> None:
        self.sink, self.line = sink, Line(rate)
        self.missing, self.rough = Damage(), Damage()
        self.video = False
        """Whether its decoder has the last picture of the video."""
        self.asleep = False
        """It was not ready when it was asked; it says when it is."""
        self.left = False
        self.catching = False
        """The last picture brought something of what it lacked."""

    def voided(self, size: Size) -> None:
        """It has nothing of pictures of this size yet."""
        self.missing, self.rough, self.video = Damage([Rect(0, 0, size.width, size.height)]), Damage(), False

    def ready(self, now_ns: HostNs) -> bool:
        """Whether it should be sent a picture now."""
        self.asleep = not self.sink.ready(now_ns)
        return not self.asleep and self.line.queued_ns(now_ns) <= QUEUED_MAX_NS

    def lacking(self) -> Lacking:
        """What it lacks, to compare with other viewers."""
        return Lacking(self.missing.rects, self.rough.rects, self.sink.untried)

    def moved(self, parts: Sequence[Part]) -> None:
        """These moves take what it sees roughly elsewhere."""
        for part in parts:
            origin = part.at.moved(-part.dx, -part.dy)
            if part.type == PartType.MOVE and any(rect.common(origin).area for rect in self.rough.rects):
                self.rough.add(part.at)

    def missed(self, rects: Sequence[Rect], video: bool) -> None:
        """It was not sent these."""
        for rect in rects:
            self.missing.add(rect)
        self.video = self.video and not video


class Job:
    """What is being encoded, and for whom."""

    def __init__(self, picture: Picture | None, begun_ns: HostNs, viewers: list[Viewer]) -> None:
        self.picture, self.begun_ns, self.viewers = picture, begun_ns, frozenset(viewers)
        self.catching: list[tuple[Lacking, list[Viewer]]] = []
        self.key = False
        """A viewer needs a key picture. Video that begins anew for another reason has one too."""
        self.first = False
        """It is the first of its mode: its damage is no report of the source."""

    def lacks(self, viewer: Viewer, refine: bool) -> None:
        """Bring this viewer up to date with the same parts as others that lack the same."""
        lacking = viewer.lacking()
        if not lacking.missing and not (refine and lacking.rough):
            return
        for known, viewers in self.catching:
            if known == lacking:
                viewers.append(viewer)
                return
        self.catching.append((lacking, [viewer]))
