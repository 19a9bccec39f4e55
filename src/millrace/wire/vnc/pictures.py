"""The rectangles of a VNC server's updates, sans-IO.

RFC 6143, 7.6 to 7.8; rfbproto for Tight, QEMU's pseudo-encodings and the sizes of desktops.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeAlias

from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import CURSOR_SIDE_MAX, Point, Rect, Size, bands
from millrace.wire.keys import LightsTold
from millrace.wire.vnc import cursors
from millrace.wire.vnc.inflate import Inflater, compressed_max
from millrace.wire.vnc.messages import (
    Copied,
    CursorAt,
    CursorShape,
    Encoding,
    Filled,
    Painted,
    Part,
    Resized,
    SoundOffered,
    Update,
    VncEvent,
)
from millrace.wire.vnc.tight import Tight
from millrace.wire.vnc.work import Work
from millrace.wire.vnc.zrle import WINDOW_BYTES, Tiles, inflated_max

Parse: TypeAlias = Generator[int, bytes, None]
"""Yields how many bytes it needs next, and is sent them. 0: it could go on, but the step is over."""
PixelsOf: TypeAlias = Callable[[bytes, Size, range], bytes]
"""A cursor's data, its size and some of its rows to their pixels."""
PIXEL = 4
BAND_PIXELS = 256 * 1024
"""Rows that are taken in one piece."""
SIZE_MAX, PIXELS_MAX = 16_384, 40_000_000
"""The largest screen: 8K, or long and narrow."""
HELD_MAX = 36 * 1024 * 1024
"""The most bytes of pixels that an update may hold, or paint, before it is passed on in part: one picture in 4K."""
PART_BYTES = 256
ENDLESS = 0xFFFF
CURSOR_PIXELS, CURSOR_WORK, CURSOR_PART_WORK = 4 * 1024, 70, 45_000
"""How much of a cursor is made at once, what a pixel of it costs, and what each such part costs besides: large cursors
and those of one pixel measured in all three encodings (`bench vnc_steps`, "cursors"), the dearest of each."""
CURSOR_READ_MAX, DROPPED_AT_ONCE = 4096, 64 * 1024
"""A cursor that is too large to be shown is read all the same up to this size, in parts of so many bytes."""


