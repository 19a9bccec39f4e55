"""Drawings in SPICE's display channel (spice-protocol: enums.h, draw.h; the message layouts of spice.proto).

All that put pixels through a raster operation become one kind here: a ternary operation on pattern, source and what is
there, by its eight-bit truth table, as Windows numbers them (0xCC copies the source, 0xF0 fills with the pattern).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Point, Rect
from millrace.wire.spice.channel import unpack
from millrace.wire.spice.images import Image, NotUnderstood, read_image

CLIP_MAX = 4096
"""Rectangles of one clip."""
PATTERN, SOURCE, THERE = 0xF0, 0xCC, 0xAA
"""The truth tables of the operands themselves."""


class RopFlag(IntEnum):
    """Bits of a rop descriptor."""

    INVERT_SOURCE = 1 << 0
    INVERT_BRUSH = 1 << 1
    INVERT_THERE = 1 << 2
    PUT = 1 << 3
    OR = 1 << 4
    AND = 1 << 5
    XOR = 1 << 6
    BLACK = 1 << 7
    WHITE = 1 << 8
    INVERT = 1 << 9
    INVERT_RESULT = 1 << 10


@dataclass(frozen=True, slots=True)
class Base:
    """Where a drawing goes: `parts` are what is drawn of `box`."""

    surface: int
    box: Rect
    parts: tuple[Rect, ...]


@dataclass(frozen=True, slots=True)
class Raster:
    """A raster operation with a colour (0x00RRGGBB) and a part of an image, stretched to the box."""

    base: Base
    rop3: int
    colour: int = 0
    image: Image | None = None
    source: Rect | None = None


@dataclass(frozen=True, slots=True)
class Keyed:
    """Copies the pixels of an image that are not of one colour."""

    base: Base
    image: Image
    source: Rect
    colour: int


@dataclass(frozen=True, slots=True)
class Blended:
    """Lays an image over what is there: `alpha` of 255, and each pixel's own if the image has alpha (premultiplied)."""

    base: Base
    image: Image
    source: Rect
    alpha: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Copies from elsewhere on the same surface; `origin` is where the box's corner comes from."""

    base: Base
    origin: Point


@dataclass(frozen=True, slots=True)
class Unknown:
    """A drawing that is not implemented; its base is None if not even that is understood."""

    base: Base | None
    why: str


Drawing: TypeAlias = Raster | Keyed | Blended | Copied | Unknown


def read_rect(body: bytes, at: int) -> Rect:
    """A rectangle: top, left, bottom, right."""
    top, left, bottom, right = unpack("<4i", body, at)
    return Rect(left, top, max(0, right - left), max(0, bottom - top))


@dataclass(frozen=True, slots=True)
class Clip:
    """What is drawn of a box: all of it, or what lies in these `rects`, as they came."""

    rects: bytes | None = None

    # Regions are disjoint rectangles, so the parts can't have more pixels than the box. Without this bound, one message
    # could have a whole screen painted four thousand times. All at once: one by one, four thousand rectangles would
    # take as long as a turn.
    def within(self, box: Rect) -> tuple[Rect, ...]:
        """What it leaves of a box."""
        if self.rects is None:
            return (box,) if box.area else ()
        if not self.rects:
            return ()
        edges = np.frombuffer(self.rects, "<i4").astype(np.int64).reshape(-1, 4)
        low = np.maximum(edges[:, :2], (box.y, box.x))
        sides = np.minimum(edges[:, 2:], (box.bottom, box.right)) - low
        some = (sides > 0).all(axis=1)
        parts = tuple(
            Rect(x, y, width, height)
            for (y, x), (height, width) in zip(low[some].tolist(), sides[some].tolist(), strict=True)
        )
        if sum(part.area for part in parts) > box.area:
            raise RemoteProtocolError("a SPICE clip whose rectangles overlap")
        return parts


def read_clip(body: bytes, at: int) -> tuple[Clip, int]:
    """A clip, and the offset after it."""
    (kind,) = unpack("<B", body, at)
    at += 1
    if kind == 0:
        return Clip(), at
    if kind != 1:
        raise RemoteProtocolError(f"unsupported SPICE clip: type {kind}")
    (count,) = unpack("<I", body, at)
    if count > CLIP_MAX:
        raise RemoteProtocolError(f"a SPICE clip of {count} rectangles; {CLIP_MAX} at most")
    end = at + 4 + 16 * count
    if len(body) < end:
        raise RemoteProtocolError(f"truncated SPICE clip: {count} rectangles announced")
    return Clip(body[at + 4 : end]), end


def read_base(body: bytes) -> tuple[Base, int]:
    """The common beginning of all drawings, and the offset after it."""
    (surface,) = unpack("<I", body)
    box = read_rect(body, 4)
    clip, at = read_clip(body, 20)
    return Base(surface, box, clip.within(box)), at


