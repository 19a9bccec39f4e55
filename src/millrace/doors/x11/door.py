"""The screen of an X display in its guest: what it copies to shared memory becomes pictures. And its clipboard."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from millrace.absent import never
from millrace.doors.clipboard import MachineClipboard
from millrace.doors.inputroom import InputRoom
from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PushedStream
from millrace.errors import BudgetError
from millrace.graph.pictures import PIXEL_BYTES, Characters, Cursor, KeyPress, Mode, Shape
from millrace.graph.screen import Screen
from millrace.graph.screens import Screens
from millrace.graph.steps import Steps
from millrace.pixels.convert import Plane
from millrace.pixels.cursors import straight
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Point, Rect, Size, bands
from millrace.units import HostNs
from millrace.wire.keys import LightsTold
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.events import Captured, CursorShape, LayoutUntold, Ready, Resized, X11Event

log = logging.getLogger("millrace.attach")

NewMemory = Callable[[int], tuple[int, memoryview]]
"""Memory of so many bytes to share: its descriptor, which the receiver owns, and the memory."""
BAND_PIXELS, SHAPE_PIXELS = 64 * 1024, 8 * 1024
"""What is copied in one step, of the screen and of a cursor."""


# It works in steps: an event, or a band of what was copied. While there is more (`busy`), nothing is read from the
# server, and the steps follow in the guest's turns.
class X11Door(PlayingDoor):
    """One display. `told` is called when it has let us in. A `ScreenSource`."""

    streams: Sequence[PushedStream] = ()

    def __init__(
        self, screens: Screens, wire: X11Client, label: str, door: str, memory: NewMemory,
        told: Callable[[Ready], None], wake: Callable[[], None], over: Callable[[], bool] = never,
        full: Callable[[], bool] = never,
    ) -> None:  # fmt: skip
        """`over` is asked after each step whether the turn is over; `full`, whether the server does not read."""
        self.room = InputRoom(lambda: wire.keys_wait or full())
        self._screens, self._wire, self._label, self._door = screens, wire, label, door
        self._new_memory, self._told, self._wake, self._over = memory, told, wake, over
        self._events: deque[X11Event] = deque()
        self._steps = Steps(self._next, over)
        self._received_ns: HostNs = 0
        self._closed = False
        self.screen: Screen | None = None
        self._shared = np.zeros(0, np.uint8)
        self._picture: Plane = np.zeros((0, 0, PIXEL_BYTES), np.uint8)
        self._shapes = 0
        self._size = Size(0, 0)
        self.trouble = ""
        """Why what the display shows is not shown; empty if it is."""
        self._watched = False
        self._cursor: CursorShape | None = None
        self._left_out: CursorShape | None = None
        """A cursor that there was no room for."""
        self._clipboard: MachineClipboard | None = None

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`: one step, and more while the turn lasts."""
        if self._closed:
            return
        self._received_ns = now_ns
        self._take_clip_events()
        self._events += self._wire.events()
        while self.busy:
            if self._steps.work():
                self._events += self._wire.events()
            if self._over():
                break
        self.room.tell()

    # Each takes no time: texts are passed on as they are. What is said to the display may lead to some, too.
    def _take_clip_events(self) -> None:
        if self._clipboard is not None:
            for event in self._wire.selections.events():
                self._clipboard.receive(event)

    def _told_display(self) -> None:
        self._take_clip_events()
        self._wake()

    @property
    def busy(self) -> bool:
        """Whether `receive` must be called again, although nothing has come."""
        return self._steps.begun or bool(self._events)

    @property
    def silent_s(self) -> int:
        """For how many seconds the server has not answered, if that is long."""
        return 0 if self.screen is None else self.screen.facts.silent_s

    def _next(self) -> Iterator[None]:
        return self._handle(self._events.popleft(), self._received_ns)

    def _handle(self, event: X11Event, now_ns: HostNs) -> Iterator[None]:
        if isinstance(event, Ready):
            self._told(event)
            self._clipboard = MachineClipboard(self._screens, self._wire, self._door, self._told_display)
            self._wire.send_clip_watch()
            self._wire.send_through_grabs()
            self._wire.send_release()
        elif isinstance(event, Resized):
            self._resize(event.size, now_ns)
        elif isinstance(event, Captured):
            yield from self._paint(event, now_ns)
        elif isinstance(event, LightsTold):
            if self.screen is not None:
                self.screen.lights.told(event.on)
        elif isinstance(event, LayoutUntold):
            if self.screen is not None:
                self.screen.facts.lacks_layout(event.waited_ns)
        else:
            yield from self._shape(event)

    # The memory is sealed: the server can write into it at any time, but not shrink it under us. So it is copied from,
    # and never shown itself.
    def _resize(self, size: Size, now_ns: HostNs) -> None:
        self._size = size
        picture = np.zeros((size.height, size.width, PIXEL_BYTES), np.uint8)
        mode, copied = Mode(size.width, size.height, size.width * PIXEL_BYTES), picture.nbytes
        try:
            screen = self._added()
            fd, memory = self._new_memory(copied)
        except BudgetError as error:
            fd, memory, copied = self._without(size, error)
        else:
            try:
                screen.set_mode(mode, picture.data.cast("B"), now_ns)
            except BudgetError as error:
                os.close(fd)
                fd, memory, copied = self._without(size, error)
        if copied:
            self.trouble, self._picture = "", picture
            screen.await_paint()
        self._shared = np.frombuffer(memory, np.uint8)
        self._wire.send_memory(fd, copied)

    def _added(self) -> Screen:
        """Its screen, which it may not have yet; BudgetError without room for one."""
        if self.screen is None:
            wire = self._wire
            self.screen = self._screens.add(self, self._label, self._door, lambda: wire.unanswered)
            self.screen.characters = Characters.ALL
        return self.screen

    # The display is left as it is, so that another size can be wished for: the picture before stays. Until it is given
    # memory, the wire tells no other size.
    def _without(self, size: Size, error: BudgetError) -> tuple[int, memoryview, int]:
        """Show nothing of that size. Returns memory into which nothing will be copied."""
        self.trouble = f"no room for its {size.width} × {size.height}: {error}"
        log.warning("%s: %s", self._label, self.trouble)
        return *self._new_memory(PIXEL_BYTES), 0

    def fit(self, now_ns: HostNs) -> None:
        """Show a size that had no room, if it has some now. The display is asked for all of it."""
        needed = 2 * self._size.width * self._size.height * PIXEL_BYTES
        if self.trouble and self._screens.has_room(needed, new=self.screen is None):
            self._resize(self._size, now_ns)
            if self._left_out is not None:
                self._events.append(self._left_out)
            self._wake()

    # A reader may see some of it early, and is told all of it in the end.
    def _paint(self, event: Captured, now_ns: HostNs) -> Iterator[None]:
        assert self.screen is not None
        for rect, offset in event.rects:
            pixels = self._shared[offset : offset + rect.area * PIXEL_BYTES].reshape(rect.height, rect.width, -1)
            place = self._picture[rect.y : rect.bottom, rect.x : rect.right]
            for band in bands(Rect(0, 0, rect.width, rect.height), BAND_PIXELS):
                part_of(place, band)[:] = part_of(pixels, band)
                yield
        self.screen.painted([rect for rect, _ in event.rects], now_ns)
        self._wire.painted(now_ns)

    def _shape(self, event: CursorShape) -> Iterator[None]:
        if self.screen is None:
            self._left_out = event
            return
        if not event.size.width or not event.size.height:
            self._left_out = None
            self.screen.set_cursor(Cursor(at=event.at))
            return
        if self._cursor is None or (self._cursor.pixels, self._cursor.size) != (event.pixels, event.size):
            size, line, parts = event.size, event.size.width * PIXEL_BYTES, []
            for band in bands(Rect(0, 0, size.width, size.height), SHAPE_PIXELS):
                part = event.pixels[band.y * line : band.bottom * line]
                parts.append(straight(part, Size(size.width, band.height)))
                yield
            try:
                self.screen.define_shape(Shape(self._shapes + 1, size, b"".join(parts)))
            except BudgetError as error:
                if self._left_out is None:
                    log.warning("%s: a cursor is left out: %s", self._label, error)
                self._left_out = event
                return
            self._shapes += 1
        self._cursor, self._left_out = event, None
        self.screen.set_cursor(Cursor(self._shapes, event.hot, event.at, True))

    # -- as the source of a screen ---------------------------------------------------------------

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""
        if not self._wire.send_key(press.code, press.down, press.meaning) and self.screen is not None:
            self.screen.facts.untyped()
        self._wire.send_check()
        self._wake()

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`. The first key waits for the layout, which is not asked for before."""
        self._wire.send_keys_watch()
        self._wake()
        return self.room.takes(key, again)

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`. The server tells where its pointer is only when it looks different."""
        self._wire.send_pointer(at, buttons, relative)
        if self.screen is not None:
            was, mode = self.screen.cursor, self._picture.shape
            x, y = (was.at.x + at.x, was.at.y + at.y) if relative else (at.x, at.y)
            place = Point(min(max(x, 0), mode[1] - 1), min(max(y, 0), mode[0] - 1))
            self.screen.set_cursor(Cursor(was.shape, was.hot, place, was.shown))
        self._wire.send_check()
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
        if self._watched and not before and self._wire.behind and self.screen is not None:
            self.screen.await_paint()
        self._wake()

    def close(self) -> None:
        """See `MachineDoor`. What it says to the display then is the last."""
        self._closed = True
        self._steps.close()
        self._events.clear()
        screen, self.screen = self.screen, None
        if screen is not None:
            self._screens.remove(screen)
        clipboard, self._clipboard = self._clipboard, None
        if clipboard is not None:
            clipboard.close()
        self.room.close()
        self._shared = np.zeros(0, np.uint8)
        self._wire.send_end()
