"""The beginning of an X11 connection: the request, the server's description of its screen, and the authority file.

X Window System Protocol, X Version 11, "Connection Setup"; Xau's file format from Xsecurity(7) and libXau. Numbers are
little-endian, as the client asks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Size
from millrace.text import printable

COOKIE = b"MIT-MAGIC-COOKIE-1"
SIDE_MAX, PIXELS_MAX = 16_384, 40_000_000
_BLUE, _GREEN, _RED = 0xFF, 0xFF00, 0xFF0000


@dataclass(frozen=True, slots=True)
class Description:
    """What is needed of a server's description."""

    base: int
    """The first resource number that is ours."""
    root: int
    size: Size
    vendor: str


def padded(data: bytes) -> bytes:
    """To a multiple of four bytes."""
    return data + bytes(-len(data) % 4)


def setup_request(cookie: bytes) -> bytes:
    """Ask to be let in, with a cookie if there is one."""
    name = COOKIE if cookie else b""
    return struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + padded(name) + padded(cookie)


def possible(width: int, height: int) -> bool:
    """Whether a screen of this size is shown."""
    return 0 < width <= SIDE_MAX and 0 < height <= SIDE_MAX and width * height <= PIXELS_MAX


def check_size(width: int, height: int) -> Size:
    """RemoteProtocolError for a screen that is too large to be shown."""
    if not possible(width, height):
        raise RemoteProtocolError(f"the X server's screen is too large: {width} × {height}")
    return Size(width, height)


def refusal(head: bytes, body: bytes) -> RemoteProtocolError:
    """Why the server did not let us in."""
    reason = printable(body[: head[1]].decode("latin-1").strip()) or "it gives no reason"
    return RemoteProtocolError(
        f"the X server refused: {reason}; give the display's cookie with --auth-file, or allow this user (xhost)"
    )


def read_description(body: bytes) -> Description:
    """Read what follows the first 8 bytes; RemoteProtocolError if it is wrong, or the screen's format is another."""
    try:
        return _read(body)
    except struct.error:
        raise RemoteProtocolError("the X server's description is cut short") from None


def _read(body: bytes) -> Description:
    base, vendor, screens, formats, order = struct.unpack_from("<4xI8xH2xBBB", body)
    at = 32
    name = printable(body[at : at + vendor].decode("latin-1"))
    at += vendor + -vendor % 4
    depths: dict[int, int] = dict(struct.iter_unpack("<BB6x", _cut(body, at, formats * 8)))
    at += formats * 8
    if not screens:
        raise RemoteProtocolError("the X server has no screen")
    root, width, height, visual, depth, count = struct.unpack_from("<I16xHH8xI2xBB", body, at)
    masks = _visuals(body, at + 40, count).get(visual)
    if order != 0 or depths.get(depth) != 32 or masks != (_RED, _GREEN, _BLUE):
        raise RemoteProtocolError(
            f"the X server's pixels are not supported (depth {depth}); run it with a depth of 24, in true colour"
        )
    return Description(base, root, check_size(width, height), name)


def _cut(body: bytes, at: int, size: int) -> bytes:
    part = body[at : at + size]
    if len(part) < size:
        raise struct.error
    return part


def _visuals(body: bytes, at: int, depths: int) -> dict[int, tuple[int, int, int]]:
    """The masks of red, green and blue of each visual."""
    out: dict[int, tuple[int, int, int]] = {}
    for _ in range(depths):
        (count,) = struct.unpack_from("<2xH", body, at)
        for number, *masks in struct.iter_unpack("<I4x3I4x", _cut(body, at + 8, count * 24)):
            out[number] = (masks[0], masks[1], masks[2])
        at += 8 + count * 24
    return out


def find_cookie(authority: bytes, display: str) -> bytes:
    """The cookie of a display, such as '1', in an authority file; empty if it has none."""
    at, fallback = 0, b""
    while at + 2 <= len(authority):
        at += 2
        fields = []
        for _ in range(4):
            size = int.from_bytes(authority[at : at + 2], "big")
            fields.append(authority[at + 2 : at + 2 + size])
            at += 2 + size
        _, number, name, data = fields
        if name == COOKIE and number == display.encode():
            return data
        if name == COOKIE and not number:
            fallback = data
    return fallback