def rop3_of(descriptor: int, given: int, onto: int) -> int:
    """The truth table of a rop descriptor whose operand is `given`, and whose other one is `onto`."""
    inverts = {PATTERN: RopFlag.INVERT_BRUSH, SOURCE: RopFlag.INVERT_SOURCE, THERE: RopFlag.INVERT_THERE}
    first = given ^ (0xFF if descriptor & inverts[given] else 0)
    second = onto ^ (0xFF if descriptor & inverts[onto] else 0)
    results = {
        RopFlag.PUT: first, RopFlag.OR: first | second, RopFlag.AND: first & second, RopFlag.XOR: first ^ second,
        RopFlag.BLACK: 0, RopFlag.WHITE: 0xFF, RopFlag.INVERT: second ^ 0xFF,
    }  # fmt: skip
    result = next((made for flag, made in results.items() if descriptor & flag), None)
    if result is None:
        raise NotUnderstood(f"rop descriptor {descriptor:#x}")
    return result ^ (0xFF if descriptor & RopFlag.INVERT_RESULT else 0)


def _image(body: bytes, at: int) -> tuple[Image, Rect, int]:
    """An image and the part of it that is drawn."""
    image = read_image(body, unpack("<I", body, at)[0])
    source = read_rect(body, at + 4)
    if image is None:
        raise RemoteProtocolError("a SPICE drawing without its image")
    if not source.area or not Rect(0, 0, image.width, image.height).holds(source):
        raise RemoteProtocolError(f"a SPICE drawing of pixels outside of an image of {image.width} × {image.height}")
    return image, source, at + 20


def _brush(body: bytes, at: int) -> tuple[int, int]:
    """The colour of a brush, and the offset after it."""
    (kind,) = unpack("<B", body, at)
    if kind == 1:
        return unpack("<I", body, at + 1)[0] & 0xFFFFFF, at + 5
    if kind == 0:
        return 0, at + 1
    raise NotUnderstood("brushes with a pattern")


def _no_mask(body: bytes, at: int) -> None:
    """Check that there is no mask: its flags, its position and its image."""
    if unpack("<Biii", body, at)[3]:
        raise NotUnderstood("drawings through a mask")


def _fill(base: Base, body: bytes, at: int) -> Drawing:
    colour, at = _brush(body, at)
    (descriptor,) = unpack("<H", body, at)
    _no_mask(body, at + 2)
    return Raster(base, rop3_of(descriptor, PATTERN, THERE), colour)


def _opaque(base: Base, body: bytes, at: int) -> Drawing:
    image, source, at = _image(body, at)
    colour, at = _brush(body, at)
    (descriptor,) = unpack("<H", body, at)
    _no_mask(body, at + 3)
    return Raster(base, rop3_of(descriptor, PATTERN, SOURCE), colour, image, source)


def _copy(base: Base, body: bytes, at: int) -> Drawing:
    image, source, at = _image(body, at)
    (descriptor,) = unpack("<H", body, at)
    _no_mask(body, at + 3)
    return Raster(base, rop3_of(descriptor, SOURCE, THERE), 0, image, source)


def _rop3(base: Base, body: bytes, at: int) -> Drawing:
    image, source, at = _image(body, at)
    colour, at = _brush(body, at)
    (rop3,) = unpack("<B", body, at)
    _no_mask(body, at + 2)
    return Raster(base, rop3, colour, image, source)


def _plain(rop3: int) -> Callable[[Base, bytes, int], Drawing]:
    def read(base: Base, body: bytes, at: int) -> Drawing:
        _no_mask(body, at)
        return Raster(base, rop3)

    return read


def _transparent(base: Base, body: bytes, at: int) -> Drawing:
    image, source, at = _image(body, at)
    return Keyed(base, image, source, unpack("<I", body, at)[0] & 0xFFFFFF)


def _blended(base: Base, body: bytes, at: int) -> Drawing:
    _, alpha = unpack("<BB", body, at)
    image, source, _ = _image(body, at + 2)
    return Blended(base, image, source, alpha)


def _copied(base: Base, body: bytes, at: int) -> Drawing:
    return Copied(base, Point(*unpack("<ii", body, at)))


def _unknown(name: str) -> Callable[[Base, bytes, int], Drawing]:
    def read(base: Base, body: bytes, at: int) -> Drawing:
        raise NotUnderstood(name)

    return read


DRAWINGS: dict[int, Callable[[Base, bytes, int], Drawing]] = {
    104: _copied, 302: _fill, 303: _opaque, 304: _copy, 305: _copy, 306: _plain(0x00), 307: _plain(0xFF),
    308: _plain(0x55), 309: _rop3, 310: _unknown("lines"), 311: _unknown("text"), 312: _transparent, 313: _blended,
    318: _unknown("compositions"),
}  # fmt: skip
"""The drawings by their message type."""


def read_drawing(kind: int, body: bytes) -> Drawing:
    """Decode a drawing; RemoteProtocolError if it is invalid."""
    base, at = read_base(body)
    try:
        return DRAWINGS[kind](base, body, at)
    except NotUnderstood as error:
        return Unknown(base, str(error))
