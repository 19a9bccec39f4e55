"""What an X display tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from millrace.pixels.rects import Point, Rect, Size
from millrace.units import HostNs
from millrace.wire.keys import LightsTold


@dataclass(frozen=True, slots=True)
class Ready:
    """The server has let us in and has all that is needed."""

    vendor: str


@dataclass(frozen=True, slots=True)
class Resized:
    """The screen has this size. Give the server memory for all of it: `send_memory`."""

    size: Size


@dataclass(frozen=True, slots=True)
class Captured:
    """The memory holds these rectangles, each from its offset on, row by row. It is valid until `painted`."""

    rects: tuple[tuple[Rect, int], ...]


@dataclass(frozen=True, slots=True)
class CursorShape:
    """What the cursor looks like: B, G, R and alpha, by which they are multiplied."""

    at: Point
    hot: Point
    size: Size
    pixels: bytes


@dataclass(frozen=True, slots=True)
class LayoutUntold:
    """The server does not tell its keyboard's layout or state: until it does, keys are pressed by their place."""

    waited_ns: HostNs


X11Event: TypeAlias = Ready | Resized | Captured | CursorShape | LightsTold | LayoutUntold
