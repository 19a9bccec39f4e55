"""The picture protocol's messages: JSON for control, one binary layout for pieces of pictures.

It runs over a WebSocket of its own beside the listener's, so that a large picture never delays sound.
`docs/picture-protocol.md` describes it for people who write a viewer. Positions and sizes are those of the picture as
it is sent, which `scale` may have made smaller than the screen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.media.fields import INT_MAX, Count, Signed
from millrace.pixels.rects import CURSOR_SIDE_MAX, Rect
from millrace.units import HostNs
from millrace.wire.decoding import understood
from millrace.wire.keysyms import MEANING_MAX
from millrace.wire.peer.clips import ClipboardState, Copied, Paste
from millrace.wire.peer.messages import (
    SETTINGS_MAX,
    Bye,
    Configured,
    Fault,
    Ping,
    Pong,
    Settings,
    Trouble,
    Wishes,
    sized,
)

PICTURE_VERSION = 1
SCREEN_SUBPROTOCOL = "millrace-screen.1"
PIECE_MAX = 4 * 1024 * 1024
"""The largest piece: whoever encodes cuts a larger picture into several."""
PARTS_MAX = 1024
"""The most parts of a piece."""
PIXEL_BYTES = 4
SIDE_MAX = 16_384
NAME_MAX, TEXT_MAX = 200, 4_096
BUTTONS, BUTTONS_FIRST = 9, 7
"""The pointer's buttons: left, middle, right, wheel up, wheel down, side, extra, wheel left, wheel right.

Older daemons know the first ones.
"""
BUTTONS_MAX = (1 << BUTTONS) - 1

Name = Annotated[str, msgspec.Meta(max_length=NAME_MAX)]
Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=SETTINGS_MAX)]
Side = Annotated[int, msgspec.Meta(ge=1, le=SIDE_MAX)]
Place = Annotated[int, msgspec.Meta(ge=-2 * SIDE_MAX, le=2 * SIDE_MAX)]
Serial = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
ScanCode = Annotated[int, msgspec.Meta(ge=1, le=0xFF)]
Meaning = Annotated[str, msgspec.Meta(max_length=MEANING_MAX)]

# -- from the viewer -----------------------------------------------------------------------------


class Watch(msgspec.Struct, tag="watch", tag_field="type"):
    """The viewer's first message: what it can show, and what it wants to see.

    `screen` is a key (screen/7), or null for the first; `codecs` are for video, `formats` for rectangles; `listener` is
    the number of its own sound listener, which has to be in the same guest and of the same principal. With `keyboard`
    it takes the keyboard if nobody has it. `overlays` are codecs of videos that it draws over the picture itself.
    """

    version: int = PICTURE_VERSION
    name: str = ""
    screen: Name | None = None
    codecs: Names = []
    formats: Names = msgspec.field(default_factory=lambda: ["raw", "zstd"])
    settings: Wishes = {}
    listener: Count | None = None
    keyboard: bool = False
    overlays: Names = []


class ChangeView(msgspec.Struct, tag="set", tag_field="type"):
    """The viewer changes its settings, or says which is its sound listener now; null for none."""

    settings: Wishes = {}
    listener: Count | UnsetType | None = UNSET


class Key(msgspec.Struct, tag="key", tag_field="type"):
    """A key was pressed or released: its XT scan code (set 1), with 0x80 added if it is an extended one."""

    code: ScanCode
    down: bool
    key: Meaning = ""
    """What it means to the viewer: a character, or a name as browsers' `KeyboardEvent.key`; empty if not known."""
    locks: Annotated[int, msgspec.Meta(ge=0, le=0xFF)] | None = None
    """Locks that are on where it is pressed: num lock 2, caps lock 4; null if that is not known."""


class Pointer(msgspec.Struct, tag="pointer", tag_field="type"):
    """The pointer is at, or with `relative` moved by, x and y, with these buttons down (see BUTTONS_MAX)."""

    x: Place
    y: Place
    buttons: Annotated[int, msgspec.Meta(ge=0, le=BUTTONS_MAX)] = 0
    relative: bool = False


class SizeWish(msgspec.Struct, tag="size", tag_field="type"):
    """The viewer wishes for a screen of this size, in the screen's own pixels."""

    width: Side
    height: Side


class Text(msgspec.Struct, tag="text", tag_field="type"):
    """Text to type, from an input method or the keyboard of a phone."""

    text: Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]


