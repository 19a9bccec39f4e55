"""One console of QEMU: its calls become a screen, and keys and the pointer become calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from millrace.doors.canvas import Canvas, Rows, rows_of
from millrace.doors.pushed import PushedStream
from millrace.doors.qemu.input import ConsoleInput
from millrace.errors import GraphError
from millrace.graph.pictures import PIXEL_BYTES, SHAPE_SIDE_MAX, SIDE_MAX, Cursor, Shape
from millrace.graph.screens import Screens
from millrace.pixels.rects import Damage, Point, Rect, Size
from millrace.text import printable
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.qemu.client import Console
from millrace.wire.qemu.display import (
    FORMATS,
    CursorDefine,
    Disabled,
    MouseSet,
    Scanout,
    ScanoutMap,
    ScreenEvent,
    ScreenPeer,
    Unsupported,
    Update,
    UpdateMap,
)

log = logging.getLogger("millrace.qemu")
DELAY_NS: dict[str, HostNs] = {"virtio": 2 * NS_PER_MS, "qxl": 30 * NS_PER_MS}
"""From painting to the call, median, by the beginning of the card's name. Measured with QEMU 7.2 and 10.0."""
OTHER_DELAY_NS = 15 * NS_PER_MS
"""Of other cards, which QEMU looks at every 30 ms."""
SHAPES_KNOWN_MAX = 32
IN_PLACE_MIN = 512 * 512
"""Pixels of lines from which shared memory is not compared here."""
GL = ("ScanoutDMABUF", "UpdateDMABUF")


