"""What a screen shows: its mode, its memory, its overlays and its cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

import msgspec
import numpy as np

from millrace.budget import Account
from millrace.errors import GraphError
from millrace.pixels.convert import Convert, PixelFormat, Plane, Planes, blank
from millrace.pixels.rects import EMPTY, Damage, Point, Rect, Size
from millrace.pixels.rects import Move as Move
from millrace.units import HostNs

PIXEL_BYTES = 4
SIDE_MAX = 16_384
SHAPE_SIDE_MAX = 512
MOVES_MAX = 16


class Mode(msgspec.Struct, frozen=True):
    """A screen's size and pixel layout in memory: bytes B, G, R, and an unused one."""

    width: int
    height: int
    stride: int
    format: str = "bgrx"

    @property
    def whole(self) -> Rect:
        """The whole screen."""
        return Rect(0, 0, self.width, self.height)

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return self.stride * self.height


class Overlay(msgspec.Struct, frozen=True):
    """A place on the screen where a track is to be shown."""

    track: str
    at: Rect
    clip: tuple[Rect, ...] = ()
    z: int = 0
    rotation: int = 0
    source: Rect = EMPTY


class Cursor(msgspec.Struct, frozen=True):
    """The pointer. Its pixels are requested by shape number, once."""

    shape: int = 0
    hot: Point = Point(0, 0)
    at: Point = Point(0, 0)
    shown: bool = False


class Shape(msgspec.Struct, frozen=True, weakref=True):
    """What a cursor looks like: B, G, R and alpha."""

    number: int
    size: Size
    pixels: bytes


class Characters(Enum):
    """What a machine takes as a character without a key."""

    NONE = auto()
    OTHERS = auto()
    """Those that a US keyboard does not have."""
    ALL = auto()
    """All that are printed: the layout of its keyboard may be any."""


class KeyPress(msgspec.Struct, frozen=True):
    """A key was pressed, or is released if it is not `down`."""

    code: int
    """As in wire/keys.py; 0 for a character without a key, for machines that take those (`Screen.characters`)."""
    down: bool
    meaning: str = ""
    """What it means to the viewer, for machines that do not go by the key's place; empty if not known."""


class ScreenSource(Protocol):
    """The source of a screen, which paints; requests of readers arrive here.

    It paints and reports the damage in one go. Memory that somebody else may paint into at any time must be copied
    first.
    """

    def key(self, press: KeyPress) -> None:
        """A key was pressed or released. Nothing waits at the source: `takes` is asked before a press."""
        ...

    # For a press or two, as with shift, and their releases; for a place of the pointer and its buttons; or for a wish.
    # A release of a key that is held needs no room.
    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """Whether there is room for a `key`, or for something else.

        If not, `again` is called once there is, or the screen has ended. Only the last one is kept.
        """
        ...

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """The pointer is at, or moved by, `at`, with these buttons down."""
        ...

    def size_wish(self, size: Size) -> None:
        """The viewer with the keyboard asks for this size."""
        ...

    def paint(self, tracks: frozenset[str]) -> None:
        """These overlays must be painted into the picture: some viewer can't compose them."""
        ...

    def watched(self, interval_ns: HostNs | None) -> None:
        """The shortest interval at which a reader takes pictures; None: nobody reads."""
        ...