class TakeKeyboard(msgspec.Struct, tag="keyboard", tag_field="type"):
    """Take the keyboard and the pointer, whoever has them, or give them up."""

    take: bool


class Shown(msgspec.Struct, tag="shown", tag_field="type"):
    """A picture is drawn, or was replaced by a newer one before: the acknowledgement that lets the daemon send more.

    Times are on the daemon's clock, or 0 if that is not known yet: when the last piece of it arrived, when it was
    decoded, when drawing it began and ended; `drawn_ns` is 0 too if it was replaced. `skew_ns` is how much later the
    picture is seen than the sound of the same moment is heard; null without sound. `queue` counts pictures received and
    not drawn.
    """

    serial: Serial
    decoded_ns: Signed = 0
    drawn_ns: Signed = 0
    skew_ns: Signed | None = None
    queue: Count = 0
    arrived_ns: Signed = 0
    drawing_ns: Signed = 0


class Taken(msgspec.Struct, tag="taken", tag_field="type"):
    """A picture has arrived whole, and waits for the sound of its moment; `shown` follows when it is drawn.

    It acknowledges the picture as `shown` does. A viewer that draws on arrival need not send it.
    """

    serial: Serial
    queue: Count = 0


class Refresh(msgspec.Struct, tag="refresh", tag_field="type"):
    """The viewer needs a key picture: its decoder failed."""

    why: str = ""


class Hidden(msgspec.Struct, tag="hidden", tag_field="type"):
    """Whether nobody sees the picture: a hidden viewer is sent none."""

    hidden: bool


# -- from the daemon -----------------------------------------------------------------------------


class Watching(msgspec.Struct, tag="watching", tag_field="type"):
    """The daemon's answer: the viewer's number, the screen it sees, and its settings.

    `Configured` follows if it shares the encoder of viewers with other settings.
    """

    viewer: Count
    guest: str
    screen: str | None
    """None while the guest has no screen."""
    label: str
    settings: Settings
    may_type: bool
    clipboard: bool = False
    """Whether it may use the machine's clipboard."""
    version: int = PICTURE_VERSION
    buttons: int = BUTTONS_FIRST
    """How many buttons of the pointer may be told."""
    name: str = ""
    """What it is called in lists: the name that it gave, or that of its token."""
    why: str = ""
    """Why there is no screen, as the doors of its machines say, if they say anything."""


class ModeChanged(msgspec.Struct, tag="mode", tag_field="type"):
    """The following pieces are of pictures of this size and generation. What was shown before is void.

    With `relative` the machine has only a mouse, which takes movements of the pointer instead of positions. A mode of
    the generation that is in force changes only this.
    """

    width: Side
    height: Side
    generation: Generation
    relative: bool = False


class CursorChanged(msgspec.Struct, tag="cursor", tag_field="type"):
    """The pointer of the screen; `shape` is the number of one sent before."""

    shape: Count
    x: Place
    y: Place
    hot_x: Place = 0
    hot_y: Place = 0
    shown: bool = True


class KeyboardHeld(msgspec.Struct, tag="keyboard", tag_field="type"):
    """Who has the keyboard: this viewer, the viewer called `who`, or nobody."""

    mine: bool
    who: str = ""


class Gone(msgspec.Struct, tag="gone", tag_field="type"):
    """The screen is gone, and why. The last picture may stay, marked as old, until the next `mode`."""

    why: str


class ScreenNamed(msgspec.Struct):
    """One of a guest's screens; 0 × 0 while it has no picture."""

    key: str
    label: str
    width: Count
    height: Count


class Screens(msgspec.Struct, tag="screens", tag_field="type"):
    """The screens of the guest, whenever they change."""

    screens: Annotated[list[ScreenNamed], msgspec.Meta(max_length=SETTINGS_MAX)]


FromViewer: TypeAlias = (
    Watch | ChangeView | Key | Pointer | SizeWish | Text | TakeKeyboard | Shown | Taken | Refresh | Hidden | Copied
    | Paste | Trouble | Ping | Pong | Bye
)  # fmt: skip
ToViewer: TypeAlias = (
    Watching | ModeChanged | CursorChanged | KeyboardHeld | Configured | Gone | Screens | ClipboardState | Paste | Ping
    | Pong | Fault | Bye
)  # fmt: skip
_from_viewer = msgspec.json.Decoder(FromViewer)
_to_viewer = msgspec.json.Decoder(ToViewer)
_encoder = msgspec.json.Encoder()


