"""The client's side of SPICE's cursor channel (spice-protocol: enums.h, draw.h), and what its cursors look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import CURSOR_SIDE_MAX, Point, Size
from millrace.units import HostNs
from millrace.wire.spice.channel import ChannelKind, Encrypt, SpiceChannel, SpiceMessage, unpack

CACHE_BYTES = 4 * 1024 * 1024
"""Cursors that are kept; beyond that, the oldest is forgotten."""
LOOK_BYTES = 512
"""What one takes besides its pixels."""
_NONE, _KEEP, _KEPT = 1, 2, 4
_ALPHA, _MONO, _RGB16, _RGB24, _RGB32 = 0, 1, 4, 5, 6
_DEPTHS = {_ALPHA: 4, _MONO: 0, _RGB16: 2, _RGB24: 3, _RGB32: 4}
"""Bytes of a pixel's colours, by the kinds that are known."""
BAND_PIXELS = 8 * 1024
"""Pixels that are made in one step."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a cursor looks like: rows of B, G, R and alpha."""

    size: Size
    hot: Point
    pixels: bytes


@dataclass(frozen=True, slots=True)
class CursorSet:
    """A cursor with this look is at a place; a `look` of None is no cursor at all."""

    at: Point
    shown: bool
    look: Look | None


@dataclass(frozen=True, slots=True)
class CursorMove:
    """The cursor is elsewhere, and shown."""

    at: Point


@dataclass(frozen=True, slots=True)
class CursorHide:
    """The cursor is not shown."""


CursorEvent: TypeAlias = CursorSet | CursorMove | CursorHide


