"""The screen of a VNC server: its updates become pictures, and its readers' keys and pointer go back to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from millrace.absent import never
from millrace.doors.clipboard import MachineClipboard
from millrace.doors.inputroom import InputRoom
from millrace.errors import BudgetError
from millrace.graph.pictures import MOVES_MAX, PIXEL_BYTES, Characters, Cursor, KeyPress, Mode, Move, Shape
from millrace.graph.screen import Screen
from millrace.graph.screens import Screens
from millrace.pixels.rects import Few, Point, Rect, Size, bands
from millrace.units import HostNs
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import Copied, CursorAt, CursorShape, Filled, Painted, Part, Resized, Update

log = logging.getLogger("millrace.attach")

PIXEL_WORK, ROW_WORK = 2, 150
"""What it costs to paint or copy a pixel, and each row of a rectangle: in memory that is new, up to a page."""
BAND_WORK = 200_000
"""What is painted at once."""
RECT_WORK = 13_000
"""What a rectangle costs, however small."""
TOLD_WORK = 200_000
"""What it costs to tell the readers what was painted."""
Pixels = NDArray[np.uint32]


class _Changes:
    """What the parts of an update change. Moves come first in a picture: a copy after anything else is painted, too."""

    def __init__(self, parts: int) -> None:
        self.moves: list[Move] = []
        self._parts = parts
        self._few: Few | None = None

    def add(self, part: Part) -> None:
        """The next part."""
        if self._few is None and isinstance(part, Copied) and len(self.moves) < MOVES_MAX:
            self.moves.append(Move(part.rect, part.rect.x - part.origin.x, part.rect.y - part.origin.y))
            return
        if self._few is None:
            self._few = Few(self._parts - len(self.moves))
        self._few.add(part.rect)

    @property
    def rects(self) -> list[Rect]:
        """What was painted: a few rectangles that cover it."""
        return [] if self._few is None else self._few.rects


# Its memory and what it tells its readers change together, when an update is complete: a move is true only of the
# picture before. An update that takes more than one step is seen by nobody until it is painted.
class VncScreen:
    """A `ScreenSource`. It exists from the server's first size on until the session ends."""

    def __init__(
        self, screens: Screens, wire: VncClient, door: str, wake: Callable[[], None],
        full: Callable[[], bool] = never,
    ) -> None:  # fmt: skip
        """`full` says whether the server leaves unread what it was sent."""
        self.room = InputRoom(full)
        wire.giving.open(full)
        self._screens, self._wire, self._door, self._wake = screens, wire, door, wake
        self.screen: Screen | None = None
        self._picture: Pixels = np.zeros((0, 0), "<u4")
        self._shapes = 0
        self._watched = False
        self._size, self._label = Size(0, 0), ""
        self.trouble = ""
        """Why what the server shows is not shown; empty if it is."""
        self._left_out: CursorShape | None = None
        """A cursor that there was no room for."""

    def clipboard(self) -> MachineClipboard:
        """The clipboard of its machine, which the caller closes."""
        return MachineClipboard(self._screens, self._wire, self._door, self._wake)

    def resized(self, event: Resized, label: str, now_ns: HostNs) -> None:
        """Another size. Without room for it, the picture before stays, and another size can be wished for."""
        self._size, self._label = event.size, label
        self._begin(now_ns)

    def _added(self) -> Screen:
        """Its screen, which it may not have yet; BudgetError without room for one."""
        if self.screen is None:
            self.screen = self._screens.add(self, self._label, self._door)
            self.screen.characters = Characters.NONE if self._wire.is_qemu else Characters.OTHERS
        return self.screen

    def _begin(self, now_ns: HostNs) -> None:
        width, height = self._size.width, self._size.height
        # Nothing of it is resident before it is painted.
        picture = np.zeros((height, width), "<u4")
        try:
            screen = self._added()
            screen.set_mode(Mode(width, height, width * PIXEL_BYTES), picture.data.cast("B"), now_ns)
        except BudgetError as error:
            self.trouble = f"no room for its {width} × {height}: {error}"
            log.warning("%s: %s", self._label, self.trouble)
            return
        screen.await_paint()
        self.trouble, self._picture = "", picture

    def fit(self, now_ns: HostNs) -> None:
        """Show a size that had no room, if it has some now. What was painted meanwhile is asked for."""
        needed = self._size.width * self._size.height * PIXEL_BYTES
        if self.trouble and self._screens.has_room(needed, new=self.screen is None):
            self._begin(now_ns)
            if self._left_out is not None:
                self.cursor_shaped(self._left_out)
            self._wire.send_whole()
            self._wake()

    def updated(self, update: Update, now_ns: HostNs) -> Iterator[int]:
        """Paint one picture; yields what each step has cost."""
        screen = self.screen
        if screen is None or self.trouble:
            return
        screen.await_paint()
        changes = _Changes(len(update.parts))
        parts = update.parts
        while parts:
            part = parts.popleft()
            changes.add(part)
            yield from self._paint(part)
        screen.painted(changes.rects, now_ns, changes.moves)
        yield TOLD_WORK

    def _paint(self, part: Part) -> Iterator[int]:
        rect, source = part.rect, self._source(part)
        place = self._picture[rect.y : rect.bottom, rect.x : rect.right]
        row_work = ROW_WORK + PIXEL_WORK * rect.width
        if rect.height * row_work <= BAND_WORK:
            # As most are.
            place[:] = source.copy() if isinstance(part, Copied) else source
            yield RECT_WORK + rect.height * row_work
            return
        for band in _bands(part, BAND_WORK // row_work * rect.width):
            rows = slice(band.y, band.bottom)
            pixels = source if isinstance(part, Filled) else source[rows]
            place[rows] = pixels.copy() if isinstance(part, Copied) else pixels
            yield RECT_WORK + band.height * row_work

    def _source(self, part: Part) -> Pixels:
        """What it is to be: its pixels, or a single one for all of them."""
        if isinstance(part, Filled):
            return np.frombuffer(part.pixel, "<u4")
        if isinstance(part, Painted):
            return np.frombuffer(part.pixels, "<u4").reshape(part.rect.height, part.rect.width)
        at, rect = part.origin, part.rect
        return self._picture[at.y : at.y + rect.height, at.x : at.x + rect.width]

    def cursor_shaped(self, event: CursorShape) -> None:
        """Another pointer. Without room for it, the one before stays."""
        if self.screen is None:
            self._left_out = event
            return
        if not event.size.width:
            self._left_out = None
            self._show(shown=False)
            return
        try:
            self.screen.define_shape(Shape(self._shapes + 1, event.size, event.pixels))
        except BudgetError as error:
            if self._left_out is None:
                log.warning("%s: a cursor is left out: %s", self._label, error)
            self._left_out = event
            return
        self._left_out = None
        self._shapes += 1
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

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""
        self._wire.send_key(press.code, press.down, press.meaning)
        if self._wire.is_qemu:
            self.room.used()
        self._wake()

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`."""
        return self.room.takes(key, again)

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
        self.room.close()
        self._wire.giving.close()


# Where a copy overlaps its origin, each band must be read before another is painted there: so it begins at the end that
# it moves to.
def _bands(part: Part, pixels: int) -> list[Rect]:
    """Bands of it, from its own corner, in the order in which they are to be painted."""
    rect = part.rect
    out = list(bands(Rect(0, 0, rect.width, rect.height), pixels))
    return out[::-1] if isinstance(part, Copied) and rect.y > part.origin.y else out
