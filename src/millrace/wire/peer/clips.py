"""The picture protocol's messages for the clipboard, and text in pieces. `docs/picture-protocol.md` describes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

from millrace.dsp.convert import Buffer
from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, ClipReader, ClipText

CLIP = 17
"""The kind of binary message, in its first byte."""
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
    """An answer to `Paste`: the text, or None and a sentence why there is none."""

    number: int
    text: ClipText | None = None
    why: str = ""
    broken: bool = False
    """What was sent is not text, as `why` says."""

    def __repr__(self) -> str:
        return f"Clip({self.number}, {self.text!r}, why={self.why!r})"


def pack_clip(clip: Clip) -> Iterator[bytes]:
    """The messages that carry it, one by one."""
    refused = REFUSED if clip.text is None else 0
    pieces = ((clip.why.encode(),) if clip.text is None else clip.text.pieces) or (b"",)
    for left, piece in zip(range(len(pieces) - 1, -1, -1), pieces, strict=True):
        yield _HEAD.pack(CLIP, refused | (0 if left else LAST), clip.number) + piece


# One answer at a time is expected, and only to what was asked. An answer to something asked before that is skipped: it
# may have been on its way. The bound is checked before anything is kept.
class Clips:
    """Puts the pieces of an answer together."""

    def __init__(self) -> None:
        self._asked, self._waits = 0, False
        self._begin()

    def _begin(self) -> None:
        self._size = 0
        self._reader = ClipReader()
        self._reason = bytearray()
        self._broken = ""

    @property
    def held_bytes(self) -> int:
        """Memory of an answer that is not complete."""
        return self._reader.held_bytes + len(self._reason)

    def ask(self, number: int) -> None:
        """The text of that number is asked for, and no other any more."""
        self._asked, self._waits = number, True
        self._begin()

    def take(self, message: Buffer) -> Clip | None:
        """Take one binary message of kind `CLIP`; returns the answer once it is complete."""
        if len(message) < _HEAD.size:
            raise RemoteProtocolError(f"a piece of text too short: {len(message)} bytes")
        _, flags, number = _HEAD.unpack_from(message)
        if not self._waits or number != self._asked:
            if number > self._asked:
                raise RemoteProtocolError("text from the clipboard that was not asked for")
            return None
        self._size += len(message) - _HEAD.size
        if self._size > (REASON_MAX if flags & REFUSED else CLIP_BYTES_MAX):
            raise RemoteProtocolError(f"too much text from the clipboard; {CLIP_BYTES_MAX} bytes at most")
        last = bool(flags & LAST)
        self._add(memoryview(message)[_HEAD.size :], bool(flags & REFUSED), last)
        if not last:
            return None
        self._waits = False
        clip = self._whole(number, bool(flags & REFUSED))
        self._begin()
        return clip

    def _add(self, data: memoryview, refused: bool, last: bool) -> None:
        if refused:
            self._reason += data
        elif not self._broken:
            try:
                self._reader.add(data, last)
            except ConfigError as error:
                self._broken, self._reader = str(error), ClipReader()

    def _whole(self, number: int, refused: bool) -> Clip:
        if refused:
            return Clip(number, None, self._reason.decode(errors="replace"))
        return Clip(number, None, self._broken, True) if self._broken else Clip(number, self._reader.text())
