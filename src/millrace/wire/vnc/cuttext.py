"""The clipboard of a VNC server: RFC 6143, "ClientCutText", and rfbproto, "Extended Clipboard Pseudo-Encoding".

Without the extension both ends send each text as soon as it is copied, in Latin-1. With it they say that there is one,
and ask for it.
"""

from __future__ import annotations

import struct
import zlib

from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, check_size, clip_text
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSupplied, ClipWanted

CUT_BYTES_MAX = 2 * CLIP_BYTES_MAX + 64
"""The largest message that is read. A longer one is skipped, and its text refused."""
_TEXT = 1
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in range(24, 29))
# Ours. The size after them is that of a text that the server may send unasked: none.
_OUR_CAPS = struct.pack(">II", _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT, 0)


class CutText:
    """What a server says of its clipboard, and what is said to it."""

    def __init__(self) -> None:
        self.extended = False
        """The server has the extension: nothing has to be sent before it is pasted."""
        self._offers = False

    def take(self, data: bytes, extended: bool) -> tuple[ClipEvent | None, bytes]:
        """Take the body of a ServerCutText; returns what it says, and the answer to send."""
        if not extended:
            return _plain(data), b""
        if len(data) < 4:
            raise RemoteProtocolError(f"an extended cut text of {len(data)} bytes")
        (flags,) = struct.unpack_from(">I", data)
        if flags & _CAPS:
            self.extended = True
            return None, _message(_OUR_CAPS)
        if flags & _PROVIDE:
            return (_supplied(data[4:]) if flags & _TEXT else None), b""
        if flags & _NOTIFY:
            return ClipOffered(bool(flags & _TEXT)), b""
        if flags & _PEEK:
            return None, self.offer(self._offers)
        return (ClipWanted() if flags & _REQUEST and flags & _TEXT else None), b""

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
        data = text.replace("\n", "\r\n").encode() + b"\0"
        packed = zlib.compress(struct.pack(">I", len(data)) + data)
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


def _plain(data: bytes) -> ClipOffered:
    try:
        return ClipOffered(True, clip_text(data, "latin-1"))
    except ConfigError as error:
        return ClipOffered(True, refused=str(error))


# The size comes first in the compressed data, so no more is inflated than it says, nor than may be passed on. Formats
# are in the order of their bits, and text is the first one.
def _supplied(packed: bytes) -> ClipSupplied:
    stream = zlib.decompressobj()
    try:
        head = stream.decompress(packed, 4)
        if len(head) < 4:
            raise RemoteProtocolError("a cut text that ends before its size")
        (size,) = struct.unpack(">I", head)
        if size > CUT_BYTES_MAX:
            check_size(size)
        data = stream.decompress(stream.unconsumed_tail, size) if size else b""
    except zlib.error as error:
        raise RemoteProtocolError(f"the VNC server sent broken zlib data: {error}") from None
    except ConfigError as error:
        return ClipSupplied(refused=str(error))
    if len(data) < size:
        raise RemoteProtocolError(f"a cut text of {len(data)} bytes where it says {size}")
    try:
        return ClipSupplied(clip_text(data))
    except ConfigError as error:
        return ClipSupplied(refused=str(error))
