"""The listener of one console (docs/interop/dbus-display, ui/dbus-display1.xml of QEMU), sans-IO.

`ScreenPeer` is our side of the connection over which QEMU calls us with pictures, once `client.py` has registered it.
QEMU waits for the answer to its GetAll and to each ScanoutMap, and the guest stands still meanwhile; so both are
answered as soon as they are received. Pictures come as copies, or in memory that QEMU shares and goes on painting into
(from version 8 on, where the card allows it). A listener has to take both, switching at any time.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import CURSOR_SIDE_MAX
from millrace.text import printable
from millrace.units import HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import Untimed
from millrace.wire.qemu.dbus import CALL, PROPERTIES, UNKNOWN_METHOD, DBusWire, Message
from millrace.wire.qemu.values import NO_PROPERTIES, Writer

LISTENER = "org.qemu.Display1.Listener"
MAP = "org.qemu.Display1.Listener.Unix.Map"
PICTURE_MAX = 64 * 1024 * 1024
"""D-Bus Specification 0.43: an array has 64 MiB at most, and so has a picture."""
BYTES_MAX = 256 * 1024 * 1024
"""Shared memory may be larger."""
PICTURE_SIGNATURES = ("uuuuay", "iiiiuuay", "iiiiay")
"""Of Scanout, Update and CursorDefine: numbers, then the pixels. No other call is as long as these."""
BESIDE_MAX = 64 * 1024
"""What may come with the pixels: the header of their message, and the numbers."""
SIDE_MAX = 16_384
FDS_MAX = 16
"""Descriptors received ahead of their message."""
FORMATS = {0x20020888: "x8r8g8b8", 0x20028888: "a8r8g8b8"}
"""Pixman's numbers of the formats whose bytes are B, G, R, and one that is alpha or unused."""
PIXEL_BYTES = 4


@dataclass(frozen=True, slots=True)
class Scanout:
    """The whole picture, perhaps of a new size. Only the formats in `FORMATS` come with pixels of a checked size."""

    width: int
    height: int
    stride: int
    format: int
    pixels: Buffer


@dataclass(frozen=True, slots=True)
class Update:
    """A part of the picture."""

    x: int
    y: int
    width: int
    height: int
    stride: int
    format: int
    pixels: Buffer


@dataclass(frozen=True, slots=True)
class ScanoutMap:
    """The whole picture is in shared memory from now on, `offset` bytes into `fd`, which the receiver owns."""

    fd: int
    offset: int
    width: int
    height: int
    stride: int
    format: int


@dataclass(frozen=True, slots=True)
class UpdateMap:
    """A part of the shared picture has changed, or more than that part."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CursorDefine:
    """What the pointer looks like: rows of B, G, R, alpha."""

    width: int
    height: int
    hot_x: int
    hot_y: int
    pixels: bytes


@dataclass(frozen=True, slots=True)
class MouseSet:
    """Where the pointer is, and whether it is shown."""

    x: int
    y: int
    shown: bool


@dataclass(frozen=True, slots=True)
class Disabled:
    """The console shows nothing."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """QEMU offered what is not supported here, and was refused."""

    member: str


ScreenEvent: TypeAlias = (
    Scanout | Update | ScanoutMap | UpdateMap | CursorDefine | MouseSet | Disabled | Unsupported
)  # fmt: skip


# A picture is by far the longest part of its message. It is not decoded value by value but left where it was received:
# all arguments before it are 32-bit numbers, so the array follows without padding.
def _with_pixels(message: Message, numbers: str) -> tuple[list[int], Buffer]:
    signature = numbers + "ay"
    if message.signature != signature:
        raise RemoteProtocolError(f"{printable(message.member)}: unexpected arguments; {signature!r} expected")
    body, start = message.body, 4 * len(numbers) + 4
    if len(body) < start:
        raise RemoteProtocolError(f"{message.member}: truncated arguments")
    *values, size = struct.unpack_from(message.order + numbers.replace("u", "I") + "I", body)
    if len(body) < start + size:
        raise RemoteProtocolError(f"{message.member}: truncated arguments")
    return values, body[start : start + size]


# Descriptors arrive with or before the last byte of their message. They queue up, and the header of each message says
# how many it takes off. Whatever is not handed out in an event is closed here.
class ScreenPeer(Untimed):
    """Our end of a registered listener's connection; `close_fd` gets the descriptors that nothing claims."""

    def __init__(self, uid: int, close_fd: Callable[[int], None] = lambda fd: None) -> None:
        self.wire = DBusWire(uid, long=dict.fromkeys(PICTURE_SIGNATURES, PICTURE_MAX + BESIDE_MAX))
        self.greeted = False
        self._close_fd = close_fd
        self._fds: deque[int] = deque()

    def receive_fds(self, fds: list[int]) -> None:
        """Take descriptors, which came with the bytes passed to `receive` next."""
        self._fds.extend(fds)

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection. `take` makes events of them."""
        if len(self._fds) > FDS_MAX:
            raise RemoteProtocolError(
                f"QEMU sent {len(self._fds)} descriptors without the messages that they belong to"
            )
        self.wire.receive(data, now_ns)

    # A few bytes may be thousands of calls, and one call a picture that takes long to be copied. So whoever shows them
    # takes them one by one, and nothing is read meanwhile (io/fdstream.py).
    @property
    def waiting(self) -> bool:
        """Whether a whole call has not been taken."""
        return self.wire.waiting

    def take(self) -> ScreenEvent | None:
        """Answer the next call and return its event; None if it has none, or if there is no whole call.

        What the event before took counts no more. RemoteProtocolError ends the connection.
        """
        message = self.wire.take()
        if message is None:
            return None
        fds = self._claimed(message)
        try:
            return self._called(message, fds) if message.kind == CALL else None
        finally:
            for fd in fds:
                self._close_fd(fd)

    def forget(self) -> None:
        """What `take` gave is not needed any more."""
        self.wire.forget()

    def _claimed(self, message: Message) -> list[int]:
        if not 0 <= message.fds <= len(self._fds):
            raise RemoteProtocolError(f"{printable(message.member)}: came without its {message.fds} descriptors")
        return [self._fds.popleft() for _ in range(message.fds)]

    def _called(self, message: Message, fds: list[int]) -> ScreenEvent | None:
        if message.interface == PROPERTIES:
            self._properties(message)
            return None
        make = _CALLS.get(message.member)
        if make is None:
            # A call that is refused must be answered too: QEMU holds its GL until UpdateDMABUF is.
            self.wire.send_error(message, UNKNOWN_METHOD, f"{message.member} is not supported")
            return Unsupported(message.member)
        self.wire.send_reply(message)
        return make(message, fds)

    # QEMU asks twice: for all properties of the listener, and, if `Interfaces` names shared memory, for those of that.
    def _properties(self, message: Message) -> None:
        asked = message.values()[0] if message.signature.startswith("s") else ""
        self.greeted = True
        if asked != LISTENER or message.member != "GetAll":
            self.wire.send_reply(message, "a{sv}", NO_PROPERTIES)
            return
        names = Writer().text("s", MAP).bytes()
        entry = Writer().text("s", "Interfaces").text("g", "as").number("u", len(names)).bytes() + names
        self.wire.send_reply(message, "a{sv}", Writer().number("u", len(entry)).number("u", 0).bytes() + entry)

    @property
    def partial_bytes(self) -> int:
        """Bytes received of calls that are still incomplete, wait to be taken, or were taken last."""
        return self.wire.partial_bytes

    def events(self) -> list[ScreenEvent]:
        """QEMU's calls since the last time."""
        out = []
        while self.waiting:
            if (event := self.take()) is not None:
                out.append(event)
        self.forget()
        return out

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        return self.wire.data_to_send()

    def close(self) -> None:
        """The connection is over: close the descriptors that were not taken."""
        while self._fds:
            self._close_fd(self._fds.popleft())