def encode_picture_message(message: FromViewer | ToViewer) -> str:
    """A control message as JSON text."""
    return _encoder.encode(message).decode()


def decode_from_viewer(text: str) -> FromViewer:
    """Parse a viewer's message; RemoteProtocolError says what is wrong with it."""
    message: FromViewer = understood(_from_viewer.decode, sized(text))
    return message


def decode_to_viewer(text: str) -> ToViewer:
    """Parse a daemon's message; RemoteProtocolError says what is wrong with it."""
    message: ToViewer = understood(_to_viewer.decode, sized(text))
    return message


def check_version(watch: Watch) -> None:
    """RemoteProtocolError unless this daemon speaks the viewer's version."""
    if watch.version != PICTURE_VERSION:
        raise RemoteProtocolError(
            f"unsupported version of the picture protocol: {watch.version}; this daemon speaks {PICTURE_VERSION}"
        )


# -- pieces of pictures --------------------------------------------------------------------------

PIECE = 16
"""The kind of binary message, in its first byte; others are to be skipped."""
LAST, KEY = 1, 2
VIDEO_KEY = 1
"""Flag of a VIDEO part that needs nothing before it."""
# Little-endian without padding: kind, flags, generation, serial, painted.
_HEAD = struct.Struct("<BBHIQ")
HEAD_BYTES = _HEAD.size
# Type, flags, x, y, width, height, dx, dy, length.
_PART = struct.Struct("<BBHHHHHHI")
PART_HEAD_BYTES = _PART.size
_U32, _U16 = 0xFFFFFFFF, 0xFFFF


class PartType(IntEnum):
    """What a part does to the picture."""

    RAW = 1
    """Rows of B, G, R, and an unused byte."""
    ZSTD = 2
    """The same rows as one zstd frame (RFC 8878) that states the size of its content."""
    JPEG = 3
    MOVE = 4
    """No bytes: the content of the rectangle comes from `dx` and `dy` before it."""
    VIDEO = 5
    """One access unit of a video, of which only the rectangle is drawn. The video's own pictures are those of a part of
    the screen, from `dx` and `dy` on; only a key picture may come with another size or place of them."""
    SHAPE = 6
    """A cursor: x and y are its hot spot, dx its number; rows of B, G, R and alpha."""
    DRAW = 7
    """No bytes: another rectangle of the last VIDEO to draw, with its `dx` and `dy`."""
    PNG = 8
    PALETTE = 9
    """Few colours: a palette and indices, see `codec/palette.py`."""
    FRAME = 10
    """One access unit, as the machine sent it, of the video whose number is `dx`; it has no rectangle."""
    OVERLAYS = 11
    """Which of those videos lie over the picture from now on, and where (overlays.py); it has no rectangle."""


EMPTY_PARTS = (PartType.MOVE, PartType.DRAW)
VIDEO_TYPES = (PartType.VIDEO, PartType.DRAW)
"""Parts that are drawn from the last picture of the video."""
_PIXEL_PARTS = (PartType.RAW, PartType.SHAPE)
_PLACELESS = (PartType.FRAME, PartType.OVERLAYS)


class Part(NamedTuple):
    """One step in which a picture changes; parts are applied in order. `dx` and `dy` are signed."""

    type: int
    at: Rect
    data: Buffer = b""
    dx: int = 0
    dy: int = 0
    flags: int = 0


class Piece(NamedTuple):
    """A piece of a picture, which is complete with its `last` one. `painted_ns` is on the daemon's clock.

    A picture with `key` needs nothing that came before. Serial 0 is not a picture: such a piece defines cursors. `size`
    is that of the message to which the parts of a received piece refer, with what was skipped in it.
    """

    serial: int
    generation: int
    parts: tuple[Part, ...]
    last: bool = True
    key: bool = False
    painted_ns: HostNs = 0
    size: int = 0


def pack_parts(parts: Iterable[Part]) -> bytes:
    """The parts of a piece as bytes, which may be shared by the pieces of several viewers."""
    out: list[Buffer] = []
    for part in parts:
        at = part.at
        head = (part.type, part.flags, at.x, at.y, at.width, at.height, part.dx & _U16, part.dy & _U16, len(part.data))
        out += (_PART.pack(*head), part.data)
    return b"".join(out)


