"""Pictures on their way through a viewer: received, then decoded."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeAlias

from millrace.client.steps import Step
from millrace.errors import RemoteProtocolError
from millrace.units import HostNs
from millrace.wire.peer.pictures import CursorChanged, ModeChanged, Part, PartType, Piece

UNDECODED_MAX = 64 * 1024 * 1024
"""What may wait to be decoded. A daemon waits for acknowledgements long before."""
PART_MEMORY, CHANGE_MEMORY = 400, 1024
"""Of a part besides its bytes, and of anything else that waits, as Python keeps them."""

QUICK = (PartType.ZSTD, PartType.PALETTE, PartType.RAW, PartType.MOVE, PartType.SHAPE)
QUICK_PIXELS = 65_536
"""A picture of such parts, and of no more pixels besides its moves, is decoded in one step (`python -m bench encode`
says how long 64 K pixels take)."""


class Whole(NamedTuple):
    """A picture all of whose pieces are there."""

    last: Piece
    parts: tuple[Part, ...]
    arrived_ns: HostNs
    memory: int


class Decoded(NamedTuple):
    """A picture that can be shown; without steps if it was left out."""

    piece: Piece
    steps: list[Step]
    arrived_ns: HostNs
    decoded_ns: HostNs


Change: TypeAlias = ModeChanged | CursorChanged


# The server may be hostile. What is counted is what is kept, not what is drawn: a message of 4 MiB whose parts are all
# of unknown types but one is kept whole by that one, and a part that needs no bytes takes memory too.
class Incoming:
    """What has arrived and is not decoded yet, in order; RemoteProtocolError if it is too much."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Whole | Change] = asyncio.Queue()
        self._unfinished: list[Piece] = []
        self._memory = 0

    def put_piece(self, piece: Piece, now_ns: HostNs) -> None:
        """A piece has arrived; with the last one of a picture that is to be decoded."""
        self._hold(_memory_of(piece))
        if not piece.serial:
            # It defines cursors, perhaps between two pieces of a picture.
            self._queue.put_nowait(Whole(piece, piece.parts, now_ns, _memory_of(piece)))
            return
        if self._unfinished and self._unfinished[-1].serial != piece.serial:
            # A new mode has come in the middle of that picture.
            self._memory -= sum(map(_memory_of, self._unfinished))
            self._unfinished.clear()
        self._unfinished.append(piece)
        if piece.last:
            pieces, self._unfinished = self._unfinished, []
            parts = tuple(part for one in pieces for part in one.parts)
            self._queue.put_nowait(Whole(piece, parts, now_ns, sum(map(_memory_of, pieces))))

    def put_change(self, change: Change) -> None:
        """A mode or a cursor has arrived."""
        self._hold(CHANGE_MEMORY)
        self._queue.put_nowait(change)

    def _hold(self, memory: int) -> None:
        self._memory += memory
        if self._memory > UNDECODED_MAX:
            raise RemoteProtocolError(f"{self._memory} bytes of pictures at once; {UNDECODED_MAX} at most")

    async def take(self) -> Whole | Change:
        """The next one; to be given to `done` when it is decoded."""
        return await self._queue.get()

    def done(self, item: Whole | Change) -> None:
        """It is kept no more."""
        self._memory -= item.memory if isinstance(item, Whole) else CHANGE_MEMORY


def _memory_of(piece: Piece) -> int:
    return piece.size + PART_MEMORY * len(piece.parts) + CHANGE_MEMORY


def is_quick(parts: tuple[Part, ...]) -> bool:
    """Whether they are decoded in less time than two changes of thread take."""
    return all(part.type in QUICK for part in parts) and sum(map(_pixels_of, parts)) <= QUICK_PIXELS


def _pixels_of(part: Part) -> int:
    """How many pixels are to be decoded."""
    return 0 if part.type == PartType.MOVE else part.at.area
