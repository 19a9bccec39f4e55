"""The client's side of SPICE's display channel: surfaces, drawings and video streams. Sans-IO.

"Spice protocol" of the SPICE project (spice-protocol: enums.h and protocol.h; the message layouts of spice.proto).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.spice.channel import ChannelKind, Encrypt, SpiceChannel, SpiceMessage, unpack
from millrace.wire.spice.draws import (
    DRAWINGS,
    Blended,
    Clip,
    Copied,
    Drawing,
    Keyed,
    Raster,
    Unknown,
    read_clip,
    read_drawing,
    read_rect,
)
from millrace.wire.spice.images import PIXELS_MAX

SETTLED_NS: HostNs = 2 * NS_PER_MS
"""A picture is complete when nothing has come for this long: most cards' pictures come in columns of 32 pixels."""
PICTURE_NS: HostNs = 12 * NS_PER_MS
"""Or when this much time has passed since its first part."""
PICTURE_BYTES = 16 * 1024 * 1024
"""Or when its parts have this size."""
STEP_NS: HostNs = NS_PER_MS
"""Between two steps others have their turn."""
DRAWING_BYTES, RECT_BYTES, NAME_BYTES = 512, 160, 48
"""What a drawing takes besides its pixels, and what a rectangle of its clip and the name of an image take more than on
the wire."""
CACHE_PIXELS = 4 * 1024 * 1024
"""How many pixels of images the server may expect to be kept."""
HEADS_MAX = 16


class Cap(IntEnum):
    """Capabilities of a display channel."""

    SIZED_STREAM = 0
    MONITORS_CONFIG = 1
    STREAM_REPORT = 4
    PREF_COMPRESSION = 6
    MULTI_CODEC = 8
    CODEC_MJPEG = 9
    CODEC_VP8 = 10
    PREF_VIDEO_CODEC = 12


CAPS = sum(1 << cap for cap in Cap)
"""What this client can do. It lacks composition and 8-bit alpha, so a guest's driver draws without them."""
OFF, LZ = 1, 6
MJPEG, VP8 = 1, 2
_INIT, _REPORT, _COMPRESSION, _VIDEO_CODECS = 101, 102, 103, 105


@dataclass(frozen=True, slots=True)
class SurfaceCreate:
    """A new surface, black; surface 0 with `primary` is the screen."""

    surface: int
    width: int
    height: int
    primary: bool


@dataclass(frozen=True, slots=True)
class SurfaceDestroy:
    """A surface is gone."""

    surface: int