def pack_piece_head(piece: Piece) -> bytes:
    """The header of a piece, without its parts."""
    flags = (LAST if piece.last else 0) | (KEY if piece.key else 0)
    return _HEAD.pack(PIECE, flags, piece.generation & _U16, piece.serial & _U32, piece.painted_ns)


def pack_piece(piece: Piece) -> bytes:
    """A piece as one binary message."""
    return pack_piece_head(piece) + pack_parts(piece.parts)


def unpack_piece(data: Buffer) -> Piece | None:
    """Decode a binary message; None for an unknown kind, which is to be skipped. The parts refer to `data`."""
    if len(data) > PIECE_MAX:
        raise RemoteProtocolError(f"piece too long: {len(data)} bytes; {PIECE_MAX} at most")
    if len(data) < HEAD_BYTES:
        raise RemoteProtocolError(f"piece too short: {len(data)} bytes")
    kind, flags, generation, serial, painted_ns = _HEAD.unpack_from(data)
    if kind != PIECE:
        return None
    if painted_ns > INT_MAX:
        raise RemoteProtocolError("invalid time of a picture")
    last, key = bool(flags & LAST), bool(flags & KEY)
    return Piece(serial, generation, _unpack_parts(data), last, key, painted_ns, len(data))


# Types of parts that are not known are skipped here: their length says where the next one begins. A viewer is sent only
# the types that it named, so a skipped one is nothing that it would miss.
def _unpack_parts(data: Buffer) -> tuple[Part, ...]:
    view, at = memoryview(data).cast("B"), HEAD_BYTES
    out: list[Part] = []
    while at < len(view):
        if len(view) - at < PART_HEAD_BYTES:
            raise RemoteProtocolError(f"piece ends in the header of a part, after {len(view)} bytes")
        kind, flags, x, y, width, height, dx, dy, length = _PART.unpack_from(view, at)
        at += PART_HEAD_BYTES
        if len(view) - at < length:
            raise RemoteProtocolError(f"part too long: {length} bytes, of which the piece has {len(view) - at}")
        if len(out) == PARTS_MAX:
            raise RemoteProtocolError(f"too many parts in a piece; {PARTS_MAX} at most")
        if kind in _KNOWN:
            part = Part(kind, Rect(x, y, width, height), view[at : at + length], _signed(dx), _signed(dy), flags)
            out.append(part)
        at += length
    return tuple(out)


_KNOWN = frozenset(PartType)


def _signed(number: int) -> int:
    return number - 0x10000 if number & 0x8000 else number


def check_part(part: Part, whole: Rect) -> None:
    """RemoteProtocolError unless a part can be applied to a picture of that size."""
    size, at = len(part.data), part.at
    if part.type == PartType.SHAPE:
        if not (0 < at.width <= CURSOR_SIDE_MAX and 0 < at.height <= CURSOR_SIDE_MAX):
            raise RemoteProtocolError(f"a cursor of {at.width} × {at.height}; {CURSOR_SIDE_MAX} at most either way")
    elif part.type not in _PLACELESS and not (at.area and whole.holds(at)):
        raise RemoteProtocolError(f"a part of {_shown(at)} in a picture of {whole.width} × {whole.height}")
    if part.type in _PIXEL_PARTS and size != at.width * at.height * PIXEL_BYTES:
        raise RemoteProtocolError(f"a part of {at.width} × {at.height} pixels in {size} bytes")
    if part.type in EMPTY_PARTS and size:
        raise RemoteProtocolError(f"a part of type {part.type} with {size} bytes")
    if part.type == PartType.MOVE and not whole.holds(at.moved(-part.dx, -part.dy)):
        raise RemoteProtocolError(f"a move of {_shown(at)} from outside the picture")
    if part.type in VIDEO_TYPES and not (0 <= part.dx <= at.x and 0 <= part.dy <= at.y):
        raise RemoteProtocolError(f"a part of {_shown(at)} of a video at {part.dx}, {part.dy}")
    if part.type not in (*EMPTY_PARTS, PartType.OVERLAYS) and not size:
        raise RemoteProtocolError(f"a part of type {part.type} without bytes")


def _shown(rect: Rect) -> str:
    return f"{rect.width} × {rect.height} at {rect.x}, {rect.y}"
