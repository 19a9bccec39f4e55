"""The pointer of a screen, as it was last sent to one viewer."""

from __future__ import annotations

import weakref

from millrace.graph.pictures import Cursor, Shape
from millrace.graph.screen import SHAPES_MAX, Screen
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.peer.pictures import SIDE_MAX, CursorChanged, Part, PartType
from millrace.wire.peer.viewing import ViewServer

CURSOR_NS = 15 * NS_PER_MS
"""A pointer that moves faster is sent no more often than this."""


class SentCursor:
    """What a viewer knows of the pointer: its last state, and the shapes that were sent."""

    def __init__(self) -> None:
        self._cursor: Cursor | None = None
        self._at_ns: HostNs = 0
        # Weak, because the screen may drop a shape, whose pixels are then nobody's.
        self._shapes: dict[int, weakref.ref[Shape]] = {}

    def again(self) -> None:
        """Its position has to be sent again: the picture has another size."""
        self._cursor = None

    def due(self, screen: Screen) -> HostNs | None:
        """When it can be sent; None if it is as it was."""
        return None if screen.cursor is self._cursor else self._at_ns + CURSOR_NS

    def send(self, screen: Screen, size: Size, wire: ViewServer, now_ns: HostNs) -> None:
        """Send it to a viewer whose picture has that size, with its shape if that is new."""
        cursor, memory = screen.cursor, screen.memory
        self._cursor, self._at_ns = cursor, now_ns
        shape = screen.shape(cursor.shape)
        if cursor.shown and shape is not None and not self._knows(shape):
            self._define(shape, cursor, wire)
        across = size.width / memory.mode.width if memory else 1
        down = size.height / memory.mode.height if memory else 1
        at, hot = cursor.at, cursor.hot
        wire.send_message(
            CursorChanged(
                cursor.shape & 0xFFFF, _bounded(at.x * across), _bounded(at.y * down), _bounded(hot.x), _bounded(hot.y),
                cursor.shown,
            )
        )  # fmt: skip

    def bytes(self, screen: Screen) -> int:
        """How many bytes its shape takes, if that would be sent."""
        shape = screen.shape(screen.cursor.shape)
        return 0 if shape is None or not screen.cursor.shown or self._knows(shape) else len(shape.pixels)

    def _knows(self, shape: Shape) -> bool:
        known = self._shapes.get(shape.number)
        return known is not None and known() is shape

    def _define(self, shape: Shape, cursor: Cursor, wire: ViewServer) -> None:
        self._shapes.pop(shape.number, None)
        self._shapes[shape.number] = weakref.ref(shape)
        while len(self._shapes) > SHAPES_MAX:
            del self._shapes[next(iter(self._shapes))]
        hot = max(0, _bounded(cursor.hot.x)), max(0, _bounded(cursor.hot.y))
        at = Rect(*hot, shape.size.width, shape.size.height)
        wire.send_shape(Part(PartType.SHAPE, at, shape.pixels, shape.number))


def _bounded(number: float) -> int:
    return max(-SIDE_MAX, min(SIDE_MAX, round(number)))
