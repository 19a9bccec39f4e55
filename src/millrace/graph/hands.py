"""The keys and buttons that one viewer holds down, so that they can be released when it may no longer type."""

from __future__ import annotations

from millrace.graph.pictures import ScreenSource
from millrace.pixels.rects import Point

WHEEL = 0b11000
"""Notches of the wheel, which are no buttons that can be held."""


class Hands:
    """What one viewer holds down on a screen."""

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        self._buttons = 0
        self._at, self._relative = Point(0, 0), False

    @property
    def keys(self) -> tuple[int, ...]:
        """Scan codes of the keys, in the order in which they were pressed."""
        return tuple(self._keys)

    def key(self, source: ScreenSource, code: int, down: bool) -> None:
        """Press or release a key. A press that is repeated is passed on: it is the viewer's auto-repeat."""
        source.key(code, down)
        if down:
            self._keys[code] = None
        else:
            self._keys.pop(code, None)

    def pointer(self, source: ScreenSource, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer, with these buttons down."""
        source.pointer(at, buttons, relative)
        self._at, self._buttons, self._relative = at, buttons & ~WHEEL, relative

    # The pointer stays where it is: a movement of nothing, or the position that was last.
    def release(self, source: ScreenSource) -> None:
        """Release everything, the last key first."""
        keys, buttons = list(self._keys), self._buttons
        self.forget()
        for code in reversed(keys):
            source.key(code, False)
        if buttons:
            source.pointer(Point(0, 0) if self._relative else self._at, 0, self._relative)

    def forget(self) -> None:
        """The screen is gone, and with it what was held down there."""
        self._keys.clear()
        self._buttons = 0