# A source has its screen, too: a cycle, which only a full collection would free (daemon/collector.py).
class _Gone:
    """In the place of the source of a screen that has ended."""

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`."""
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`."""

    def size_wish(self, size: Size) -> None:
        """See `ScreenSource`."""

    def paint(self, tracks: frozenset[str]) -> None:
        """See `ScreenSource`."""

    def watched(self, interval_ns: HostNs | None) -> None:
        """See `ScreenSource`."""


GONE: ScreenSource = _Gone()


# A count of leases, begun at 1 for the screen itself. The memory belongs to the source, which may unmap it as soon as
# `free` is called, while an encoder in another thread may still be reading a picture: so it is freed by the last
# release and not by the change of mode.
class Memory:
    """The pixels of one mode; `free` gives them back once the screen and all readers are done with them."""

    def __init__(self, mode: Mode, pixels: memoryview, account: Account, free: Callable[[], None]) -> None:
        self.mode, self.pixels = mode, pixels.toreadonly()
        self.picture: Plane = np.ndarray(
            (mode.height, mode.width, PIXEL_BYTES), np.uint8, self.pixels, strides=(mode.stride, PIXEL_BYTES, 1)
        )
        self._account, self._free = account, free
        self._converted: dict[PixelFormat, tuple[Planes, Damage]] = {}
        self._leases = 1

    def lease(self) -> None:
        """Add a user of the memory."""
        self._leases += 1

    def release(self) -> None:
        """Remove a user of the memory; the last one frees it."""
        self._leases -= 1
        if not self._leases:
            self._converted.clear()
            # The array refers to the memory, which could not be released before it is gone.
            del self.picture
            self.pixels.release()
            self._account.close()
            self._free()

    def changed(self, rects: Sequence[Rect]) -> None:
        """Mark these as outdated in the converted copies."""
        for _, damage in self._converted.values():
            damage.add_all(rects)

    # The budget is asked before the planes are kept, so a refusal leaves nothing behind. What changes while this format
    # is not asked for only adds to its damage.
    def converted(self, to: PixelFormat, by: Convert) -> Planes:
        """The pixels in another format; only what changed since the last call is converted."""
        if to not in self._converted:
            size = Size(self.mode.width, self.mode.height)
            planes = blank(to, size)
            self._account.hold(to, sum(plane.nbytes for plane in planes.planes))
            self._converted[to] = planes, Damage([self.mode.whole])
        planes, damage = self._converted[to]
        if damage:
            by(self.picture, planes, damage.take())
        return planes


def check_mode(mode: Mode, pixels: memoryview) -> None:
    """GraphError for an impossible mode, or one whose pixels don't fit `pixels`."""
    if not (0 < mode.width <= SIDE_MAX and 0 < mode.height <= SIDE_MAX):
        raise GraphError(f"a screen of {mode.width} × {mode.height}; {SIDE_MAX} at most either way")
    if mode.format != "bgrx":
        raise GraphError(f"pixel format {mode.format!r} is not supported; use bgrx")
    if mode.stride < mode.width * PIXEL_BYTES or pixels.nbytes < mode.bytes:
        raise GraphError(f"a screen of {mode.width} × {mode.height} in {pixels.nbytes} bytes, {mode.stride} a row")


def check_shape(shape: Shape) -> None:
    """GraphError for an impossible cursor."""
    width, height = shape.size.width, shape.size.height
    if not (0 < width <= SHAPE_SIDE_MAX and 0 < height <= SHAPE_SIDE_MAX):
        raise GraphError(f"a cursor of {width} × {height}; {SHAPE_SIDE_MAX} at most either way")
    if len(shape.pixels) != width * height * PIXEL_BYTES:
        raise GraphError(f"a cursor of {width} × {height} in {len(shape.pixels)} bytes")


def visible(overlay: Overlay) -> tuple[Rect, ...]:
    """The visible parts of an overlay: the whole, or the parts of it that are not covered."""
    return tuple(overlay.at.common(rect) for rect in overlay.clip) if overlay.clip else (overlay.at,)


def touched(moves: list[Move], places: list[Rect]) -> bool:
    """Whether a move takes pixels from these places, or to them."""
    return any(
        place.common(move.to).area or place.common(move.to.moved(-move.dx, -move.dy)).area
        for move in moves
        for place in places
    )


def sorted_moves(moves: list[Move], whole: Rect) -> tuple[list[Move], list[Rect]]:
    """The moves if all of them are valid for such a screen; otherwise the areas they changed, as damage."""
    true = [move for move in moves if whole.holds(move.to) and whole.holds(move.to.moved(-move.dx, -move.dy))]
    if len(true) == len(moves) <= MOVES_MAX:
        return true, []
    return [], [move.to for move in moves]
