"""The steps in which a viewer's picture changes, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from millrace.errors import RemoteProtocolError
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect


class Undecodable(RemoteProtocolError):
    """A part can't be decoded: the viewer needs a key picture."""


class Paint(NamedTuple):
    """`pixels` (rows, columns, 4), BGRX, are to be copied to `at`."""

    at: Rect
    pixels: Plane


class Shift(NamedTuple):
    """The content of `at` comes from `dx` and `dy` before it."""

    at: Rect
    dx: int
    dy: int


class CursorShape(NamedTuple):
    """What cursor `number` looks like: (rows, columns, 4), B, G, R and alpha."""

    number: int
    pixels: Plane


Step: TypeAlias = Paint | Shift | CursorShape


def step_bytes(steps: Sequence[Step]) -> int:
    """The memory that decoded steps take."""
    return sum(step.pixels.nbytes for step in steps if not isinstance(step, Shift))
