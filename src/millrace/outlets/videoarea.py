"""Which part of a screen its video stream codes. Pure: the rectangles that are film go in, an area comes out.

x264 takes 5 ms for a picture of 1920 × 1080 of which nothing changes, and a decoder 2: so the stream is only as large
as the film. A stream of another area begins with a key picture, so the area follows what is film slowly.
"""

from __future__ import annotations

from collections.abc import Iterable

from millrace.pixels.difference import CELL
from millrace.pixels.rects import EMPTY, Rect
from millrace.units import NS_PER_S, HostNs

SIDE_MIN = 64
LARGE = 0.5
"""An area larger than this share of the screen is the whole screen."""
SETTLE_NS: HostNs = 2 * NS_PER_S
"""An area that grows twice within this time becomes the whole screen, and one that is too large for longer is made
smaller. After as long without a film, the next one has an area of its own."""


class VideoArea:
    """The area of the video of one screen; its edges are those of macroblocks, or of the screen."""

    def __init__(self, whole: Rect) -> None:
        self._whole = whole
        self.at = EMPTY
        """The area; empty before the first film."""
        self._used = EMPTY
        """What of it was film since `_since_ns`."""
        self._since_ns: HostNs = 0
        self._grown_ns: HostNs | None = None
        self._last_ns: HostNs = 0

    def take(self, film: Iterable[Rect], now_ns: HostNs) -> bool:
        """These rectangles are film now. Returns whether the area is another one than before."""
        around = EMPTY
        for rect in film:
            around = rect.around(around) if around.area else rect
        needed, before, over = self._aligned(around), self.at, now_ns - self._last_ns > SETTLE_NS
        self._last_ns = now_ns
        if not self.at.area or over:
            self._begin(needed, needed, now_ns)
            self._grown_ns = None
        elif not self.at.holds(needed):
            often = self._grown_ns is not None and now_ns - self._grown_ns <= SETTLE_NS
            self._begin(self._whole if often else self.at.around(needed), needed, now_ns)
            self._grown_ns = now_ns
        else:
            self._used = self._used.around(needed)
            if now_ns - self._since_ns > SETTLE_NS:
                self._begin(self._used if self._used.area <= LARGE * self.at.area else self.at, needed, now_ns)
        return self.at != before

    def _begin(self, at: Rect, used: Rect, now_ns: HostNs) -> None:
        self.at = self._whole if at.area > LARGE * self._whole.area else at
        self._used, self._since_ns = used, now_ns

    def _aligned(self, rect: Rect) -> Rect:
        x, wide = _side(rect.x, rect.right, self._whole.right)
        y, high = _side(rect.y, rect.bottom, self._whole.bottom)
        return Rect(x, y, wide, high)


def _side(begin: int, end: int, most: int) -> tuple[int, int]:
    """Where a side of an area begins, and its length: at edges of macroblocks, and not too short for an encoder."""
    begin = min(begin, max(0, most - SIDE_MIN)) // CELL * CELL
    end = min(most, -(-max(end, begin + SIDE_MIN) // CELL) * CELL)
    return begin, end - begin