# Besides its colours, a cursor without alpha has a mask of what stays of the screen. Where the mask is set and the
# colour is not black, the screen is to be inverted, which no viewer can do with a picture: it is shown in that colour.
@dataclass(frozen=True, slots=True)
class Source:
    """A cursor as the server sends it."""

    kind: int
    size: Size
    data: bytes

    @property
    def _mask_bytes(self) -> int:
        return (self.size.width + 7) // 8 * self.size.height

    @property
    def _colour_bytes(self) -> int:
        return self._mask_bytes if self.kind == _MONO else self.size.width * self.size.height * _DEPTHS[self.kind]

    def check(self) -> None:
        """RemoteProtocolError if it is shorter than it says."""
        if len(self.data) < self._colour_bytes + (0 if self.kind == _ALPHA else self._mask_bytes):
            raise RemoteProtocolError(
                f"truncated SPICE cursor: {self.size.width} × {self.size.height} in {len(self.data)} bytes"
            )

    def rows(self, rows: range) -> bytes:
        """The pixels of some rows: B, G, R and alpha."""
        if self.kind == _ALPHA:
            return self._part(0, self.size.width * 4, rows).tobytes()
        out = np.zeros((len(rows), self.size.width, 4), np.uint8)
        if self.kind == _MONO:
            stays, lit = self._bits(0, rows), self._bits(self._mask_bytes, rows)
            out[:, :, :3] = np.where(lit, 255, 0)[:, :, None]
        else:
            out[:, :, :3] = self._colours(rows)
            stays, lit = self._bits(self._colour_bytes, rows), out.view("<u4")[:, :, 0] != 0
        out[:, :, 3] = np.where(stays & ~lit, 0, 255)
        return out.tobytes()

    def _part(self, at: int, stride: int, rows: range) -> NDArray[np.uint8]:
        """Rows of so many bytes, the first of which begins at `at`."""
        return np.frombuffer(self.data, np.uint8, stride * len(rows), at + stride * rows.start).reshape(-1, stride)

    def _bits(self, at: int, rows: range) -> NDArray[np.bool_]:
        packed = self._part(at, (self.size.width + 7) // 8, rows)
        return np.unpackbits(packed, axis=1)[:, : self.size.width].astype(bool)

    def _colours(self, rows: range) -> NDArray[np.uint8]:
        depth = _DEPTHS[self.kind]
        part = self._part(0, self.size.width * depth, rows)
        if depth != 2:
            return part.reshape(len(rows), self.size.width, depth)[:, :, :3]
        words = part.view("<u2")
        return np.stack([(words >> shift & 31).astype(np.uint8) << 3 for shift in (0, 5, 10)], axis=2)


@dataclass(slots=True)
class _Making:
    """A cursor whose pixels are being made."""

    at: Point
    shown: bool
    name: int
    keep: bool
    hot: Point
    source: Source
    pixels: bytearray = field(default_factory=bytearray)

    @property
    def held_bytes(self) -> int:
        """What it takes."""
        return len(self.source.data) + len(self.pixels) + LOOK_BYTES

    def step(self) -> bool:
        """Make some rows; returns whether all are made."""
        size, row = self.source.size, self.source.size.width * 4
        done, count = len(self.pixels) // row, max(1, BAND_PIXELS // size.width)
        self.pixels += self.source.rows(range(done, min(size.height, done + count)))
        return len(self.pixels) == row * size.height


class SpiceCursor:
    """The cursor channel; it keeps the cursors that the server may refer to by name."""

    def __init__(self, session: int, number: int, password: str, encrypt: Encrypt, now_ns: HostNs) -> None:
        self._channel = SpiceChannel(ChannelKind.CURSOR, session, 0, password, encrypt, now_ns, number)
        self._kept: dict[int, Look] = {}
        self._kept_bytes = 0
        self._making: _Making | None = None
        self._events: list[CursorEvent] = []

    @property
    def unfinished(self) -> bool:
        """See `SpiceChannel`: also while there is more of a cursor to make."""
        return self._making is not None or self._channel.unfinished

    @property
    def partial_bytes(self) -> int:
        """Bytes of cursors that are kept or made, and of messages that are incomplete, or were not processed."""
        making = 0 if self._making is None else self._making.held_bytes
        return self._kept_bytes + making + self._channel.partial_bytes

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the channel. While `unfinished`, it must be called again."""
        if self._making is not None:
            assert not data, "nothing is read while it is unfinished"
            self._make(self._making)
            return
        self._channel.receive(data, now_ns)
        for message in self._channel.events():
            self._message(message)

    def _message(self, message: SpiceMessage) -> None:
        kind, body = message.kind, message.body
        if kind == 101:
            x, y, _, _, visible = unpack("<hhHHB", body)
            self._set(Point(x, y), bool(visible), body, 9)
        elif kind == 103:
            x, y, visible = unpack("<hhB", body)
            self._set(Point(x, y), bool(visible), body, 5)
        elif kind == 104:
            self._events.append(CursorMove(Point(*unpack("<hh", body))))
        elif kind in (102, 105):
            self._events.append(CursorHide())
        self._forget(kind, body)

    def _forget(self, kind: int, body: bytes) -> None:
        if kind in (102, 108):
            self._kept.clear()
            self._kept_bytes = 0
        elif kind == 107:
            self._drop(unpack("<Q", body)[0])

    def _drop(self, name: int) -> None:
        look = self._kept.pop(name, None)
        self._kept_bytes -= 0 if look is None else len(look.pixels) + LOOK_BYTES

    def _set(self, at: Point, shown: bool, body: bytes, offset: int) -> None:
        (flags,) = unpack("<H", body, offset)
        if flags & _NONE:
            self._events.append(CursorSet(at, shown, None))
            return
        name, kind, width, height, hot_x, hot_y = unpack("<QB4H", body, offset + 2)
        if flags & _KEPT:
            # One that was forgotten here, or was never sent, is none.
            self._events.append(CursorSet(at, shown, self._kept.get(name)))
            return
        if not (width and height):
            raise RemoteProtocolError(f"a SPICE cursor of {width} × {height}")
        keep = bool(flags & _KEEP)
        if max(width, height) > CURSOR_SIDE_MAX or kind not in _DEPTHS:
            self._made(at, shown, name, keep, Look(ARROW_SIZE, Point(0, 0), ARROW))
            return
        source = Source(kind, Size(width, height), body[offset + 19 :])
        source.check()
        self._make(_Making(at, shown, name, keep, Point(hot_x, hot_y), source))

    def _make(self, making: _Making) -> None:
        self._making = making
        if making.step():
            self._making = None
            look = Look(making.source.size, making.hot, bytes(making.pixels))
            self._made(making.at, making.shown, making.name, making.keep, look)

    def _made(self, at: Point, shown: bool, name: int, keep: bool, look: Look) -> None:
        if keep:
            self._keep(name, look)
        self._events.append(CursorSet(at, shown, look))

    def _keep(self, name: int, look: Look) -> None:
        self._drop(name)
        self._kept[name] = look
        self._kept_bytes += len(look.pixels) + LOOK_BYTES
        while self._kept_bytes > CACHE_BYTES:
            self._drop(next(iter(self._kept)))

    def events(self) -> list[CursorEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        return self._channel.data_to_send()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: when the link must have been accepted."""
        return self._channel.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self._channel.handle_timeout(now_ns)
