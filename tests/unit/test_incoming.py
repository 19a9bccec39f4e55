"""What waits to be decoded by a viewer: pictures whole and in order, and never more than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from millrace.client.incoming import CHANGE_MEMORY, PART_MEMORY, UNDECODED_MAX, Incoming, Whole
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.wire.peer.pictures import ModeChanged, Part, PartType, Piece, pack_piece, unpack_piece

AT = Rect(0, 0, 1, 1)
MOVE = Part(PartType.MOVE, AT)
UNKNOWN = Part(99, AT, bytes(1024 * 1024))
"""A part of a newer daemon: it is skipped, and its bytes are kept with those of the others."""
Fill = Callable[[Incoming, int], None]


def received(serial: int, *parts: Part, last: bool = True) -> Piece:
    piece = unpack_piece(pack_piece(Piece(serial, 1, parts, last)))
    assert piece is not None
    return piece


def moves(incoming: Incoming, number: int) -> None:
    incoming.put_piece(received(1, *[MOVE] * 1024, last=False), 0)


def skipped(incoming: Incoming, number: int) -> None:
    incoming.put_piece(received(1, UNKNOWN, MOVE, last=False), 0)


def empty(incoming: Incoming, number: int) -> None:
    incoming.put_piece(received(number), 0)


def shapes(incoming: Incoming, number: int) -> None:
    incoming.put_piece(received(0, Part(PartType.SHAPE, AT, bytes(4))), 0)


def modes(incoming: Incoming, number: int) -> None:
    incoming.put_change(ModeChanged(1, 1, number))


@pytest.mark.parametrize(
    ("fill", "each"),
    [(moves, 1024 * PART_MEMORY), (skipped, 1024 * 1024), (empty, 1), (shapes, PART_MEMORY), (modes, 0)],
)
def test_nothing_that_a_hostile_server_sends_is_kept_without_end(fill: Fill, each: int) -> None:
    incoming = Incoming()
    with pytest.raises(RemoteProtocolError, match="at most"):
        for number in range(1 + UNDECODED_MAX // (each + CHANGE_MEMORY) + 1):
            fill(incoming, number)


@pytest.mark.parametrize("fill", [empty, shapes, modes])
def test_what_is_decoded_makes_room(fill: Fill) -> None:
    async def main() -> None:
        incoming = Incoming()
        for number in range(2 * UNDECODED_MAX // CHANGE_MEMORY):
            fill(incoming, number)
            incoming.done(await incoming.take())

    asyncio.run(main())


def test_pieces_become_pictures_and_one_that_a_new_mode_ends_is_none() -> None:
    async def main() -> None:
        incoming, other = Incoming(), Part(PartType.DRAW, AT)
        incoming.put_piece(received(1, MOVE, last=False), 0)
        incoming.put_piece(received(0, Part(PartType.SHAPE, AT, bytes(4))), 0)
        incoming.put_piece(received(1, other), 7)
        for _ in range(100):
            incoming.put_piece(received(2, *[MOVE] * 1024, last=False), 0)
        incoming.put_change(ModeChanged(1, 1, 2))
        incoming.put_piece(received(3, other), 9)
        items = [await incoming.take() for _ in range(4)]
        whole = [item for item in items if isinstance(item, Whole)]
        assert [(one.last.serial, [part.type for part in one.parts], one.arrived_ns) for one in whole] == [
            (0, [PartType.SHAPE], 0), (1, [PartType.MOVE, PartType.DRAW], 7), (3, [PartType.DRAW], 9),
        ]  # fmt: skip
        assert isinstance(items[2], ModeChanged)
        for item in items:
            incoming.done(item)
        for _ in range(100):
            moves(incoming, 0)

    asyncio.run(main())
