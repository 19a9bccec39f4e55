"""The pictures of a screen at another scale."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from millrace.codec import yuv
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect, Size


class Scaled:
    """Scales whole pictures to one size. `scale` is the size of the picture over that of the screen."""

    def __init__(self, size: Size, scale: float) -> None:
        self.picture: Plane = np.zeros((size.height, size.width, 4), np.uint8)
        self._whole, self._scale = Rect(0, 0, size.width, size.height), scale

    def take(self, screen: Plane) -> Plane:
        """Scale a picture of the screen."""
        yuv.scale(screen, self.picture)
        return self.picture

    def touched(self, rects: Iterable[Rect]) -> list[Rect]:
        """What rectangles of the screen may have changed of the picture: a scaler mixes neighbours in."""
        out = []
        for rect in rects:
            x, y = int(rect.x * self._scale) - 2, int(rect.y * self._scale) - 2
            right, bottom = int(rect.right * self._scale) + 3, int(rect.bottom * self._scale) + 3
            out.append(Rect(x, y, right - x, bottom - y).common(self._whole))
        return out
