"""What a VNC server tells, and what its client says to it, as values and bytes.

RFC 6143 for RFB 3.8; "rfbproto" (the community's RFB specification) for the rest. Numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from millrace.dsp.convert import Buffer
from millrace.pixels.rects import Point, Rect, Size
from millrace.wire.clips import ClipEvent
from millrace.wire.keys import LightsTold

S16 = 3
"""QEMU's number of signed 16-bit samples."""


class Encoding(IntEnum):
    """Encodings of rectangles, and pseudo-encodings, by which a client says what it understands."""

    RAW = 0
    COPY_RECT = 1
    ZLIB = 6
    TIGHT = 7
    ZRLE = 16
    DESKTOP_SIZE = -223
    LAST_RECT = -224
    POINTER_POS = -232
    CURSOR = -239
    X_CURSOR = -240
    POINTER_TYPE = -257
    EXTENDED_KEYS = -258
    AUDIO = -259
    LEDS = -261
    EXTENDED_DESKTOP_SIZE = -308
    ALPHA_CURSOR = -314
    EXTENDED_CLIPBOARD = -1063131698


# Lossless ones only: no JPEG quality is asked for, so that text stays exact to the last bit. Pictures are encoded again
# for each viewer's line.
PLAIN = (Encoding.COPY_RECT, Encoding.RAW)
"""For a server on this host: nothing is gained by compression."""
COMPRESSED = (Encoding.COPY_RECT, Encoding.TIGHT, Encoding.ZRLE, Encoding.ZLIB, Encoding.RAW)
"""For one beyond a network, best first."""
PSEUDO = (
    Encoding.ALPHA_CURSOR, Encoding.CURSOR, Encoding.X_CURSOR, Encoding.POINTER_POS, Encoding.EXTENDED_DESKTOP_SIZE,
    Encoding.DESKTOP_SIZE, Encoding.LAST_RECT, Encoding.LEDS, Encoding.EXTENDED_KEYS, Encoding.POINTER_TYPE,
    Encoding.EXTENDED_CLIPBOARD,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """The server expects a TLS handshake on this connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The server has let us in; `name` is the desktop's name."""

    name: str


@dataclass(frozen=True, slots=True)
class SoundOffered:
    """The server supports sound, and was asked for it in our format."""


@dataclass(frozen=True, slots=True)
class AudioBegin:
    """Sound begins."""


@dataclass(frozen=True, slots=True)
class AudioEnd:
    """Sound ends."""


@dataclass(frozen=True, slots=True)
class AudioData:
    """Interleaved s16 samples."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Resized:
    """The screen has this size now, and its content is unknown until it is painted."""

    size: Size


@dataclass(frozen=True, slots=True)
class Painted:
    """A rectangle with its pixels, row by row without gaps: B, G, R and an unused byte."""

    rect: Rect
    pixels: Buffer


@dataclass(frozen=True, slots=True)
class Filled:
    """A rectangle in one colour: B, G, R and an unused byte."""

    rect: Rect
    pixel: bytes


@dataclass(frozen=True, slots=True)
class Copied:
    """The rectangle's content was copied from the same screen, from `origin` on."""

    rect: Rect
    origin: Point


Part: TypeAlias = Painted | Filled | Copied


@dataclass(frozen=True, slots=True)
class Update:
    """A picture: its parts are applied in this order, and taken out, which frees them one by one.

    One too large to wait for comes in several.
    """

    parts: deque[Part]
    held_bytes: int
    """What they take in memory."""


@dataclass(frozen=True, slots=True)
class CursorShape:
    """What the pointer looks like: B, G, R and straight alpha. Without a size it is hidden."""

    hot: Point
    size: Size
    pixels: bytes


@dataclass(frozen=True, slots=True)
class CursorAt:
    """The pointer was moved by somebody else."""

    at: Point


VncEvent: TypeAlias = (
    TlsWanted | Ready | SoundOffered | AudioBegin | AudioEnd | AudioData | Resized | Update | CursorShape | CursorAt
    | LightsTold | ClipEvent
)  # fmt: skip


# -- what a client says ----------------------------------------------------------------------------

# 32 bits, of which 24 count, little-endian, red at 16, green at 8, blue at 0: bytes B, G, R and an unused one. It is
# QEMU's own format, and what `Screen` holds.
SET_PIXEL_FORMAT = struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def set_encodings(encodings: Iterable[int]) -> bytes:
    """RFC 6143, 7.5.2."""
    listed = list(encodings)
    return struct.pack(f">BxH{len(listed)}i", 2, len(listed), *listed)


def ask_for(size: Size, whole: bool) -> bytes:
    """Ask for the next picture: all of it, or what has changed. RFC 6143, 7.5.3."""
    return struct.pack(">BBHHHH", 3, not whole, 0, 0, size.width, size.height)


def key_event(keysym: int, down: bool) -> bytes:
    """RFC 6143, 7.5.4."""
    return struct.pack(">BBxxI", 4, down, keysym)


def extended_key_event(keysym: int, code: int, down: bool) -> bytes:
    """With the scan code as QEMU numbers it: rfbproto, "QEMU Extended Key Event Message"."""
    return struct.pack(">BBHII", 255, 0, down, keysym, code)


def pointer_event(mask: int, x: int, y: int) -> bytes:
    """RFC 6143, 7.5.5."""
    return struct.pack(">BBHH", 5, mask, x, y)


def set_desktop_size(size: Size, screen: int, flags: int) -> bytes:
    """Ask for another size, with one screen over all of it: rfbproto, "SetDesktopSize"."""
    head = struct.pack(">BxHHBx", 251, size.width, size.height, 1)
    return head + struct.pack(">IHHHHI", screen, 0, 0, size.width, size.height, flags)


def enable_sound(channels: int, rate: int) -> bytes:
    """Set the format and begin: rfbproto, "QEMU Audio Client Message"."""
    return struct.pack(">BBHBBI", 255, 1, 2, S16, channels, rate) + struct.pack(">BBH", 255, 1, 0)
