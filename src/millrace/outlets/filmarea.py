"""The area of a screen's film, which its video stream codes. Pure: rectangles that are film go in, an area comes out.

x264 and decoders take time for what does not change too (decision 12): so the stream is only as large as the film. A
stream of another area begins with a key picture, so the area follows what is film slowly.
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
"""An area that is too large for longer is made smaller. After as long without a film, the next one has an area of its
own."""
LONGER, PATIENCE_MAX_NS = 4, 120 * NS_PER_S


# A film in a window that is dragged would be key pictures only. So an area that was outgrown becomes the whole screen,
# and each time it takes longer until that is made smaller again.
class FilmArea:
    """The area of the film of one screen; its edges are those of macroblocks, or of the screen."""

    def __init__(self, whole: Rect) -> None:
        self._whole = whole
        self.at = EMPTY
        """The area; empty before the first film."""
        self._used = EMPTY
        """What of it was film since `_since_ns`."""
        self._since_ns: HostNs = 0
        self._patience_ns = SETTLE_NS
        self._last_ns: HostNs = 0

    def take(self, film: Iterable[Rect], now_ns: HostNs) -> bool:
        """These rectangles are film now. Returns whether the area is another one than before."""
        around = EMPTY
        for rect in film:
            around = rect.around(around) if around.area else rect
        needed, before, paused = self._aligned(around), self.at, now_ns - self._last_ns > SETTLE_NS
        self._last_ns = now_ns
        if not self.at.area or paused:
            self._begin(needed, needed, now_ns)
        elif not self.at.holds(needed):
            self._begin(self._whole, needed, now_ns)
        else:
            self._used = self._used.around(needed)
            if now_ns - self._since_ns > self._patience_ns:
                self._patience_ns = self._shrunk(needed, now_ns)
        return self.at != before

    def _shrunk(self, needed: Rect, now_ns: HostNs) -> HostNs:
        """The area has lasted: make it smaller if it is too large. Returns how long the next one has to last."""
        smaller = self._used.area <= LARGE * self.at.area
        self._begin(self._used if smaller else self.at, needed, now_ns)
        if smaller:
            return min(LONGER * self._patience_ns, PATIENCE_MAX_NS)
        return self._patience_ns if self.at == self._whole else SETTLE_NS

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