def _checked(what: str, width: int, height: int, stride: int, offset: int = 0) -> None:
    """RemoteProtocolError for a picture whose rows don't fit each other, or one beyond all bounds."""
    if not (0 <= width <= SIDE_MAX and 0 <= height <= SIDE_MAX and offset >= 0):
        raise RemoteProtocolError(f"{what}: impossible size {width} × {height}; {SIDE_MAX} at most either way")
    if stride < width * PIXEL_BYTES or stride * height > BYTES_MAX:
        raise RemoteProtocolError(f"{what}: {height} rows of {width} pixels in {stride} bytes each")


def _filled(what: str, width: int, height: int, stride: int, pixels: Buffer) -> None:
    """RemoteProtocolError if the pixels are fewer than stated."""
    _checked(what, width, height, stride)
    need = stride * (height - 1) + width * PIXEL_BYTES
    if height and len(pixels) < need:
        raise RemoteProtocolError(f"{what}: {width} × {height} in {len(pixels)} bytes; {need} expected")


def _scanout(message: Message, fds: list[int]) -> ScreenEvent:
    (width, height, stride, format_), pixels = _with_pixels(message, "uuuu")
    if format_ in FORMATS:
        _filled("Scanout", width, height, stride, pixels)
    return Scanout(width, height, stride, format_, pixels)


def _update(message: Message, fds: list[int]) -> ScreenEvent | None:
    (x, y, width, height, stride, format_), pixels = _with_pixels(message, "iiiiuu")
    if format_ in FORMATS:
        _filled("Update", width, height, stride, pixels)
    return Update(x, y, width, height, stride, format_, pixels) if width and height else None


def _scanout_map(message: Message, fds: list[int]) -> ScreenEvent:
    index, offset, width, height, stride, format_ = message.values("huuuuu")
    if not 0 <= index < len(fds):
        raise RemoteProtocolError(f"ScanoutMap: descriptor {index} of {len(fds)}")
    if format_ in FORMATS:
        _checked("ScanoutMap", width, height, stride, offset)
    return ScanoutMap(fds.pop(index), offset, width, height, stride, format_)


def _update_map(message: Message, fds: list[int]) -> ScreenEvent:
    return UpdateMap(*message.values("iiii"))


def _cursor(message: Message, fds: list[int]) -> ScreenEvent | None:
    (width, height, hot_x, hot_y), pixels = _with_pixels(message, "iiii")
    _filled("CursorDefine", width, height, width * PIXEL_BYTES, pixels)
    # Nobody points with more, and this is copied.
    if not (0 < width <= CURSOR_SIDE_MAX and 0 < height <= CURSOR_SIDE_MAX):
        return None
    return CursorDefine(width, height, hot_x, hot_y, bytes(pixels[: width * height * PIXEL_BYTES]))


def _mouse(message: Message, fds: list[int]) -> ScreenEvent:
    x, y, shown = message.values("iii")
    return MouseSet(x, y, bool(shown))


def _disabled(message: Message, fds: list[int]) -> ScreenEvent:
    return Disabled()


_Make: TypeAlias = Callable[[Message, list[int]], ScreenEvent | None]
_CALLS: dict[Any, _Make] = {
    "Scanout": _scanout,
    "Update": _update,
    "ScanoutMap": _scanout_map,
    "UpdateMap": _update_map,
    "CursorDefine": _cursor,
    "MouseSet": _mouse,
    "Disable": _disabled,
}