# An update is passed on as a whole when it is complete: until then, what is on the screen is still the picture before,
# of which the server's copies are true. Every rectangle's place and every length is checked before anything is
# allocated for it.
class Pictures:
    """Parses updates. `size` is the screen's; what that costs is added to `work`."""

    def __init__(self, work: Work) -> None:
        self.size = Size(0, 0)
        self._work = work
        self.relative = self.extended_keys = False
        """The server wants the pointer's movement instead of its position; it knows scan codes."""
        self.leds: int | None = None
        """Lights of the keyboard: 1 scroll lock, 2 num lock, 4 caps lock; None: the server has not told."""
        self.head: tuple[int, int] | None = None
        """The first screen's number and flags; None: the server can't be asked for another size."""
        self.asked = False
        """Whether pictures were ever asked for: until then, a rectangle of one is not expected."""
        self.own_bits = 0
        """Bits of one of the server's own pixels; 0 if it has not told."""
        self._begun = self._complete = False
        """Something was painted; an update that paints has come to its end."""
        self._held_bytes = self._inflating_bytes = self._painted_bytes = 0
        self._parts: deque[Part] = deque()
        self._events: list[VncEvent] = []
        self._untold_size = False
        """The size was not told yet."""
        self._zlib, self._zrle, self._tight = Inflater(work), Inflater(work), Tight(work)

    def events(self) -> list[VncEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    # A server that keeps to pixels of its own does not say so, and what it sends then can't be told from pixels as they
    # were asked for: rectangles merely seem to end elsewhere, and what follows makes no sense.
    @property
    def doubt(self) -> str:
        """What may be wrong with all that this server sends; empty if nothing is known."""
        if not self.asked or self.own_bits in (0, 8 * PIXEL):
            return ""
        return f"its own pixels have {self.own_bits} bits, and it may send those, although {8 * PIXEL} were asked for"

    def doubted(self, error: RemoteProtocolError) -> RemoteProtocolError:
        """An error in what this server sent, with what may be wrong with all that it sends."""
        return RemoteProtocolError(f"{error}; {self.doubt}") if self.doubt else error

    @property
    def trouble(self) -> str:
        """Why there is no picture, as far as that is known; empty if it is not, or if there is one."""
        if self.asked and not (self.size.width and self.size.height):
            return f"this VNC server's screen is {self.size.width} × {self.size.height}: there is nothing to show yet"
        if self._begun and not self._complete and self.doubt:
            return f"no picture of this VNC server has come to its end yet; {self.doubt}"
        return ""

    # Each size makes another picture here, and another encoder for each viewer. So of several sizes in a row, only the
    # last one is told.
    def resize(self, width: int, height: int) -> None:
        """The screen has this size now; RemoteProtocolError if that is too large."""
        if max(width, height) > SIZE_MAX or width * height > PIXELS_MAX:
            raise RemoteProtocolError(f"the VNC server's screen is too large: {width} × {height}")
        self._pass_on()
        self.size = Size(width, height)
        self._untold_size = bool(width and height)

    def tell_size(self) -> None:
        """Tell of another size, if it was not told."""
        if self._untold_size:
            self._untold_size = False
            self._events.append(Resized(self.size))

    def update(self) -> Parse:
        """Parse one FramebufferUpdate, after its type."""
        count = int.from_bytes((yield 3)[1:], "big")
        read = 0
        while count == ENDLESS or read < count:
            x, y, width, height, encoding = struct.unpack(">HHHHi", (yield 12))
            if encoding == Encoding.LAST_RECT:
                break
            yield from self._rectangle(Rect(x, y, width, height), encoding)
            read += 1
            if max(self._held_bytes, self._painted_bytes) > HELD_MAX:
                self._pass_on()
        self.tell_size()
        self._pass_on()
        self._complete |= self._begun

    def _rectangle(self, rect: Rect, encoding: int) -> Parse:
        if encoding in _PSEUDO:
            yield from _PSEUDO[encoding](self, rect)
            return
        if encoding not in _ENCODINGS or not self.asked:
            what = f"in an unknown encoding {encoding}" if self.asked else "that nobody asked for"
            raise RemoteProtocolError(f"the VNC server sent a picture {what}")
        self._within(rect)
        self._begun = True
        if encoding in (Encoding.RAW, Encoding.COPY_RECT):
            yield from _ENCODINGS[encoding](self, rect)
            return
        if not rect.area:
            raise RemoteProtocolError("the VNC server sent an empty rectangle, compressed")
        # What it takes to inflate it is booked before its bytes arrive.
        self._inflating_bytes = rect.area * PIXEL + WINDOW_BYTES
        yield from _ENCODINGS[encoding](self, rect)
        self._inflating_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Memory of what is not passed on yet."""
        return self._held_bytes + self._inflating_bytes

    def _within(self, rect: Rect) -> None:
        if rect.right > self.size.width or rect.bottom > self.size.height:
            raise RemoteProtocolError(
                f"the VNC server painted {rect.width} × {rect.height} at {rect.x}, {rect.y}, beyond its screen of"
                f" {self.size.width} × {self.size.height}"
            )

    def _pass_on(self) -> None:
        if self._parts:
            self._events.append(Update(self._parts, self._held_bytes))
        self._parts, self._held_bytes, self._painted_bytes = deque(), 0, 0

    def _add(self, part: Part, held: int = 0) -> None:
        area = part.rect.area
        if area:
            if self._untold_size:
                self.tell_size()
            self._parts.append(part)
            self._held_bytes += held + PART_BYTES
            self._painted_bytes += area * PIXEL + PART_BYTES

    # -- pictures --------------------------------------------------------------------------------

    def _raw(self, rect: Rect) -> Parse:
        for band in bands(rect, BAND_PIXELS):
            self._add(Painted(band, (yield band.area * PIXEL)), band.area * PIXEL)

    def _copy(self, rect: Rect) -> Parse:
        x, y = struct.unpack(">HH", (yield 4))
        self._within(Rect(x, y, rect.width, rect.height))
        self._add(Copied(rect, Point(x, y)))

    def _inflate(self, rect: Rect) -> Parse:
        yield from self._compressed(self._zlib, rect.area * PIXEL)
        for band in bands(rect, BAND_PIXELS):
            self._add(Painted(band, (yield from self._zlib.read(band.area * PIXEL))), band.area * PIXEL)
        yield from self._zlib.end()

    def _compressed(self, stream: Inflater, most: int) -> Parse:
        """Read the length of what inflates to `most` bytes at most."""
        size = int.from_bytes((yield 4), "big")
        if size > compressed_max(most):
            raise RemoteProtocolError(f"the VNC server sent {size} compressed bytes for {most}")
        stream.begin(size)

    def _tiles(self, rect: Rect) -> Parse:
        yield from self._compressed(self._zrle, inflated_max(rect.width, rect.height))
        tiles = Tiles(rect.width, rect.height, self._zrle, self._work)
        yield from tiles.parse()
        self._add(Painted(rect, tiles.picture.data.cast("B")), rect.area * PIXEL)

    def _tightly(self, rect: Rect) -> Parse:
        pixels = yield from self._tight.rectangle(rect.width, rect.height)
        if len(pixels) == PIXEL:
            self._add(Filled(rect, bytes(pixels)))
        else:
            self._add(Painted(rect, pixels), rect.area * PIXEL)

    # -- pseudo-encodings ------------------------------------------------------------------------

    def _sound(self, rect: Rect) -> Parse:
        self._events.append(SoundOffered())
        yield from ()

    def _resized(self, rect: Rect) -> Parse:
        self.resize(rect.width, rect.height)
        yield from ()

    # x is the reason and y the result of what a client asked for; only a size that is in force comes with result 0.
    def _extended_size(self, rect: Rect) -> Parse:
        count = (yield 4)[0]
        heads = yield 16 * count
        if count:
            self.head = struct.unpack(">I8xI", heads[:16])
        else:
            self.head = (0, 0)
        if rect.y == 0 and (rect.width, rect.height) != (self.size.width, self.size.height):
            self.resize(rect.width, rect.height)

    def _cursor(self, rect: Rect) -> Parse:
        size = Size(rect.width, rect.height)
        data = yield from self._cursor_data(size, rect.area * PIXEL + cursors.mask_bytes(size))
        yield from self._shaped(rect, data, cursors.masked)

    def _two_coloured_cursor(self, rect: Rect) -> Parse:
        size = Size(rect.width, rect.height)
        data = yield from self._cursor_data(size, 6 + 2 * cursors.mask_bytes(size) if rect.area else 0)
        yield from self._shaped(rect, data, cursors.two_coloured)

    def _alpha_cursor(self, rect: Rect) -> Parse:
        if (yield 4) != bytes(4):
            raise RemoteProtocolError("the VNC server sent a cursor in an encoding that was not asked for")
        data = yield from self._cursor_data(Size(rect.width, rect.height), rect.area * PIXEL)
        yield from self._shaped(rect, data, cursors.with_alpha)

    def _cursor_data(self, size: Size, length: int) -> Generator[int, bytes, bytes | None]:
        """What a cursor of this size comes with; None if it is too large to be shown: then an arrow is."""
        if max(size.width, size.height) <= CURSOR_SIDE_MAX:
            return (yield length)
        if max(size.width, size.height) > CURSOR_READ_MAX:
            raise RemoteProtocolError(
                f"the VNC server sent a cursor of {size.width} × {size.height}; {CURSOR_READ_MAX} at most"
            )
        while length:
            length -= len((yield min(length, DROPPED_AT_ONCE)))
        self._events.append(CursorShape(Point(0, 0), ARROW_SIZE, ARROW))
        return None

    def _shaped(self, rect: Rect, data: bytes | None, pixels_of: PixelsOf) -> Parse:
        """A cursor whose rows give these pixels."""
        if data is None:
            return
        pixels, size = bytearray(), Size(rect.width, rect.height) if rect.area else Size(0, 0)
        if rect.area:
            for band in bands(Rect(0, 0, rect.width, rect.height), CURSOR_PIXELS):
                pixels += pixels_of(data, size, range(band.y, band.bottom))
                self._work.spent += CURSOR_PART_WORK + CURSOR_WORK * band.area
                if self._work.over:
                    yield 0
        self._events.append(CursorShape(Point(rect.x, rect.y), size, bytes(pixels)))

    def _pointer_at(self, rect: Rect) -> Parse:
        self._events.append(CursorAt(Point(rect.x, rect.y)))
        yield from ()

    def _lights(self, rect: Rect) -> Parse:
        self.leds = (yield 1)[0]
        self._events.append(LightsTold(self.leds))

    def _pointer_type(self, rect: Rect) -> Parse:
        self.relative = rect.x == 0
        yield from ()

    def _scan_codes(self, rect: Rect) -> Parse:
        self.extended_keys = True
        yield from ()


_ENCODINGS: dict[int, Callable[[Pictures, Rect], Parse]] = {
    Encoding.RAW: Pictures._raw, Encoding.COPY_RECT: Pictures._copy, Encoding.ZLIB: Pictures._inflate,
    Encoding.TIGHT: Pictures._tightly, Encoding.ZRLE: Pictures._tiles,
}  # fmt: skip
_PSEUDO: dict[int, Callable[[Pictures, Rect], Parse]] = {
    Encoding.AUDIO: Pictures._sound, Encoding.DESKTOP_SIZE: Pictures._resized,
    Encoding.EXTENDED_DESKTOP_SIZE: Pictures._extended_size, Encoding.CURSOR: Pictures._cursor,
    Encoding.X_CURSOR: Pictures._two_coloured_cursor, Encoding.ALPHA_CURSOR: Pictures._alpha_cursor,
    Encoding.POINTER_POS: Pictures._pointer_at, Encoding.LEDS: Pictures._lights,
    Encoding.POINTER_TYPE: Pictures._pointer_type, Encoding.EXTENDED_KEYS: Pictures._scan_codes,
}  # fmt: skip
