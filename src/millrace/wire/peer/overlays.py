"""Where the videos that a machine sends itself lie over the picture: the data of an OVERLAYS part.

For each overlay, little-endian: the number of its video and how many visible parts follow (16 bits each), its place (x
and y signed, width, height, 16 bits each), and those parts (x, y, width, height, 16 bits each).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect

OVERLAY_CODECS = ("vp8",)
"""The codecs of videos that can be passed through to viewers."""
OVERLAYS_MAX = 64
VISIBLE_MAX = 1024
"""Visible parts of all overlays together."""
PLACE_PIXELS_MAX = 16 * 1024 * 1024
"""Of the places of all overlays together, to which a viewer scales whole frames; and of all visible parts together,
which it draws with each picture."""
_HEAD = struct.Struct("<HHhhHH")
_PART = struct.Struct("<HHHH")


class Place(NamedTuple):
    """The newest frame of a video fills `at`, also beyond the picture's edges; only `visible` is drawn."""

    number: int
    at: Rect
    visible: tuple[Rect, ...]


def placeable(at: Rect) -> bool:
    """Whether an overlay can have this place."""
    near = -0x8000 <= at.x < 0x8000 and -0x8000 <= at.y < 0x8000
    return near and at.width <= 0xFFFF and at.height <= 0xFFFF and 0 < at.area <= PLACE_PIXELS_MAX


def pack_overlays(places: Iterable[Place]) -> bytes:
    """All overlays of a picture, the lowest first."""
    out = []
    for number, at, visible in places:
        out.append(_HEAD.pack(number, len(visible), at.x, at.y, at.width, at.height))
        out += (_PART.pack(rect.x, rect.y, rect.width, rect.height) for rect in visible)
    return b"".join(out)


def unpack_overlays(data: Buffer, whole: Rect) -> tuple[Place, ...]:
    """The overlays of a picture that is `whole`; RemoteProtocolError says what is wrong with them."""
    view, at, left = memoryview(data).cast("B"), 0, VISIBLE_MAX
    places: list[Place] = []
    scaled = drawn = 0
    while at < len(view):
        if len(view) - at < _HEAD.size or len(places) == OVERLAYS_MAX:
            raise RemoteProtocolError(f"overlays in {len(view)} bytes; {OVERLAYS_MAX} at most")
        number, count, *sides = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        left -= count
        if left < 0 or len(view) - at < count * _PART.size:
            raise RemoteProtocolError(f"an overlay of {count} parts in {len(view)} bytes; {VISIBLE_MAX} parts at most")
        place = Rect(*sides)
        visible = tuple(Rect(*_PART.unpack_from(view, at + n * _PART.size)) for n in range(count))
        at += count * _PART.size
        if not place.area or not all(rect.area and whole.holds(rect) and place.holds(rect) for rect in visible):
            raise RemoteProtocolError(f"an overlay of {place.width} × {place.height} that is drawn outside of itself")
        scaled, drawn = scaled + place.area, drawn + sum(rect.area for rect in visible)
        if max(scaled, drawn) > PLACE_PIXELS_MAX:
            raise RemoteProtocolError(f"overlays of {max(scaled, drawn)} pixels; {PLACE_PIXELS_MAX} at most")
        places.append(Place(number, place, visible))
    return tuple(places)
