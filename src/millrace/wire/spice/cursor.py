"""The client's side of SPICE's cursor channel (spice-protocol: enums.h, draw.h), and what its cursors look like."""

from __future__ import annotations

from dataclasses import dataclass
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
_DEPTHS = {_RGB16: 2, _RGB24: 3, _RGB32: 4}


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


class SpiceCursor:
    """The cursor channel; it keeps the cursors that the server may refer to by name."""

    def __init__(self, session: int, number: int, password: str, encrypt: Encrypt, now_ns: HostNs) -> None:
        self._channel = SpiceChannel(ChannelKind.CURSOR, session, 0, password, encrypt, now_ns, number)
        self._kept: dict[int, Look] = {}
        self._kept_bytes = 0
        self._events: list[CursorEvent] = []

    @property
    def unfinished(self) -> bool:
        """See `SpiceChannel`."""
        return self._channel.unfinished

    @property
    def partial_bytes(self) -> int:
        """Bytes of cursors that are kept, and of messages that are still incomplete, or were not processed."""
        return self._kept_bytes + self._channel.partial_bytes

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the channel. While `unfinished`, it must be called again."""
        self._channel.receive(data, now_ns)
        for message in self._channel.events():
            self._message(message)

    def _message(self, message: SpiceMessage) -> None:
        kind, body = message.kind, message.body
        if kind == 101:
            x, y, _, _, visible = unpack("<hhHHB", body)
            self._events.append(CursorSet(Point(x, y), bool(visible), self._look(body, 9)))
        elif kind == 103:
            x, y, visible = unpack("<hhB", body)
            self._events.append(CursorSet(Point(x, y), bool(visible), self._look(body, 5)))
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

    def _look(self, body: bytes, at: int) -> Look | None:
        (flags,) = unpack("<H", body, at)
        if flags & _NONE:
            return None
        name, kind, width, height, hot_x, hot_y = unpack("<QB4H", body, at + 2)
        if flags & _KEPT:
            # One that was forgotten here, or was never sent.
            return self._kept.get(name)
        if not (width and height):
            raise RemoteProtocolError(f"a SPICE cursor of {width} × {height}")
        if max(width, height) > CURSOR_SIDE_MAX:
            look = Look(ARROW_SIZE, Point(0, 0), ARROW)
        else:
            pixels = cursor_pixels(kind, Size(width, height), body[at + 19 :])
            look = Look(Size(width, height), Point(hot_x, hot_y), pixels)
        if flags & _KEEP:
            self._keep(name, look)
        return look

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


def _bits(data: bytes, size: Size) -> NDArray[np.bool_]:
    stride = (size.width + 7) // 8
    rows = np.frombuffer(data, np.uint8, stride * size.height).reshape(size.height, stride)
    return np.unpackbits(rows, axis=1)[:, : size.width].astype(bool)


# Besides its colours, a cursor without alpha has a mask of what stays of the screen. Where the mask is set and the
# colour is not black, the screen is to be inverted, which no viewer can do with a picture: it is shown in that colour.
def cursor_pixels(kind: int, size: Size, data: bytes) -> bytes:
    """The pixels of a cursor as rows of B, G, R and alpha; an unknown kind is a small square."""
    width, height = size.width, size.height
    mask_bytes = (width + 7) // 8 * height
    depth = 4 if kind == _ALPHA else _DEPTHS.get(kind, 0)
    need = width * height * depth + (0 if kind == _ALPHA else mask_bytes * (2 if kind == _MONO else 1))
    if kind not in (_ALPHA, _MONO, *_DEPTHS):
        return _square(size)
    if len(data) < need:
        raise RemoteProtocolError(f"truncated SPICE cursor: {width} × {height} in {len(data)} bytes")
    if kind == _ALPHA:
        return data[:need]
    out = np.zeros((height, width, 4), np.uint8)
    if kind == _MONO:
        stays, lit = _bits(data, size), _bits(data[mask_bytes:], size)
        out[:, :, :3] = np.where(lit, 255, 0)[:, :, None]
    else:
        out[:, :, :3] = _colours(data, depth, size)
        stays, lit = _bits(data[width * height * depth :], size), (out != 0).max(axis=2)
    out[:, :, 3] = np.where(stays & ~lit, 0, 255)
    return out.tobytes()


def _colours(data: bytes, depth: int, size: Size) -> NDArray[np.uint8]:
    shape = (size.height, size.width)
    if depth != 2:
        return np.frombuffer(data, np.uint8, shape[0] * shape[1] * depth).reshape(*shape, depth)[:, :, :3]
    words = np.frombuffer(data, "<u2", shape[0] * shape[1]).reshape(shape)
    return np.stack([(words >> shift & 31).astype(np.uint8) << 3 for shift in (0, 5, 10)], axis=2)


def _square(size: Size) -> bytes:
    out = np.zeros((size.height, size.width, 4), np.uint8)
    out[:8, :8] = 255
    return out.tobytes()
