"""What a picture encoder knows of one of its viewers: what it lacks, and how full its line is.

A viewer's state changes here only: its encoder tells it what was made, and is told what to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from millrace.graph.pictures import Overlay
from millrace.outlets.encoded import EncodedPicture, PictureSink
from millrace.outlets.line import QUEUED_MAX_NS, Line
from millrace.outlets.picturework import Given, Lacking, Made
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import HostNs
from millrace.wire.peer.pictures import VIDEO_TYPES, Part, PartType


class Share(Enum):
    """Which of the parts that are for all viewers one is sent."""

    ALL = "all"
    STILLS = "stills"
    """It lacks the video that the others refer to."""
    NONE = "none"


class Viewer:
    """One viewer: what it lacks, and how full its line is."""

    def __init__(self, sink: PictureSink, rate: int) -> None:
        self.sink, self.line = sink, Line(rate)
        self.missing, self.rough = Damage(), Damage()
        self.overlays: tuple[Overlay, ...] = ()
        """Those that lie over what it was sent last."""
        self.video = False
        """Whether its decoder has the last picture of the video."""
        self.asleep = False
        """It was not ready when it was asked; it says when it is."""
        self.left = False
        self.catching = False
        """The last picture brought something of what it lacked."""
        self._anew = True
        """It has nothing yet: its next picture is made of nothing before it."""

    def leave(self) -> None:
        """It is sent nothing more."""
        self.left = True

    def set_rate(self, rate: int) -> None:
        """Its line takes so many bit/s."""
        self.line.rate = rate

    def wake(self) -> None:
        """It may be ready now."""
        self.asleep = False

    def voided(self, size: Size) -> None:
        """It has nothing of pictures of this size yet."""
        self.missing, self.rough, self.video = Damage([Rect(0, 0, size.width, size.height)]), Damage(), False
        self.overlays, self._anew = (), True

    def uncovered(self, rects: Sequence[Rect]) -> None:
        """Nothing lies over these any more that the viewer has drawn by itself."""
        self._missed([rect for rect in rects if rect.area], False)

    def ready(self, now_ns: HostNs) -> bool:
        """Whether it should be sent a picture now."""
        self.asleep = not self.sink.ready(now_ns)
        return not self.asleep and self.line.queued_ns(now_ns) <= QUEUED_MAX_NS

    def lacking(self) -> Lacking:
        """What it lacks, to compare with other viewers."""
        return Lacking(self.missing.rects, self.rough.rects, self.sink.sparing)

    # Meanwhile it may have come to lack all: what was made for it then is too little, and void.
    def takes(self, made: Made, asked: bool, given: tuple[Lacking, Given] | None) -> tuple[Share, tuple[Part, ...]]:
        """A picture was made: what of it this viewer is sent, and the parts of its own.

        `asked`: it was ready when that was begun; `given` is what it lacked then, and the answer to that.
        """
        now = given[1] if given is not None and given[0].missing == self.missing.rects else None
        own = () if now is None else now.parts
        self.catching = bool(own)
        if not asked or (self.missing and not own):
            self._missed(made.touched, bool(made.video))
            return Share.NONE, ()
        if self.missing and now is not None:
            self.missing, self.rough = Damage(now.left.missing), Damage(now.left.rough)
            self.video = made.key or (self.video and not made.video)
            return Share.NONE, own
        if now is not None:
            # What it saw roughly is all that it lacked besides the parts for all.
            self.rough = Damage(now.left.rough)
        if made.video and not (self.video or made.key):
            self._missed(made.video, True)
            return Share.STILLS, own
        self.video = self.video or made.key
        return Share.ALL, own

    def push(self, picture: EncodedPicture, now_ns: HostNs) -> bool:
        """Send it what it takes; False if there is no room for that: then it lacks that too."""
        if not self.sink.push(picture._replace(key=True) if self._anew else picture):
            self._missed([part.at for part in picture.parts], any(part.type in VIDEO_TYPES for part in picture.parts))
            return False
        self._moved(picture.parts)
        self.overlays, self._anew = picture.overlays, False
        self.line.sent(picture.size, now_ns)
        return True

    def _moved(self, parts: Sequence[Part]) -> None:
        """These moves take what it sees roughly elsewhere."""
        for part in parts:
            origin = part.at.moved(-part.dx, -part.dy)
            if part.type == PartType.MOVE and any(rect.common(origin).area for rect in self.rough.rects):
                self.rough.add(part.at)

    def _missed(self, rects: Sequence[Rect], video: bool) -> None:
        """It was not sent these; `video`: there was some in it."""
        for rect in rects:
            self.missing.add(rect)
        self.video = self.video and not video