@dataclass(frozen=True, slots=True)
class Heads:
    """The parts of the screen's surface that are monitors."""

    rects: tuple[Rect, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """What has been drawn may be shown."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Images kept under these names are no longer needed; None means all."""

    names: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class StreamCreate:
    """Video begins at `at` of a surface; only what `clip` leaves of that is to be drawn."""

    stream: int
    surface: int
    codec: int
    top_down: bool
    width: int
    height: int
    at: Rect
    clip: Clip


@dataclass(frozen=True, slots=True)
class StreamData:
    """One picture of a stream, of `mm_time` (ms, modulo 2^32). If it has a size of its own, `at` is its place."""

    stream: int
    mm_time: int
    data: bytes
    width: int = 0
    height: int = 0
    at: Rect | None = None


@dataclass(frozen=True, slots=True)
class StreamClip:
    """Only what `clip` leaves of a stream is to be drawn from now on."""

    stream: int
    clip: Clip


@dataclass(frozen=True, slots=True)
class StreamDestroy:
    """A stream is over; None: all are."""

    stream: int | None


@dataclass(frozen=True, slots=True)
class ReportWanted:
    """The server wants a report after so many pictures of a stream, or after so many ms."""

    stream: int
    unique: int
    pictures: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class StreamReport:
    """How pictures arrived: the times of the first and the last in ms, their number, and the delay of the last."""

    stream: int
    unique: int
    first_ms: int
    last_ms: int
    pictures: int
    drops: int
    delay_ms: int


DisplayEvent: TypeAlias = (
    SurfaceCreate | SurfaceDestroy | Heads | Mark | Forget | StreamCreate | StreamData | StreamClip | StreamDestroy
    | ReportWanted | Drawing
)  # fmt: skip


# Events are withheld until a picture is complete, so that whoever paints them does it in one go: a screen's moves are
# relative to the whole picture before. What is withheld counts as a partial message, and so is charged to the guest.
class SpiceDisplay:
    """The display channel: initialises it, and gathers what comes into pictures."""

    def __init__(
        self, session: int, number: int, password: str, encrypt: Encrypt, now_ns: HostNs, near: bool = False
    ) -> None:
        """The channel `number`; `near` if its server is on this machine: pictures then come uncompressed."""
        self._channel = SpiceChannel(ChannelKind.DISPLAY, session, CAPS, password, encrypt, now_ns, number)
        self._near = near
        self._begun = self._preferred = False
        self.painting = False
        """Set by whoever paints what `take` gave, while that takes more steps."""
        self._gathered: list[tuple[DisplayEvent, int]] = []
        self._weight = 0
        self._first_ns = self._last_ns = 0
        self._complete: deque[tuple[DisplayEvent, int]] = deque()
        self._complete_bytes = self._taken_bytes = 0
        self._again_ns: HostNs = 0

    @property
    def arrived_ns(self) -> HostNs:
        """When the last part of the newest picture came."""
        return self._last_ns

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message or picture that is still incomplete, or waits for its turn."""
        return self._channel.partial_bytes + self._weight + self._complete_bytes + self._taken_bytes

    @property
    def unfinished(self) -> bool:
        """See `SpiceChannel`; or a picture that takes long is painted in steps."""
        return self._channel.unfinished or self._unpainted

    @property
    def waiting(self) -> bool:
        """Whether there are events of complete pictures to be taken."""
        return bool(self._complete)

    @property
    def _unpainted(self) -> bool:
        return self.waiting or self.painting

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the channel. While `unfinished`, it must be called again."""
        self._channel.receive(data, now_ns)
        if self._channel.open and not self._begun:
            self._begun = True
            self._begin()
        for message in self._channel.events():
            self._gather(message, now_ns)
        if self._weight >= PICTURE_BYTES:
            self._settle()

    # The compression comes first: the server sends the whole screen as soon as it has the other message, and would
    # compress it in a way that is not implemented here.
    def _begin(self) -> None:
        if self._channel.offers(Cap.PREF_COMPRESSION):
            self._channel.send_message(_COMPRESSION, bytes((OFF if self._near else LZ,)))
        # The image cache: its number, its size in pixels; the dictionary of GLZ, which is not used.
        self._channel.send_message(_INIT, struct.pack("<BqBi", 1, CACHE_PIXELS, 1, 0))

    # When this comes, spice-server 0.15.1 ends the videos that run. It reads it at once, even while it begins with a
    # client, of which its videos know nothing yet: it dereferences a null pointer, and the virtual machine is gone.
    # Once it has sent a surface, it has begun.
    def _prefer(self) -> None:
        if not self._preferred and self._channel.offers(Cap.PREF_VIDEO_CODEC):
            self._channel.send_message(_VIDEO_CODECS, bytes((2, VP8, MJPEG)))
        self._preferred = True

    def _gather(self, message: SpiceMessage, now_ns: HostNs) -> None:
        event = display_event(message)
        if event is None:
            return
        if isinstance(event, SurfaceCreate):
            self._prefer()
        if not self._gathered:
            self._first_ns = now_ns
        self._last_ns = now_ns
        weight = DRAWING_BYTES + len(message.body) + _objects_bytes(event)
        self._gathered.append((event, weight))
        self._weight += weight

    def next_timeout(self) -> HostNs | None:
        """When the picture that is being gathered counts as complete, or the link must have been accepted."""
        if self._unpainted:
            return self._again_ns
        if not self._gathered:
            return self._channel.next_timeout()
        return min(self._last_ns + SETTLED_NS, self._first_ns + PICTURE_NS)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        due_ns = self.next_timeout()
        if self._unpainted or self._gathered:
            if due_ns is not None and now_ns >= due_ns:
                self._settle()
                self._again_ns = now_ns + STEP_NS
        else:
            self._channel.handle_timeout(now_ns)

    def _settle(self) -> None:
        self._complete += self._gathered
        self._complete_bytes += self._weight
        self._gathered, self._weight = [], 0

    # A server can send thousands of drawings of a whole screen within a picture's time, each in sixty bytes. So whoever
    # paints them takes them one by one, and what waits stays charged.
    def take(self) -> DisplayEvent | None:
        """The next event of a complete picture; what the one before took is free again."""
        event, self._taken_bytes = self._complete.popleft() if self._complete else (None, 0)
        self._complete_bytes -= self._taken_bytes
        return event

    def events(self) -> list[DisplayEvent]:
        """All events of complete pictures."""
        out = []
        while (event := self.take()) is not None:
            out.append(event)
        return out

    def send_report(self, report: StreamReport) -> None:
        """Queue a report on a stream."""
        body = struct.pack(
            "<IIIIIIiI", report.stream, report.unique, report.first_ms & 0xFFFFFFFF, report.last_ms & 0xFFFFFFFF,
            report.pictures, report.drops, report.delay_ms, 0xFFFFFFFF,
        )  # fmt: skip
        self._channel.send_message(_REPORT, body)

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        return self._channel.data_to_send()


def _objects_bytes(event: DisplayEvent) -> int:
    """What an event takes in memory beyond the bytes of its message."""
    if isinstance(event, Raster | Keyed | Blended | Copied | Unknown):
        return 0 if event.base is None else RECT_BYTES * len(event.base.parts)
    if isinstance(event, StreamCreate | StreamClip):
        return len(event.clip.rects or b"")
    return NAME_BYTES * len(event.names or ()) if isinstance(event, Forget) else 0


def _surface_create(body: bytes) -> DisplayEvent:
    surface, width, height, form, flags = unpack("<5I", body)
    if not 0 < width * height <= PIXELS_MAX:
        raise RemoteProtocolError(f"a SPICE surface of {width} × {height}; {PIXELS_MAX} pixels at most")
    if form not in (32, 96):
        return Unknown(None, f"surfaces of format {form}")
    return SurfaceCreate(surface, width, height, bool(flags & 1))


def _heads(body: bytes) -> DisplayEvent:
    count, _ = unpack("<HH", body)
    if count > HEADS_MAX:
        raise RemoteProtocolError(f"{count} SPICE monitors; {HEADS_MAX} at most")
    rects = []
    for n in range(count):
        _, surface, width, height, x, y, _ = unpack("<7I", body, 4 + 28 * n)
        if surface == 0:
            rects.append(Rect(x, y, width, height))
    return Heads(tuple(rects))


def _stream_create(body: bytes) -> DisplayEvent:
    surface, stream, flags, codec, _, width, height, _, _ = unpack("<IIBBQ4I", body)
    at = read_rect(body, 34)
    clip, _ = read_clip(body, 50)
    if not 0 < width * height <= PIXELS_MAX:
        raise RemoteProtocolError(f"a SPICE stream of {width} × {height}; {PIXELS_MAX} pixels at most")
    return StreamCreate(stream, surface, codec, bool(flags & 1), width, height, at, clip)


def _stream_data(body: bytes) -> DisplayEvent:
    stream, mm_time, size = unpack("<III", body)
    return StreamData(stream, mm_time, _exactly(body, 12, size))


def _stream_data_sized(body: bytes) -> DisplayEvent:
    stream, mm_time, width, height = unpack("<4I", body)
    at = read_rect(body, 16)
    (size,) = unpack("<I", body, 32)
    if not 0 < width * height <= PIXELS_MAX:
        raise RemoteProtocolError(f"a SPICE stream of {width} × {height}; {PIXELS_MAX} pixels at most")
    return StreamData(stream, mm_time, _exactly(body, 36, size), width, height, at)


def _exactly(body: bytes, at: int, size: int) -> bytes:
    if size > len(body) - at:
        raise RemoteProtocolError(f"truncated SPICE stream: {size} bytes announced")
    return body[at : at + size]


def _stream_clip(body: bytes) -> DisplayEvent:
    (stream,) = unpack("<I", body)
    return StreamClip(stream, read_clip(body, 4)[0])


def _forget(body: bytes) -> DisplayEvent:
    (count,) = unpack("<H", body)
    if len(body) < 2 + 9 * count:
        raise RemoteProtocolError(f"truncated SPICE message: {len(body)} bytes")
    # Each has a type before its name; 1 is a pixmap. One by one, 65,535 would take as long as many turns.
    return Forget(tuple(name for _, name in struct.iter_unpack("<BQ", body[2 : 2 + 9 * count])))


def _report_wanted(body: bytes) -> DisplayEvent:
    return ReportWanted(*unpack("<4I", body))


_EVENTS: dict[int, Callable[[bytes], DisplayEvent]] = {
    102: lambda body: Mark(),
    105: _forget,
    106: lambda body: Forget(None),
    122: _stream_create,
    123: _stream_data,
    124: _stream_clip,
    125: lambda body: StreamDestroy(unpack("<I", body)[0]),
    126: lambda body: StreamDestroy(None),
    314: _surface_create,
    315: lambda body: SurfaceDestroy(unpack("<I", body)[0]),
    316: _stream_data_sized,
    317: _heads,
    319: _report_wanted,
}


def display_event(message: SpiceMessage) -> DisplayEvent | None:
    """Decode a display channel's message; None if it is not needed here."""
    if message.kind in DRAWINGS:
        return read_drawing(message.kind, message.body)
    read = _EVENTS.get(message.kind)
    return None if read is None else read(message.body)