class Shared(Protocol):
    """Memory that QEMU shares, and may change or shrink at any time."""

    def read(self, at: int, into: memoryview) -> bool:
        """Fill `into` from there on; False if the memory ends before that."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


Open = Callable[[int], Shared | None]
"""The memory behind a descriptor, which is taken over; None if it is no memory."""


# What QEMU shares is copied at once, as it goes on painting there. While nobody watches it is not even copied: what
# QEMU says has changed is noted, and copied when somebody comes. Copies, which are here anyway, are always painted.
#
# A picture that can't be shown (a format, no room) leaves the screen blank and the machine's sound alone; what follows
# is dropped until QEMU sends a whole picture again.
class QemuScreen:
    """A console: QEMU's calls to the listener `peer`; keys and the pointer go to `control`."""

    streams: Sequence[PushedStream] = ()
    recording = False

    def __init__(
        self, screens: Screens, peer: ScreenPeer, console: Console, door: str, control: ConsoleInput,
        open_shared: Open, report: Callable[[str, str], None] = lambda cause, why: None,
    ) -> None:  # fmt: skip
        """GraphError if there is no room for a screen. `report` is told of a cause of the stage "screen", and why."""
        self.peer, self.console, self.control = peer, console, control
        self.trouble = ""
        """Why the screen shows nothing, for users."""
        label = console.label or "console"
        if console.head:
            label = f"{label} head {console.head}"
        self._screens, self._open, self._report = screens, open_shared, report
        self._delay_ns = next((ns for name, ns in DELAY_NS.items() if label.startswith(name)), OTHER_DELAY_NS)
        self.screen = screens.add(self, label, door)
        self.canvas = Canvas(self.screen)
        self._shared: Shared | None = None
        self._map = ScanoutMap(-1, 0, 0, 0, 0, 0)
        self._stale = Damage()
        """What has changed in the shared memory and was not copied."""
        self._shapes: dict[bytes, int] = {}
        self._cursor = Cursor(shown=True)
        self._watched = self._ended = False
        self._shown = False
        """Whether what QEMU sends has a place on the screen."""
        self._said = Size(0, 0)
        """The size that QEMU told by the other way; 0 × 0 before it has."""
        self._now_ns: HostNs = 0
        self._number = 0

    # -- from QEMU -------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether there is something to publish."""
        return bool(self.canvas)

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`; `publish` must follow when no more comes."""
        if not self.canvas:
            self._now_ns = now_ns
        for event in self.peer.events():
            self._take(event)

    def publish(self) -> None:
        """Show what was painted. QEMU paints a picture in many small calls, in text mode hundreds."""
        self.canvas.publish(self._painted_ns)

    @property
    def _painted_ns(self) -> HostNs:
        return max(0, self._now_ns - self._delay_ns)

    def _take(self, event: ScreenEvent) -> None:
        if isinstance(event, Update):
            self._update(event)
        elif isinstance(event, Scanout):
            self._unmap()
            if self._supported(event.format):
                rows = rows_of(event.pixels, event.width, event.height, event.stride)
                self._begin(Size(event.width, event.height), rows)
        elif isinstance(event, UpdateMap):
            self._stale.add(Rect(event.x, event.y, event.width, event.height).common(self.canvas.whole))
            self._refresh()
        elif isinstance(event, ScanoutMap):
            self._mapped(event)
        elif isinstance(event, CursorDefine):
            self._define(event)
        elif isinstance(event, MouseSet):
            self._cursor = Cursor(self._cursor.shape, self._cursor.hot, Point(event.x, event.y), event.shown)
            self._set_cursor()
        elif isinstance(event, Disabled):
            self._unmap()
            if self._shown:
                self.canvas.blank()
        elif isinstance(event, Unsupported):
            self._refuse(event.member)

    def _begin(self, size: Size, rows: Rows | None) -> None:
        """A whole picture, of the same size as before or of another; None if it is not copied now."""
        if size == self.canvas.size:
            if rows is not None:
                self.canvas.paint(self.canvas.whole, rows)
        elif 0 < size.width <= SIDE_MAX and 0 < size.height <= SIDE_MAX:
            try:
                self.canvas.show(size, rows, self._painted_ns)
            except GraphError as error:
                self._fail(f"no room for its {size.width} × {size.height}: {error}", "")
                return
            self.control.size = size
        self._shown, self.trouble = size == self.canvas.size, ""

    def _update(self, event: Update) -> None:
        at = Rect(event.x, event.y, event.width, event.height)
        if not self._shown or self._shared is not None or event.format not in FORMATS:
            return
        if not self.canvas.whole.holds(at):
            whole = self.canvas.whole.around(at)
            said = Rect(0, 0, self._said.width, self._said.height)
            # Not line by line: of each size a picture is allocated.
            guess = Size(whole.width, max(whole.height, whole.width * 3 // 4))
            self._resize(self._said if said.holds(at) else guess)
        if self.canvas.whole.holds(at):
            self.canvas.paint(at, rows_of(event.pixels, event.width, event.height, event.stride))

    # QEMU 7.2 says the size of a picture only when it sends all of it. After a change of mode it may send parts of the
    # new picture instead, line by line; the size comes over another connection, before or after them. So a part that
    # does not fit makes the picture larger at once, and what was painted is kept whenever the size changes.
    def set_size(self, size: Size) -> None:
        """QEMU says, by the other way, that the console has this size."""
        self._said = size

    def settle_size(self) -> None:
        """No more than was on its way when `set_size` was called can still be missing: take that size."""
        if self._shown and not self._ended and self._shared is None and self._said != self.canvas.size:
            self._resize(self._said)
            self.publish()

    def _resize(self, size: Size) -> None:
        if not (0 < size.width <= SIDE_MAX and 0 < size.height <= SIDE_MAX):
            return
        try:
            self.canvas.resize(size, self._painted_ns)
        except GraphError as error:
            self._fail(f"no room for its {size.width} × {size.height}: {error}", "")
        else:
            self.control.size = size

    # -- shared memory ---------------------------------------------------------------------------

    def _mapped(self, event: ScanoutMap) -> None:
        self._unmap()
        shared = self._open(event.fd)
        if shared is None:
            self._fail("QEMU shares its picture in something that is no memory")
        elif not self._supported(event.format):
            shared.close()
        else:
            self._shared, self._map = shared, event
            size = Size(event.width, event.height)
            rows = self._lines(shared, 0, size) if self._watched else None
            if self._watched and rows is None:
                self._shrunk()
                return
            self._begin(size, rows)
            if rows is None and self._shown:
                self._stale.add(self.canvas.whole)

    def _unmap(self) -> None:
        if self._shared is not None:
            self._shared.close()
        self._shared, self._stale = None, Damage()

    def _refresh(self) -> None:
        """Copy what has changed in the shared memory, if somebody watches."""
        if not (self._watched and self._shown and self._shared is not None):
            return
        for at in self._stale.take():
            if not self._copy(self._shared, at):
                self._shrunk()
                return

    def _shrunk(self) -> None:
        self._unmap()
        self._fail("QEMU shares less memory than its picture needs", "memory shrunk")

    # Whole lines are read, whatever part of them has changed: that is one call, and the lines are contiguous. A band of
    # them is compared while it is still in the processor's cache. What is large has mostly changed, and comparing takes
    # as long as reading: it is read into its place, and encoders find what differs, in another thread.
    def _copy(self, shared: Shared, at: Rect) -> bool:
        lines, stride = Rect(0, at.y, self.canvas.size.width, at.height), self._map.stride
        if lines.area > IN_PLACE_MIN and stride == lines.width * PIXEL_BYTES:
            return shared.read(self._map.offset + at.y * stride, self.canvas.lines(lines))
        for y in self.canvas.bands(lines):
            band = Rect(0, y, lines.width, min(self.canvas.high(lines), lines.bottom - y))
            rows = self._lines(shared, y, Size(band.width, band.height))
            if rows is None:
                return False
            self.canvas.paint_band(band, rows)
        return True

    def _lines(self, shared: Shared, y: int, size: Size) -> Rows | None:
        """Lines of the shared memory; None if it ends before them."""
        stride = self._map.stride
        data = bytearray(stride * (size.height - 1) + size.width * PIXEL_BYTES)
        if not size.height or not shared.read(self._map.offset + y * stride, memoryview(data)):
            return None
        return rows_of(data, size.width, size.height, stride)

    # -- what can't be shown ---------------------------------------------------------------------

    def _supported(self, format_: int) -> bool:
        if format_ not in FORMATS:
            self._fail(f"QEMU's pixel format {format_:#x} is not supported; use a card and mode of 32 bits a pixel")
        return format_ in FORMATS

    def _refuse(self, member: str) -> None:
        if member in GL:
            self._fail("QEMU draws with OpenGL, which is not supported: run it without gl=on")
        else:
            log.warning("%s: QEMU calls %s, which is unknown here", self.screen.key, printable(member))

    def _fail(self, why: str, cause: str = "not supported") -> None:
        """The screen stays blank. Without a cause it is the guest's memory, which its budget has reported."""
        if why != self.trouble:
            log.warning("%s: %s", self.screen.key, why)
            if cause:
                self._report(cause, why)
        self._shown, self.trouble = False, why

    # -- the pointer's shape ---------------------------------------------------------------------

    # QEMU defines a shape anew each time the guest selects one. A shape that was there before keeps its number, so that
    # readers need not be sent it again.
    def _define(self, event: CursorDefine) -> None:
        if not (0 < event.width <= SHAPE_SIDE_MAX and 0 < event.height <= SHAPE_SIDE_MAX):
            return
        look = event.width.to_bytes(2) + event.pixels
        number = self._shapes.pop(look, None)
        if number is None:
            self._number = number = self._number + 1
        self._shapes[look] = number
        if len(self._shapes) > SHAPES_KNOWN_MAX:
            del self._shapes[next(iter(self._shapes))]
        try:
            if self.screen.shape(number) is None:
                self.screen.define_shape(Shape(number, Size(event.width, event.height), event.pixels))
        except GraphError as error:
            log.warning("%s: a cursor is left out: %s", self.screen.key, error)
            return
        self._cursor = Cursor(number, Point(event.hot_x, event.hot_y), self._cursor.at, self._cursor.shown)
        self._set_cursor()

    def _set_cursor(self) -> None:
        # The position may come before the first shape.
        if self._cursor.shape:
            self.screen.set_cursor(self._cursor)

    # -- from readers ----------------------------------------------------------------------------

    def key(self, code: int, down: bool) -> None:
        """See `ScreenSource`."""
        self.control.key(code, down)

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`."""
        self.control.pointer(at, buttons, relative)

    def size_wish(self, size: Size) -> None:
        """See `ScreenSource`: some guests follow it."""
        self.control.size_wish(size)

    def paint(self, tracks: frozenset[str]) -> None:
        """See `ScreenSource`: QEMU knows no overlays."""

    def watched(self, interval_ns: HostNs | None) -> None:
        """See `ScreenSource`."""
        self._watched = interval_ns is not None
        if self._watched and not self._ended:
            self._refresh()
            self.publish()

    def set_absolute(self, absolute: bool) -> None:
        """Whether the guest has a tablet."""
        self.control.absolute = absolute
        self.screen.set_relative(not absolute)

    def close(self) -> None:
        """See `MachineDoor`."""
        if not self._ended:
            self._ended = True
            self.control.release()
            self._unmap()
            self.peer.close()
            self._screens.remove(self.screen)
