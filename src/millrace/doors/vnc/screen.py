"""The screen of a VNC server: its updates become pictures, and its readers' keys and pointer go back to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.doors.clipboard import MachineClipboard
from millrace.graph.pictures import Cursor, Mode, Move, Shape
from millrace.graph.screen import Screen
from millrace.graph.screens import Screens
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect, Size, few
from millrace.units import HostNs
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import Copied, CursorAt, CursorShape, Filled, Painted, Part, Resized, Update


# Its memory and what it tells its readers change together, when an update is complete: a move is true only of the
# picture before.
class VncScreen:
    """A `ScreenSource`. It exists from the server's first size on until the session ends."""

    def __init__(self, screens: Screens, wire: VncClient, door: str, wake: Callable[[], None]) -> None:
        self._screens, self._wire, self._door, self._wake = screens, wire, door, wake
        self.screen: Screen | None = None
        self._picture: Plane = np.zeros((0, 0, 4), np.uint8)
        self._shapes = 0
        self._watched = False

    def clipboard(self) -> MachineClipboard:
        """The clipboard of its machine, which the caller closes."""
        return MachineClipboard(self._screens, self._wire, self._door, self._wake)

    def resized(self, event: Resized, label: str, now_ns: HostNs) -> None:
        """Another size; GraphError if there is no room for it."""
        size = event.size
        if self.screen is None:
            self.screen = self._screens.add(self, label, self._door)
        # Nothing is resident of it before it is painted.
        picture = np.zeros((size.height, size.width, 4), np.uint8)
        self.screen.set_mode(Mode(size.width, size.height, size.width * 4), picture.data.cast("B"), now_ns)
        self.screen.await_paint()
        self._picture = picture

    def updated(self, update: Update, now_ns: HostNs) -> None:
        """Paint one picture."""
        if self.screen is None:
            return
        moves: list[Move] = []
        rects: list[Rect] = []
        for part in update.parts:
            self._paint(part)
            # Moves come first in a picture. What is copied after something was painted is painted, too.
            if isinstance(part, Copied) and not rects:
                moves.append(Move(part.rect, part.rect.x - part.origin.x, part.rect.y - part.origin.y))
            else:
                rects.append(part.rect)
        self.screen.painted(few(rects), now_ns, moves)

    def _paint(self, part: Part) -> None:
        rect, picture = part.rect, self._picture
        place = picture[rect.y : rect.bottom, rect.x : rect.right]
        if isinstance(part, Painted):
            place[:] = np.frombuffer(part.pixels, np.uint8).reshape(place.shape)
        elif isinstance(part, Filled):
            # As words, which is ten times as fast as four bytes again and again.
            place.view("<u4")[:] = int.from_bytes(part.pixel, "little")
        else:
            x, y = part.origin.x, part.origin.y
            place[:] = picture[y : y + rect.height, x : x + rect.width].copy()

    def cursor_shaped(self, event: CursorShape) -> None:
        """Another pointer."""
        if self.screen is None:
            return
        if not event.size.width:
            self._show(shown=False)
            return
        self._shapes += 1
        self.screen.define_shape(Shape(self._shapes, event.size, event.pixels))
        self._show(shape=self._shapes, hot=event.hot, shown=True)

    def cursor_moved(self, event: CursorAt) -> None:
        """The pointer was moved by somebody else."""
        self._show(at=event.at)

    def _show(
        self, shape: int | None = None, hot: Point | None = None, at: Point | None = None, shown: bool | None = None
    ) -> None:
        if self.screen is None:
            return
        was = self.screen.cursor
        self.screen.set_cursor(
            Cursor(
                was.shape if shape is None else shape, was.hot if hot is None else hot, was.at if at is None else at,
                was.shown if shown is None else shown,
            )
        )  # fmt: skip

    # -- as the source of a screen ---------------------------------------------------------------

    def key(self, code: int, down: bool) -> None:
        """See `ScreenSource`."""
        self._wire.send_key(code, down)
        self._wake()

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`. The server does not say where its pointer is, as its viewer knows that itself."""
        self._show(at=self._wire.send_pointer(at, buttons, relative))
        self._wake()

    def size_wish(self, size: Size) -> None:
        """See `ScreenSource`."""
        self._wire.send_size(size)
        self._wake()

    def paint(self, tracks: frozenset[str]) -> None:
        """See `ScreenSource`. There are no overlays."""

    def watched(self, interval_ns: HostNs | None) -> None:
        """See `ScreenSource`."""
        before, self._watched = self._watched, interval_ns is not None
        self._wire.send_watch(interval_ns)
        if self._watched and not before and self.screen is not None:
            self.screen.await_paint()
        self._wake()

    def close(self) -> None:
        """The session has ended."""
        screen, self.screen = self.screen, None
        if screen is not None:
            self._screens.remove(screen)


# A damage joins rectangles in quadratic time. An update has its own from top to bottom, so neighbours are close.
