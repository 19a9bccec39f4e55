"""The clipboard of a VNC server: RFC 6143, "ClientCutText", and rfbproto, "Extended Clipboard Pseudo-Encoding".

Without the extension both ends send each text as soon as it is copied, in Latin-1. With it they say that there is one,
and ask for it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from typing import TypeAlias

from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, ClipReader, check_size
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.vnc.inflate import Inflater, compressed_max
from millrace.wire.vnc.work import PART_WORK, Work

CUT_BYTES_MAX = 2 * CLIP_BYTES_MAX + 64
"""The largest message that is read. A longer one is skipped, and its text refused."""
AT_ONCE = 16 * 1024
"""How much of a message or of a text is taken at once."""
CUT_WORK = 30
"""What a byte of a text costs."""
_TEXT = 1
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in range(24, 29))
# Ours. The size after them is that of a text that the server may send unasked: none.
_OUR_CAPS = struct.pack(">II", _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT, 0)
Said: TypeAlias = tuple[ClipEvent | None, bytes]
"""What a message says, and the answer to send."""


class CutText:
    """What a server says of its clipboard, and what is said to it. What that costs is added to `work`."""

    def __init__(self, work: Work) -> None:
        self.extended = False
        """The server has the extension: nothing has to be sent before it is pasted."""
        self._offers = False
        self._work = work
        self._reader: ClipReader | None = None

    @property
    def held_bytes(self) -> int:
        """Memory of a text that is not complete yet."""
        return 0 if self._reader is None else self._reader.held_bytes

    def read(self, size: int, extended: bool) -> Generator[int, bytes, Said]:
        """Read the body of a ServerCutText of so many bytes. See `Inflater` for what it yields: at least once."""
        if not extended:
            return (yield from self._plain(size)), b""
        if size < 4:
            raise RemoteProtocolError(f"an extended cut text of {size} bytes")
        (flags,) = struct.unpack(">I", (yield 4))
        if flags & (_CAPS | _PROVIDE) == _PROVIDE and flags & _TEXT:
            return (yield from self._supplied(size - 4)), b""
        yield from _skip(size - 4)
        return self._told(flags)

    def _told(self, flags: int) -> Said:
        if flags & _CAPS:
            self.extended = True
            return None, _message(_OUR_CAPS)
        if flags & _PROVIDE:
            return None, b""
        if flags & _NOTIFY:
            return ClipOffered(bool(flags & _TEXT)), b""
        if flags & _PEEK:
            return None, self.offer(self._offers)
        return (ClipWanted() if flags & _REQUEST and flags & _TEXT else None), b""

    def _plain(self, size: int) -> Generator[int, bytes, ClipOffered]:
        reader = self._reader = ClipReader("latin-1")
        left = size
        try:
            while left:
                piece = yield min(left, AT_ONCE)
                left -= len(piece)
                self._add(reader, piece, not left)
            # So it yields at least once; and what follows is a step of its own.
            yield 0
            return ClipOffered(True, reader.text())
        except ConfigError as error:
            return ClipOffered(True, refused=str(error))
        finally:
            self._reader = None

    # Formats are in the order of their bits, and text is the first one. What follows it is not inflated.
    def _supplied(self, size: int) -> Generator[int, bytes, ClipSupplied]:
        stream, reader = Inflater(self._work), ClipReader()
        self._reader = reader
        stream.begin(size)
        try:
            yield from self._inflate(stream, reader)
            event = ClipSupplied(reader.text())
        except ConfigError as error:
            event = ClipSupplied(refused=str(error))
        finally:
            self._reader = None
        yield from _skip(stream.left)
        return event

    # The size comes first in the compressed data, so no more is inflated than it says, nor than may be passed on.
    def _inflate(self, stream: Inflater, reader: ClipReader) -> Generator[int, bytes, None]:
        size = stream.left
        (left,) = struct.unpack(">I", (yield from stream.read(4)))
        if left > CUT_BYTES_MAX:
            check_size(left)
        if size > compressed_max(4 + left):
            raise ConfigError(f"the VNC server sent {size} compressed bytes for a text of {left}")
        while left:
            piece = yield from stream.read(min(left, AT_ONCE))
            left -= len(piece)
            self._add(reader, piece, not left)
            yield 0

    def _add(self, reader: ClipReader, piece: bytes, last: bool) -> None:
        self._work.spent += PART_WORK + CUT_WORK * len(piece)
        reader.add(piece, last)

    def offer(self, there: bool) -> bytes:
        """Say whether there is a text for the server, which must have the extension."""
        self._offers = there
        return _message(struct.pack(">I", _NOTIFY | (_TEXT if there else 0)))

    def request(self) -> bytes:
        """Ask for the server's text."""
        return _message(struct.pack(">I", _REQUEST | _TEXT))

    def provide(self, text: str) -> bytes:
        """Hand over a text. Without the extension a character that Latin-1 lacks becomes a question mark."""
        if not self.extended:
            data = text.encode("latin-1", "replace")
            return struct.pack(">Bxxxi", 6, len(data)) + data
        data = text.encode().replace(b"\n", b"\r\n") + b"\0"
        # To compress as much as may be passed on would take 60 ms, in one step.
        packed = zlib.compress(struct.pack(">I", len(data)) + data, 0)
        return _message(struct.pack(">I", _PROVIDE | _TEXT) + packed)


def too_long(size: int) -> ClipOffered:
    """For a message that was skipped."""
    try:
        check_size(size)
    except ConfigError as error:
        return ClipOffered(True, refused=str(error))
    raise AssertionError


def _message(body: bytes) -> bytes:
    return struct.pack(">Bxxxi", 6, -len(body)) + body


def _skip(size: int) -> Generator[int, bytes, None]:
    while size:
        size -= len((yield min(size, AT_ONCE)))
