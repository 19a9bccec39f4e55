"""Rectangles, and the damage of a screen as a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest

import msgspec

RECTS_MAX = 64
"""The most that a damage keeps. Beyond that, the two whose union adds the fewest pixels are joined."""
MANY = 8
"""As many that come at once are joined with their neighbours instead, which takes a fiftieth of the time."""
OTHERS_MAX = 16
"""So many are taken away from others; each may cut every one of those into four."""
CURSOR_SIDE_MAX = 512
"""Of a cursor, either way, in pixels. Those of X, QEMU and browsers are smaller."""


class Point(msgspec.Struct, frozen=True):
    """A position, from the top left corner."""

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
        """Its number of pixels."""
        return max(0, self.width) * max(0, self.height)

    def common(self, other: Rect) -> Rect:
        """The intersection; empty if they do not overlap."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Rect(x, y, width, height) if width > 0 and height > 0 else EMPTY

    def around(self, other: Rect) -> Rect:
        """The smallest rectangle that contains both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Rect(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def holds(self, other: Rect) -> bool:
        """Whether this one contains the other."""
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom

    def moved(self, dx: int, dy: int) -> Rect:
        """The same size, elsewhere."""
        return Rect(self.x + dx, self.y + dy, self.width, self.height)

    def even(self) -> Rect:
        """The smallest enclosing rectangle with even edges, for chroma that covers two by two pixels."""
        x, y = self.x & ~1, self.y & ~1
        return Rect(x, y, (self.right + 1 & ~1) - x, (self.bottom + 1 & ~1) - y)


EMPTY = Rect(0, 0, 0, 0)


class Move(msgspec.Struct, frozen=True):
    """The content of `to` was copied from the same screen, from `dx` and `dy` before it."""

    to: Rect
    dx: int
    dy: int

    @property
    def origin(self) -> Rect:
        """Where the content comes from."""
        return self.to.moved(-self.dx, -self.dy)


def bands(rect: Rect, pixels: int) -> Iterator[Rect]:
    """The rectangle from the top, in bands of whole rows: at most so many pixels each, or one row."""
    rows = max(1, pixels // max(1, rect.width))
    for y in range(rect.y, rect.bottom, rows):
        yield Rect(rect.x, y, rect.width, min(rows, rect.bottom - y))


# Damage too large costs bytes, damage too small leaves a wrong picture on the screen for good. So wherever something
# has to be simplified, the result covers more.
class Damage:
    """What changed: at most `RECTS_MAX` rectangles that together cover it.

    They may overlap, and cover more than changed, but never less.
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
        """The current rectangles."""
        return tuple(self._rects)

    def add(self, rect: Rect) -> None:
        """`rect` changed too."""
        if not rect.area or any(held.holds(rect) for held in self._rects):
            return
        self._rects = [held for held in self._rects if not rect.holds(held)]
        # The union may hold others, and is added like any rectangle; there is room for it now, so this recurses once.
        if len(self._rects) >= RECTS_MAX:
            rect = self._rects.pop(self._nearest(rect)).around(rect)
            self.add(rect)
            return
        self._rects.append(rect)

    def add_all(self, rects: Iterable[Rect]) -> None:
        """These changed too."""
        given = list(rects)
        if len(given) < MANY:
            for rect in given:
                self.add(rect)
            return
        both = dict.fromkeys(rect for rect in (*self._rects, *given) if rect.area)
        self._rects = few(sorted(both, key=_place))

    def _nearest(self, rect: Rect) -> int:
        """The index of the rectangle that grows least when joined with `rect`."""
        costs = [held.around(rect).area - held.area for held in self._rects]
        return costs.index(min(costs))

    def take(self) -> tuple[Rect, ...]:
        """What changed since the last call."""
        rects, self._rects = self._rects, []
        return tuple(rects)


def _place(rect: Rect) -> tuple[int, int]:
    return rect.y, rect.x


class Few:
    """So many rectangles, one after the other, as at most as many as a damage keeps, which cover them."""

    __slots__ = ("_each", "_joined", "rects")

    def __init__(self, count: int) -> None:
        self.rects: list[Rect] = []
        self._each = -(-count // RECTS_MAX)
        self._joined = 0
        """How many the last one covers."""

    def add(self, rect: Rect) -> None:
        """The next one."""
        if self.rects and self._joined < self._each:
            last = self.rects[-1]
            self.rects[-1] = last.around(rect) if last.area else rect
            self._joined += 1
        else:
            self.rects.append(rect)
            self._joined = 1


def few(rects: list[Rect]) -> list[Rect]:
    """At most as many rectangles as a damage keeps, which cover these."""
    out = Few(len(rects))
    for rect in rects:
        out.add(rect)
    return out.rects


def beyond(rects: Iterable[Rect], others: Iterable[Rect]) -> list[Rect]:
    """What lies of some rectangles in none of the others, or more: of many others, only the largest count."""
    left = few([rect for rect in rects if rect.area])
    for other in nlargest(OTHERS_MAX, others, key=lambda one: one.area):
        left = few([part for rect in left for part in _outside(rect, other)])
    return left


def _outside(rect: Rect, other: Rect) -> list[Rect]:
    """What is left of a rectangle above, below, left and right of another one."""
    cut = rect.common(other)
    if not cut.area:
        return [rect]
    parts = (
        Rect(rect.x, rect.y, rect.width, cut.y - rect.y),
        Rect(rect.x, cut.bottom, rect.width, rect.bottom - cut.bottom),
        Rect(rect.x, cut.y, cut.x - rect.x, cut.height),
        Rect(cut.right, cut.y, rect.right - cut.right, cut.height),
    )
    return [part for part in parts if part.area]
