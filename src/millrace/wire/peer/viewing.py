"""Both ends of a viewer's session, sans-IO. See pictures.py for the messages."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.units import HostNs
from millrace.wire.peer.clips import CLIP, Clip, Clips, Paste, pack_clip
from millrace.wire.peer.keepalive import HELLO_MAX_NS, PING_NS, KeptSession
from millrace.wire.peer.pictures import (
    EMPTY_PARTS,
    FromViewer,
    ModeChanged,
    Part,
    PartType,
    Piece,
    Shown,
    Taken,
    ToViewer,
    Watch,
    Watching,
    check_part,
    check_version,
    decode_from_viewer,
    decode_to_viewer,
    encode_picture_message,
    pack_parts,
    pack_piece_head,
    unpack_piece,
)

PIXELS_MAX = 64 * 1024 * 1024
"""The largest picture that a viewer takes."""
COPIED_MAX = 64
"""How many times its own pixels a picture may copy by parts that have no bytes. A daemon's copy a few rectangles."""
_CLIP_KIND = bytes([CLIP])


class _Session(KeptSession):
    """What both ends have in common."""

    def __init__(self, now_ns: HostNs, ping_ns: HostNs) -> None:
        super().__init__(now_ns, ping_ns)
        self.clips = Clips()

    def send_clip(self, clip: Clip) -> None:
        """Queue the answer to `Paste`, all of it."""
        self._out += pack_clip(clip)

    def send_packed(self, message: bytes) -> None:
        """Queue one of the messages that `pack_clip` has made."""
        self._out.append(message)

    def send_paste(self, number: int) -> None:
        """Ask for the other end's text of that number, and no longer for any other."""
        self.clips.ask(number)
        self._out.append(encode_picture_message(Paste(number)))


class ViewServer(_Session):
    """The daemon's end. It expects Watch first, and sends pings from then on."""

    _first = "watch"

    def __init__(self, now_ns: HostNs) -> None:
        super().__init__(now_ns, 4 * PING_NS)
        self.keepalive.rest_until(now_ns + HELLO_MAX_NS)
        self.greeted = False
        self.generation = 0
        self.sent = 0
        """The serial of the picture sent last, or being sent."""
        self.shown = 0
        """The latest serial that the viewer has acknowledged."""
        self._mode: ModeChanged | None = None
        self._unfinished = False
        self._events: list[FromViewer | Clip] = []

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Take one WebSocket message; RemoteProtocolError ends the session."""
        self.keepalive.heard(now_ns)
        if isinstance(message, bytes):
            self._text(message)
            return
        parsed = decode_from_viewer(message)
        if self._answered(parsed, now_ns):
            return
        if isinstance(parsed, Watch) == self.greeted:
            raise RemoteProtocolError("watch must come first, and only once")
        self.greeted = True
        if isinstance(parsed, Watch):
            check_version(parsed)
            self._hello_by_ns = None
            self.keepalive.rest_until(now_ns)
        elif isinstance(parsed, Shown | Taken):
            self._acknowledged(parsed)
        self._events.append(parsed)

    def _text(self, message: bytes) -> None:
        if message[:1] != _CLIP_KIND:
            raise RemoteProtocolError("unexpected binary message: a viewer sends text only")
        clip = self.clips.take(message)
        if clip is not None:
            self._events.append(clip)

    def _acknowledged(self, shown: Shown | Taken) -> None:
        if shown.serial > self.sent or (shown.serial == self.sent and self._unfinished):
            raise RemoteProtocolError(f"picture {shown.serial} is acknowledged, but was not sent")
        self.shown = max(self.shown, shown.serial)

    def events(self) -> list[FromViewer | Clip]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def send_message(self, message: ToViewer) -> None:
        """Queue a control message; for a mode, see `send_mode`."""
        self._out.append(encode_picture_message(message))

    def send_mode(self, width: int, height: int, relative: bool = False) -> None:
        """Queue a mode: what is sent from here on belongs to it."""
        self._unfinished = False
        self.generation = self.generation + 1 & 0xFFFF
        self._mode = ModeChanged(width, height, self.generation, relative)
        self.send_message(self._mode)

    def send_relative(self, relative: bool) -> None:
        """Queue that the pointer takes movements, or positions, if there is a mode and that has changed."""
        if self._mode is not None and self._mode.relative != relative:
            self._mode = msgspec.structs.replace(self._mode, relative=relative)
            self.send_message(self._mode)

    # The parts come as bytes, because they are the same for all viewers of an encoder; only the header is this viewer's
    # own. Serials count the pictures sent to this viewer, so it notices if one is missing.
    def send_piece(self, parts: bytes, last: bool = True, key: bool = False, painted_ns: HostNs = 0) -> int:
        """Queue a piece, whose parts were made by `pack_parts`; returns its picture's serial."""
        if not self._unfinished:
            self.sent += 1
        self._unfinished = not last
        head = Piece(self.sent, self.generation, (), last, key, painted_ns)
        self._out.append(pack_piece_head(head) + parts)
        return self.sent

    def send_shape(self, shape: Part) -> None:
        """Queue what a cursor looks like."""
        head = Piece(0, self.generation, ())
        self._out.append(pack_piece_head(head) + pack_parts((shape,)))


