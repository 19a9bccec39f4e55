"""Rectangles, and what changed on a screen as a few of them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

RECTS_MAX = 64
"""What changed is kept in as many: then those are joined that cost the fewest pixels more."""


class Point(msgspec.Struct, frozen=True):
    """A place, from the top left corner."""

    x: int
    y: int


class Size(msgspec.Struct, frozen=True):
    """A width and a height."""

    width: int
    height: int


class Rect(msgspec.Struct, frozen=True):
    """A rectangle, empty if it has no width or no height."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first column after it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row after it."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Pixels in it."""
        return max(0, self.width) * max(0, self.height)

    def common(self, other: Rect) -> Rect:
        """What both have; empty if they do not touch."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Rect(x, y, width, height) if width > 0 and height > 0 else EMPTY

    def around(self, other: Rect) -> Rect:
        """The smallest that holds both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Rect(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def holds(self, other: Rect) -> bool:
        """Whether the other lies in this one."""
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom

    def moved(self, dx: int, dy: int) -> Rect:
        """As large, elsewhere."""
        return Rect(self.x + dx, self.y + dy, self.width, self.height)

    def even(self) -> Rect:
        """The smallest around it with even edges, for colour that is kept for two by two pixels."""
        x, y = self.x & ~1, self.y & ~1
        return Rect(x, y, (self.right + 1 & ~1) - x, (self.bottom + 1 & ~1) - y)


EMPTY = Rect(0, 0, 0, 0)


class Damage:
    """What changed: rectangles that together cover it, at most `RECTS_MAX` of them.

    They may overlap, and cover more than changed, never less.
    """

    __slots__ = ("_rects",)

    def __init__(self, rects: Iterable[Rect] = ()) -> None:
        self._rects: list[Rect] = []
        for rect in rects:
            self.add(rect)

    def __bool__(self) -> bool:
        return bool(self._rects)

    @property
    def rects(self) -> tuple[Rect, ...]:
        """As they are now."""
        return tuple(self._rects)

    def add(self, rect: Rect) -> None:
        """`rect` changed too."""
        if not rect.area or any(held.holds(rect) for held in self._rects):
            return
        self._rects = [held for held in self._rects if not rect.holds(held)]
        if len(self._rects) >= RECTS_MAX:
            rect = self._rects.pop(self._nearest(rect)).around(rect)
            self.add(rect)
            return
        self._rects.append(rect)

    def _nearest(self, rect: Rect) -> int:
        """Which of them covers the fewest pixels more when it takes `rect` in."""
        costs = [held.around(rect).area - held.area for held in self._rects]
        return costs.index(min(costs))

    def take(self) -> tuple[Rect, ...]:
        """What changed since it was last taken."""
        rects, self._rects = self._rects, []
        return tuple(rects)
