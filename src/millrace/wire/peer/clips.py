"""The picture protocol's messages for the clipboard, and text in pieces. `docs/picture-protocol.md` describes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX

CLIP = 17
"""The kind of binary message, in its first byte."""
PIECE_BYTES = 32 * 1024
"""Text in one piece: a daemon takes no larger messages than 64 KiB from a viewer."""
REASON_MAX = 1000
LAST, REFUSED = 1, 2
# Little-endian without padding: kind, flags, number.
_HEAD = struct.Struct("<BBI")

Number = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class Copied(msgspec.Struct, tag="copied", tag_field="type"):
    """The viewer has a new text, which has this number; 0: none any more."""

    number: Number


class Paste(msgspec.Struct, tag="paste", tag_field="type"):
    """The sender needs the other end's text of that number: a `Clip` answers it."""

    number: Number


class ClipboardState(msgspec.Struct, tag="clipboard", tag_field="type"):
    """Whether the machine has a clipboard that can be reached, and the number of its text; 0: it has none."""

    there: bool
    number: Number = 0


class Clip(NamedTuple):
    """An answer to `Paste`: the text as UTF-8, or a sentence why there is none."""

    number: int
    data: bytes
    refused: bool = False

    def __repr__(self) -> str:
        return f"Clip({self.number}, {len(self.data)} bytes, refused={self.refused})"


def pack_clip(clip: Clip) -> Iterator[bytes]:
    """The messages that carry it."""
    refused = REFUSED if clip.refused else 0
    for at in range(0, max(1, len(clip.data)), PIECE_BYTES):
        last = LAST if at + PIECE_BYTES >= len(clip.data) else 0
        yield _HEAD.pack(CLIP, last | refused, clip.number) + clip.data[at : at + PIECE_BYTES]


# One answer at a time is expected, and only to what was asked. An answer to something asked before that is skipped: it
# may have been on its way. The bound is checked before anything is kept.
class Clips:
    """Puts the pieces of an answer together."""

    def __init__(self) -> None:
        self._asked = 0
        self._waits = False
        self._data = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes of an answer that is not complete."""
        return len(self._data)

    def ask(self, number: int) -> None:
        """The text of that number is asked for, and no other any more."""
        self._asked, self._waits = number, True
        self._data.clear()

    def take(self, message: Buffer) -> Clip | None:
        """Take one binary message of kind `CLIP`; returns the answer once it is complete."""
        if len(message) < _HEAD.size:
            raise RemoteProtocolError(f"a piece of text too short: {len(message)} bytes")
        _, flags, number = _HEAD.unpack_from(message)
        if not self._waits or number != self._asked:
            if number > self._asked:
                raise RemoteProtocolError("text from the clipboard that was not asked for")
            return None
        self._data += memoryview(message)[_HEAD.size :]
        if len(self._data) > (REASON_MAX if flags & REFUSED else CLIP_BYTES_MAX):
            raise RemoteProtocolError(f"too much text from the clipboard; {CLIP_BYTES_MAX} bytes at most")
        if not flags & LAST:
            return None
        data, self._waits = bytes(self._data), False
        self._data.clear()
        return Clip(number, data, bool(flags & REFUSED))