ViewerEvent: TypeAlias = ToViewer | Piece | Clip


class ViewClient(_Session):
    """The viewer's end. The pieces that it returns can be applied: they fit the mode and come in order."""

    _first = "watching"

    def __init__(self, watch: Watch, now_ns: HostNs) -> None:
        super().__init__(now_ns, PING_NS)
        self.watching: Watching | None = None
        self.mode: ModeChanged | None = None
        self._whole = Rect(0, 0, 0, 0)
        self._serial = 0
        self._unfinished = False
        self._copied = 0
        """Pixels that the parts without bytes of the newest picture copy."""
        self._events: list[ViewerEvent] = []
        self._out.append(encode_picture_message(watch))

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Take one WebSocket message; RemoteProtocolError ends the session."""
        self.keepalive.heard(now_ns)
        if isinstance(message, bytes):
            self._piece(message)
            return
        parsed = decode_to_viewer(message)
        if self._answered(parsed, now_ns):
            return
        if isinstance(parsed, Watching):
            self.watching, self._hello_by_ns = parsed, None
        elif isinstance(parsed, ModeChanged):
            self._set_mode(parsed)
        self._events.append(parsed)

    def _set_mode(self, mode: ModeChanged) -> None:
        if mode.width * mode.height > PIXELS_MAX:
            raise RemoteProtocolError(f"a picture of {mode.width} × {mode.height}; {PIXELS_MAX} pixels at most")
        if self.mode is None or mode.generation != self.mode.generation:
            self._whole, self._unfinished, self._copied = Rect(0, 0, mode.width, mode.height), False, 0
        elif (mode.width, mode.height) != (self.mode.width, self.mode.height):
            raise RemoteProtocolError("a mode of another size with the same generation")
        self.mode = mode

    def _piece(self, message: bytes) -> None:
        if message[:1] == _CLIP_KIND:
            clip = self.clips.take(message)
            if clip is not None:
                self._events.append(clip)
            return
        piece = unpack_piece(message)
        if piece is None:
            return
        if piece.serial:
            self._check_order(piece)
        for part in piece.parts:
            if not piece.serial and part.type != PartType.SHAPE:
                raise RemoteProtocolError(f"a part of type {part.type} outside a picture")
            check_part(part, self._whole)
        self._check_work(piece)
        self._events.append(piece)

    # 1,024 copies of a large picture are a message of 18 KiB, and minutes of work.
    def _check_work(self, piece: Piece) -> None:
        self._copied += sum(part.at.area for part in piece.parts if part.type in EMPTY_PARTS)
        if self._copied > COPIED_MAX * self._whole.area:
            raise RemoteProtocolError(f"a picture copies {self._copied} pixels; {COPIED_MAX} times its own at most")
        if piece.serial and piece.last:
            self._copied = 0

    def _check_order(self, piece: Piece) -> None:
        """The next piece of a picture, or the first one of the next picture, of this mode."""
        expected = self._serial if self._unfinished else self._serial + 1
        if piece.serial != expected:
            raise RemoteProtocolError(f"picture {piece.serial} where {expected} was expected")
        if self.mode is None or piece.generation != self.mode.generation:
            raise RemoteProtocolError(f"a picture of generation {piece.generation}, which no mode announced")
        self._serial, self._unfinished = piece.serial, not piece.last

    def events(self) -> list[ViewerEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def send_message(self, message: FromViewer) -> None:
        """Queue a control message; for `shown`, see `send_shown`."""
        self._out.append(encode_picture_message(message))

    def send_shown(
        self, serial: int, decoded_ns: HostNs, drawn_ns: HostNs, skew_ns: HostNs | None = None, queue: int = 0,
        arrived_ns: HostNs = 0, drawing_ns: HostNs = 0,
    ) -> None:  # fmt: skip
        """Acknowledge a picture; the times are on this clock, or 0 for those that there are not."""
        decoded, drawn, arrived, drawing = (
            self.on_daemons_clock(ns) if ns else 0 for ns in (decoded_ns, drawn_ns, arrived_ns, drawing_ns)
        )
        self.send_message(Shown(serial, decoded, drawn, skew_ns, queue, arrived, drawing))

    def on_daemons_clock(self, local_ns: HostNs) -> HostNs:
        """A time of this clock on the daemon's; 0 while the offset is not known."""
        offset_ns = self.keepalive.clock.offset_ns(local_ns)
        return 0 if offset_ns is None else max(0, local_ns + offset_ns)
