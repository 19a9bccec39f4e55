"""Pictures on their way through a viewer: received, then decoded."""

from __future__ import annotations

from typing import NamedTuple

from millrace.client.canvas import Step
from millrace.units import HostNs
from millrace.wire.peer.pictures import Part, PartType, Piece

QUICK = (PartType.ZSTD, PartType.PALETTE, PartType.RAW, PartType.MOVE, PartType.SHAPE)
QUICK_PIXELS = 65_536
"""A picture of such parts, and of no more pixels besides its moves, is decoded in one step (`python -m bench encode`
says how long 64 K pixels take)."""


class Whole(NamedTuple):
    """A picture all of whose pieces are there."""

    last: Piece
    parts: tuple[Part, ...]
    arrived_ns: HostNs


class Decoded(NamedTuple):
    """A picture that can be shown; without steps if it was left out."""

    piece: Piece
    steps: list[Step]
    arrived_ns: HostNs
    decoded_ns: HostNs


def is_quick(parts: tuple[Part, ...]) -> bool:
    """Whether they are decoded in less time than two changes of thread take."""
    return all(part.type in QUICK for part in parts) and sum(map(_pixels_of, parts)) <= QUICK_PIXELS


def _pixels_of(part: Part) -> int:
    """How many pixels are to be decoded."""
    return 0 if part.type == PartType.MOVE else part.at.area
