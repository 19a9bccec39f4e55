"""The clipboard of a VNC server: RFC 6143, 7.5.6 and 7.6.4, and rfbproto, "Extended Clipboard Pseudo-Encoding".

Without the extension both ends send each text as soon as it is copied, in Latin-1. With it they say that there is one,
and ask for it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Generator
from typing import TypeAlias

from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES, ClipReader, ClipText, check_size
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.vnc.inflate import Inflater, compressed_max
from millrace.wire.vnc.work import PART_WORK, Work

CUT_BYTES_MAX = 2 * CLIP_BYTES_MAX + 64
"""The largest message that is read. A longer one is skipped, and its text refused."""
CUT_WORK, PACK_WORK = 30, 30
"""What a byte of a text costs, and again what it takes to compress one."""
DIGEST_BYTES = 16
_TEXT = 1
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in range(24, 29))
# Ours. The size after them is that of a text that the server may send unasked: none.
_OUR_CAPS = struct.pack(">II", _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT, 0)
Said: TypeAlias = tuple[ClipEvent | None, bytes | bytearray]
"""What a message says, and the answer to send."""
Giving: TypeAlias = Generator[None, None, bytearray]
"""Makes what is sent, piece by piece."""


# A server without the extension may send back what it was sent (x11vnc does). That is not news, and passing it on would
# not end. So it is known again by its digest, which takes no memory.
class CutText:
    """What a server says of its clipboard, and what is said to it. What that costs is added to `work`."""

    def __init__(self, work: Work) -> None:
        self.extended = False
        """The server has the extension."""
        self.asks = False
        """It can be told that there is a text, and asks for it when it is pasted."""
        self._offers = False
        self._work = work
        self._readers: list[ClipReader] = []
        self._made_bytes = 0
        self._sent = b""
        """Digest of the text that was sent without the extension, as the server has it."""

    @property
    def held_bytes(self) -> int:
        """Memory of texts that are not completely read, or made into a message, yet."""
        return self._made_bytes + sum(reader.held_bytes for reader in self._readers)

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
            self.extended, self.asks = True, bool(flags & _NOTIFY)
            return None, _message(_OUR_CAPS)
        if flags & _PROVIDE:
            return None, b""
        if flags & _NOTIFY:
            self._sent = b""
            return ClipOffered(bool(flags & _TEXT)), b""
        if flags & _PEEK:
            return None, self.offer(self._offers)
        return (ClipWanted() if flags & _REQUEST and flags & _TEXT else None), b""

    def _plain(self, size: int) -> Generator[int, bytes, ClipOffered | None]:
        utf8, latin = self._readers = [ClipReader(), ClipReader("latin-1")]
        left = size
        try:
            while left:
                piece = yield min(left, PIECE_BYTES)
                left -= len(piece)
                self._add(latin, piece, not left)
                self._add_utf8(utf8, piece, not left)
            # So it yields at least once; and what follows is a step of its own.
            yield 0
            text = self._readers[0].text()
            return None if (yield from self._is_sent(text)) else self._news(text)
        except ConfigError as error:
            return self._news(None, str(error))
        finally:
            self._readers = []

    def _is_sent(self, text: ClipText) -> Generator[int, bytes, bool]:
        """Whether it is what the server was sent."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for piece in text.pieces if self._sent else ():
            digest.update(piece)
            self._work.spent += CUT_WORK * len(piece)
            yield 0
        return digest.digest() == self._sent

    def _news(self, text: ClipText | None, refused: str = "") -> ClipOffered:
        self._sent = b""
        return ClipOffered(True, text, refused)

    def too_long(self, size: int) -> ClipOffered:
        """For a message that was skipped."""
        try:
            check_size(size)
        except ConfigError as error:
            return self._news(None, str(error))
        raise AssertionError

    # RFC 6143, 7.6.4, says Latin-1. But x11vnc passes on what a program gives it, and many give UTF-8 (xclip does). A
    # text in Latin-1 with other letters than English ones is hardly ever UTF-8 by chance.
    def _add_utf8(self, reader: ClipReader, piece: bytes, last: bool) -> None:
        """Read the text as UTF-8 too, as long as it is that."""
        if reader in self._readers:
            try:
                self._add(reader, piece, last)
            except ConfigError:
                self._readers.remove(reader)

    # Formats are in the order of their bits, and text is the first one. What follows it is not inflated.
    def _supplied(self, size: int) -> Generator[int, bytes, ClipSupplied]:
        stream, reader = Inflater(self._work), ClipReader()
        self._readers = [reader]
        stream.begin(size)
        try:
            yield from self._inflate(stream, reader)
            event = ClipSupplied(reader.text())
        except ConfigError as error:
            event = ClipSupplied(refused=str(error))
        finally:
            self._readers = []
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
            piece = yield from stream.read(min(left, PIECE_BYTES))
            left -= len(piece)
            self._add(reader, piece, not left)
            yield 0

    def _add(self, reader: ClipReader, piece: bytes, last: bool) -> None:
        self._work.spent += PART_WORK + CUT_WORK * len(piece)
        reader.add(piece, last)

    def offer(self, there: bool) -> bytearray:
        """Say whether there is a text for the server, which `asks`."""
        self._offers = there
        return _message(struct.pack(">I", _NOTIFY | (_TEXT if there else 0)))

    def request(self) -> bytearray:
        """Ask for the server's text."""
        return _message(struct.pack(">I", _REQUEST | _TEXT))

    # libvncserver 0.9.14 has the extension, but does not ask. Sent a text by it, it ends the session, or calls what
    # x11vnc never set. What comes without the extension it understands.
    def provide(self, text: ClipText) -> Giving:
        """Make the message that hands over a text, in pieces, whose cost is added to `work`.

        To a server that does not ask it is sent in Latin-1: a character that this lacks becomes a question mark.
        """
        try:
            return (yield from self._within_extension(text) if self.asks else self._without_extension(text))
        finally:
            self._made_bytes = 0

    def _without_extension(self, text: ClipText) -> Giving:
        out, digest = bytearray(struct.pack(">Bxxxi", 6, text.chars)), hashlib.blake2b(digest_size=DIGEST_BYTES)
        for piece in text.latin_1():
            out += piece
            digest.update(piece.decode("latin-1").encode())
            yield from self._made(len(out), len(piece), CUT_WORK)
        self._sent = digest.digest()
        return out

    # QEMU and libvncserver end the session at a message of more than 1 MiB. Compressed, no text reaches that, even if
    # each character is equally likely. The size comes first in what is compressed.
    def _within_extension(self, text: ClipText) -> Giving:
        stream = zlib.compressobj(1)
        body = bytearray(struct.pack(">I", _PROVIDE | _TEXT))
        body += stream.compress(struct.pack(">I", text.size + text.lines + 1))
        for piece in text.crlf():
            yield from self._made(len(body), len(piece), CUT_WORK)
            body += stream.compress(piece)
            yield from self._made(len(body), len(piece), PACK_WORK)
        body += stream.compress(b"\0") + stream.flush()
        return _message(body)

    def _made(self, made_bytes: int, size: int, byte_work: int) -> Generator[None, None, None]:
        self._made_bytes = made_bytes
        self._work.spent += PART_WORK + byte_work * size
        yield


def _message(body: bytes | bytearray) -> bytearray:
    return bytearray(struct.pack(">Bxxxi", 6, -len(body))) + body


def _skip(size: int) -> Generator[int, bytes, None]:
    while size:
        size -= len((yield min(size, PIECE_BYTES)))
