"""Lines of a picture that have changed: noting some costs the same however many reports there are."""

from __future__ import annotations

import numpy as np

from millrace.pixels.rects import Rect

GAP = 8
"""So many lines between two that have changed are as well taken with them."""


class Lines:
    """Those of a picture of that size. Which part of a line has changed is not kept."""

    def __init__(self, width: int, height: int) -> None:
        self._whole = Rect(0, 0, width, height)
        self._changed = np.zeros(height, np.bool_)
        self._some = False

    def __bool__(self) -> bool:
        return self._some

    def add(self, rect: Rect) -> None:
        """Something has changed there; what lies beyond the picture does not count."""
        within = rect.common(self._whole)
        if within.area:
            self._changed[within.y : within.bottom] = True
            self._some = True

    def take(self) -> list[Rect]:
        """What has changed since the last call, from the top, as whole lines."""
        rows = np.flatnonzero(self._changed)
        self._changed[:] = False
        self._some = False
        if not len(rows):
            return []
        ends = np.flatnonzero(np.diff(rows) > GAP)
        first, last = rows[[0, *(ends + 1)]].tolist(), rows[[*ends, -1]].tolist()
        return [Rect(0, y, self._whole.width, end + 1 - y) for y, end in zip(first, last, strict=True)]
