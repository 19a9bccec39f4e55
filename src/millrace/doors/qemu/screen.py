"""One console of QEMU: its calls become a screen, and keys and the pointer become calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from millrace.absent import never, nothing
from millrace.budget import PROGRAMS
from millrace.doors.canvas import Canvas, rows_of
from millrace.doors.pushed import PushedStream
from millrace.doors.qemu.input import ConsoleInput
from millrace.errors import BudgetError, GraphError
from millrace.graph.pictures import PIXEL_BYTES, SIDE_MAX, Cursor, KeyPress, Shape
from millrace.graph.screens import Screens
from millrace.graph.steps import Steps
from millrace.pixels.lines import Lines
from millrace.pixels.rects import Point, Rect, Size
from millrace.text import printable
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
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
TOLD_MAX, TOLD_NS = 16, 3600 * NS_PER_S
"""Different troubles of a screen that are logged in so much time, each once; QEMU may send what can't be shown without
end."""


class Shared(Protocol):
    """Memory that QEMU shares, and may change or shrink at any time."""

    def read(self, at: int, into: memoryview) -> bool:
        """Fill `into` from there on; False if the memory ends before that."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


Open = Callable[[int], Shared | None]
"""The memory behind a descriptor, which is taken over; None if it is not memory."""


# What QEMU shares is copied at once, as it goes on painting there. While nobody watches it is not even copied: what
# QEMU says has changed is noted, and copied when somebody comes. Copies, which are here anyway, are always painted.
#
# A picture that can't be shown (a format, no room) leaves the screen blank and the machine's sound alone; what follows
# is dropped until QEMU sends a whole picture again. QEMU sends one to each new listener, so if there is room again this
# one ends.
#
# All of it is done in steps: a band of a picture, a call, a publication. While there is more (`busy`), nothing is read
# from QEMU, and the steps follow in the guest's turns. What is painted is published between two calls only, never with
# a part of a call.
class QemuScreen:
    """A console: QEMU's calls to the listener `peer`; keys and the pointer go to `control`."""

    streams: Sequence[PushedStream] = ()
    recording = False

    def __init__(
        self, screens: Screens, peer: ScreenPeer, console: Console, door: str, control: ConsoleInput,
        open_shared: Open, report: Callable[[str, str], None] = lambda cause, why: None,
        wake: Callable[[], None] = nothing, over: Callable[[], bool] = never,
    ) -> None:  # fmt: skip
        """GraphError if there is no room for a screen.

        `report` is told of a cause of the stage "screen", and why; `wake` is called when it has become `busy` by
        something else than what was received; `over` is asked after each step whether the guest's turn is over.
        """
        self.peer, self.console, self.control = peer, console, control
        self.trouble = ""
        """Why the screen shows nothing, for users."""
        label = console.label or "console"
        if console.head:
            label = f"{label} head {console.head}"
        self._screens, self._open, self._report, self._wake, self._over = screens, open_shared, report, wake, over
        self._delay_ns = next((ns for name, ns in DELAY_NS.items() if label.startswith(name)), OTHER_DELAY_NS)
        self.screen = screens.add(self, label, door)
        self.canvas = Canvas(self.screen)
        self._shared: Shared | None = None
        self._map = ScanoutMap(-1, 0, 0, 0, 0, 0)
        self._stale = Lines(0, 0)
        """What has changed in the shared memory and was not copied."""
        self._steps = Steps(self._next, over)
        self._publish_due = self._settle_due = False
        self._shapes: dict[int, int] = {}
        """Numbers of shapes by the hash of their pixels."""
        self._cursor = Cursor(shown=True)
        self._pointed = self._watched = self._ended = False
        self._shown = False
        """Whether what QEMU sends has a place on the screen."""
        self._lacking = 0
        """Bytes that there was no room for: a picture, and its copy if QEMU sends one, which is held until painted."""
        self.has_room_again = False
        """There is room for it now, so that a new listener could show it."""
        self._said = Size(0, 0)
        """The size that QEMU told by the other way; 0 × 0 before it has."""
        self._received_ns: HostNs = 0
        self._now_ns: HostNs = 0
        """When the first call came of what is to be published."""
        self._number = 0
        self._told: set[str] = set()
        self._told_ns: HostNs = 0
        """Since when they are counted."""

    # -- from QEMU -------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether there is something to publish."""
        return bool(self.canvas)

    @property
    def busy(self) -> bool:
        """Whether `receive` must be called again, although nothing has come."""
        waits = self._steps.begun or self._publish_due or self._settle_due or self._copies
        return not self._ended and (waits or self.peer.waiting or self.has_room_again)

    @property
    def _copies(self) -> bool:
        """Whether shared memory is to be copied."""
        return self._watched and self._shown and self._shared is not None and bool(self._stale)

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`: one step, and more while the turn lasts; `publish` must follow when no more comes.

        GraphError ends this listener, because there is room for another.
        """
        if self.has_room_again:
            raise GraphError("there is room for the picture now: QEMU is asked for it again")
        self._received_ns = now_ns
        if not self.canvas:
            self._now_ns = now_ns
        while self.busy:
            if self._steps.work():
                self.peer.forget()
            if self._over():
                break
        # The position may come before the first shape.
        if self._pointed and self._cursor.shape and not self._ended:
            self._pointed = False
            self.screen.set_cursor(self._cursor)

    def _next(self) -> Iterator[None]:
        """What is done next. What is shared is copied after all calls, most of which say that it has changed."""
        if self._publish_due and not (self._copies and self.screen.old):
            self._publish_due = False
            self.canvas.publish(self._painted_ns)
            self._now_ns = self._received_ns
        elif self.peer.waiting:
            event = self.peer.take()
            if event is not None:
                return self._event(event)
        elif self._settle_due:
            self._settle_due = False
            return self._settle()
        elif self._copies:
            return self._refresh()
        return iter(())

    def publish(self) -> None:
        """Have shown what was painted. QEMU paints a picture in many small calls, in text mode hundreds."""
        self._publish_due = True
        self._wake()

    @property
    def _painted_ns(self) -> HostNs:
        return max(0, self._now_ns - self._delay_ns)

    def _event(self, event: ScreenEvent) -> Iterator[None]:
        if isinstance(event, Update):
            yield from self._update(event)
        elif isinstance(event, Scanout):
            yield from self._scanout(event)
        elif isinstance(event, UpdateMap):
            self._stale.add(Rect(event.x, event.y, event.width, event.height))
        elif isinstance(event, ScanoutMap):
            yield from self._mapped(event)
        elif isinstance(event, CursorDefine):
            self._define(event)
        elif isinstance(event, MouseSet):
            self._cursor = Cursor(self._cursor.shape, self._cursor.hot, Point(event.x, event.y), event.shown)
            self._pointed = True
        elif isinstance(event, Disabled):
            self._unmap()
            if self._shown:
                yield from self.canvas.blank()
        elif isinstance(event, Unsupported):
            self._refuse(event.member)

    def _scanout(self, event: Scanout) -> Iterator[None]:
        self._unmap()
        if not self._supported(event.format):
            return
        rows = rows_of(event.pixels, event.width, event.height, event.stride)
        size = Size(event.width, event.height)
        if size == self.canvas.size:
            self._shown, self.trouble = True, ""
            yield from self.canvas.paint(self.canvas.whole, rows)
        else:
            yield from self._sized(size, self.canvas.replace(size, rows, self._painted_ns))

    def _sized(self, size: Size, steps: Iterator[None]) -> Iterator[None]:
        """Begin a picture of another size, which takes these steps."""
        self._shown = False
        if not (0 < size.width <= SIDE_MAX and 0 < size.height <= SIDE_MAX):
            return
        try:
            yield from steps
        except BudgetError as error:
            lacking = (2 if self._shared is None else 1) * size.width * size.height * PIXEL_BYTES
            self._fail(f"no room for its {size.width} × {size.height}: {error}", "", lacking)
        else:
            self._shown, self.trouble, self.control.size = True, "", size

    def _update(self, event: Update) -> Iterator[None]:
        at = Rect(event.x, event.y, event.width, event.height)
        beyond = at.x < 0 or at.y < 0 or at.right > SIDE_MAX or at.bottom > SIDE_MAX
        if beyond or not self._shown or self._shared is not None or event.format not in FORMATS:
            return
        if not self.canvas.whole.holds(at):
            yield from self._resize(self._size_around(at))
        if self.canvas.whole.holds(at):
            yield from self.canvas.paint(at, rows_of(event.pixels, event.width, event.height, event.stride))

    # QEMU 7.2 says the size of a picture only when it sends all of it. After a change of mode it may send parts of the
    # new picture instead, line by line; the size comes over another connection, before or after them. So a part that
    # does not fit makes the picture larger at once, and what was painted is kept whenever the size changes.
    #
    # A picture is allocated for each size, so one that is guessed grows by a quarter at least: whatever parts come, a
    # few are allocated.
    def _size_around(self, at: Rect) -> Size:
        """The size of a picture that such a part belongs to: the one that QEMU told, or a guess."""
        if Rect(0, 0, self._said.width, self._said.height).holds(at):
            return self._said
        width, height = self.canvas.size.width, self.canvas.size.height
        wide, high = _grown(width, at.right), _grown(height, at.bottom)
        return Size(wide, max(high, min(SIDE_MAX, wide * 3 // 4)) if wide > width else high)

    def set_size(self, size: Size) -> None:
        """QEMU says, by the other way, that the console has this size."""
        if 0 < size.width <= SIDE_MAX and 0 < size.height <= SIDE_MAX:
            self._said = size

    def settle_size(self) -> None:
        """No more than was on its way when `set_size` was called can still be missing: take that size."""
        self._settle_due = True
        self._wake()

    def _settle(self) -> Iterator[None]:
        if self._shown and self._shared is None and self._said.width and self._said != self.canvas.size:
            yield from self._resize(self._said)

    def _resize(self, size: Size) -> Iterator[None]:
        return self._sized(size, self.canvas.resize(size, self._painted_ns))

    def fit(self, now_ns: HostNs) -> None:
        """See `Fitted`."""
        if self.trouble and self._lacking and self.screen.budget.is_free(self._lacking, PROGRAMS):
            self.has_room_again = True
            self._wake()

    # -- shared memory ---------------------------------------------------------------------------

    def _mapped(self, event: ScanoutMap) -> Iterator[None]:
        self._unmap()
        shared = self._open(event.fd)
        if shared is None:
            self._fail("QEMU shared its picture in something that is not memory")
            return
        if not self._supported(event.format):
            shared.close()
            return
        self._shared, self._map, size = shared, event, Size(event.width, event.height)
        if size == self.canvas.size:
            self._shown, self.trouble = True, ""
        else:
            yield from self._sized(size, self.canvas.show(size, self._painted_ns))
        if self._shown:
            self._stale = Lines(size.width, size.height)
            self._stale.add(self.canvas.whole)

    # Readers wait as long as the screen is old. What would have been copied for them is not copied any more, and what
    # comes instead may be no different, or nothing.
    def _unmap(self) -> None:
        if self.screen.old:
            self.canvas.painted(self.canvas.whole)
        if self._shared is not None:
            self._shared.close()
        self._shared, self._stale = None, Lines(0, 0)

    # Whole lines are read, whatever part of them has changed: that is one call, and the lines are contiguous. A band of
    # them is compared while it is still in the processor's cache. What is large has mostly changed, and comparing takes
    # as long as reading: it is read into its place, and encoders find what differs, in another thread.
    def _refresh(self) -> Iterator[None]:
        """Copy what has changed in the shared memory."""
        shared, stride = self._shared, self._map.stride
        assert shared is not None
        for lines in self._stale.take():
            in_place = lines.area > IN_PLACE_MIN and stride == lines.width * PIXEL_BYTES
            if in_place or self.screen.old:
                self.canvas.painted(lines)
            for band in self.canvas.bands(lines, stride // PIXEL_BYTES):
                if not (self._read(shared, band) if in_place else self._compare(shared, band)):
                    self._shrunk()
                    return
                yield

    def _read(self, shared: Shared, band: Rect) -> bool:
        """Read lines into their place; False if the memory ends before them."""
        return shared.read(self._map.offset + band.y * self._map.stride, self.canvas.lines(band))

    def _compare(self, shared: Shared, band: Rect) -> bool:
        """Read lines and paint what differs of them."""
        stride = self._map.stride
        data = bytearray(stride * (band.height - 1) + band.width * PIXEL_BYTES)
        if not shared.read(self._map.offset + band.y * stride, memoryview(data)):
            return False
        self.canvas.paint_band(band, rows_of(data, band.width, band.height, stride))
        return True

    def _shrunk(self) -> None:
        self._unmap()
        # Some of it may have been read.
        self.canvas.painted(self.canvas.whole)
        self._fail("QEMU shares less memory than its picture needs", "memory shrunk")

    # -- what can't be shown ---------------------------------------------------------------------

    def _supported(self, format_: int) -> bool:
        if format_ not in FORMATS:
            self._fail(f"QEMU's pixel format {format_:#x} is not supported; use a card and mode of 32 bits a pixel")
        return format_ in FORMATS

    def _refuse(self, member: str) -> None:
        if member in GL:
            self._fail("QEMU draws with OpenGL, which is not supported: run it without gl=on")
        else:
            self._log(f"QEMU calls {printable(member)}, which Millrace does not know")

    def _fail(self, why: str, cause: str = "not supported", lacking: int = 0) -> None:
        """The screen stays blank. Without a cause it is the guest's memory, which its budget has reported."""
        if why != self.trouble:
            self._log(why)
            if cause:
                self._report(cause, why)
        self._shown, self.trouble, self._lacking = False, why, lacking

    def _log(self, text: str) -> None:
        """Log it, but not again soon."""
        if self._received_ns - self._told_ns >= TOLD_NS:
            self._told, self._told_ns = set(), self._received_ns
        if text not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(text)
            log.warning("%s: %s", self.screen.key, text)

    # -- the pointer's shape ---------------------------------------------------------------------

    # QEMU defines a shape anew each time the guest selects one. A shape that was there before keeps its number, so that
    # readers need not be sent it again.
    def _define(self, event: CursorDefine) -> None:
        look, size = hash((event.width, event.pixels)), Size(event.width, event.height)
        number = self._shapes.pop(look, 0)
        known = self.screen.shape(number)
        if known is None or (known.size, known.pixels) != (size, event.pixels):
            self._number = number = self._number + 1
            try:
                self.screen.define_shape(Shape(number, size, event.pixels))
            except GraphError as error:
                self._log(f"a cursor is left out: {error}")
                return
        self._shapes[look] = number
        if len(self._shapes) > SHAPES_KNOWN_MAX:
            del self._shapes[next(iter(self._shapes))]
        self._cursor = Cursor(number, Point(event.hot_x, event.hot_y), self._cursor.at, self._cursor.shown)
        self._pointed = True

    # -- from readers ----------------------------------------------------------------------------

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""
        self.control.key(press)

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`."""
        return self.control.room.takes(key, again)

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
        before, self._watched = self._watched, interval_ns is not None
        if self._copies and not before:
            # What is on the screen is old.
            self.screen.await_paint()
            self._wake()

    def set_absolute(self, absolute: bool) -> None:
        """Whether the guest has a tablet."""
        self.control.absolute = absolute
        self.screen.set_relative(not absolute)

    def close(self) -> None:
        """See `MachineDoor`."""
        if not self._ended:
            self._ended = True
            self._steps.close()
            self._unmap()
            self.peer.close()
            self._screens.remove(self.screen)
            self.control.close()


def _grown(side: int, least: int) -> int:
    """A side that was `side` pixels long and must be `least`."""
    if least <= side or 4 * least >= 5 * side:
        return max(side, least)
    return min(SIDE_MAX, side + side // 2)
