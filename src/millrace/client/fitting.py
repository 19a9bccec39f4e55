"""How a picture lies in a window: as large as it is if there is room, else made smaller; in the middle."""

from __future__ import annotations

import numpy as np

from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect, Size


class Fit:
    """One picture in one window. It is enlarged only by whole factors, which keep text sharp."""

    def __init__(self, picture: Size, window: Size) -> None:
        self._picture = picture
        place = _placed(picture, window)
        self.place = place
        """Where in the window."""
        self.at = Point(place.x, place.y)
        self.exact = (place.width, place.height) == (picture.width, picture.height)
        """Whether its pixels are the window's."""

    def scaled(self, pixels: Plane) -> Plane:
        """The picture in the size of its place, by the nearest pixel."""
        if self.exact:
            return pixels
        rows = np.arange(self.place.height) * self._picture.height // self.place.height
        columns = np.arange(self.place.width) * self._picture.width // self.place.width
        return pixels[rows[:, None], columns]

    def inside(self, at: Point) -> Point:
        """A point of the window, as one of the picture; outside of it the nearest."""
        if not self.place.area:
            return Point(0, 0)
        x = (at.x - self.at.x) * self._picture.width // self.place.width
        y = (at.y - self.at.y) * self._picture.height // self.place.height
        return Point(min(max(x, 0), self._picture.width - 1), min(max(y, 0), self._picture.height - 1))


def _placed(picture: Size, window: Size) -> Rect:
    if not (picture.width and picture.height and window.width and window.height):
        return Rect(0, 0, 0, 0)
    factor = min(window.width // picture.width, window.height // picture.height)
    if factor:
        wide, high = picture.width * factor, picture.height * factor
    elif window.width * picture.height <= window.height * picture.width:
        wide, high = window.width, max(1, picture.height * window.width // picture.width)
    else:
        wide, high = max(1, picture.width * window.height // picture.height), window.height
    return Rect((window.width - wide) // 2, (window.height - high) // 2, wide, high)
