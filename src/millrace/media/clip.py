"""Text that passes between a machine's clipboard and a viewer's: what is allowed, and its one form inside."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator

import msgspec

from millrace.errors import ConfigError

CLIP_BYTES_MAX = 1024 * 1024
"""The largest text, in bytes of UTF-8. Both ends hold it in memory, and it is sent among pictures."""
PIECE_BYTES = 16 * 1024
"""How many bytes of it are taken and handed on in one step."""


# Whoever passes a text on has only to take piece after piece: it is made once, whichever way it came, and shared by all
# whom it is for. Each piece has whole characters and whole ends of lines, so it can be put into another form by itself.
class ClipText(msgspec.Struct, frozen=True):
    """A text: pieces of UTF-8, of `PIECE_BYTES` or a few more."""

    pieces: tuple[bytes, ...] = ()
    chars: int = 0
    lines: int = 0
    """Line feeds in it."""

    def __repr__(self) -> str:
        return f"ClipText({self.size} bytes)"

    @property
    def size(self) -> int:
        """Bytes of it in UTF-8."""
        return sum(map(len, self.pieces))

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        return sys.getsizeof(self.pieces) + sum(map(sys.getsizeof, self.pieces))

    def crlf(self) -> Iterator[bytes]:
        """Its pieces with lines that end with CR LF: `size` + `lines` bytes."""
        return (piece.replace(b"\n", b"\r\n") for piece in self.pieces)

    def latin_1(self) -> Iterator[bytes]:
        """Its pieces in Latin-1: `chars` bytes. Characters that this lacks become question marks."""
        return (piece.decode().encode("latin-1", "replace") for piece in self.pieces)

    def whole(self) -> str:
        """All of it at once: where nobody waits."""
        return b"".join(self.pieces).decode()


# Lines end with a line feed, and nothing follows the text. Each protocol has its own rules for both, which its wire
# keeps; programs that get them wrong are common.
class ClipReader:
    """Makes a text of what is added, in this encoding. What is longer than a piece is for whoever has time.

    Of a text that is too long no more is kept than a text may have.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        # A byte may become two.
        self._at_once = PIECE_BYTES if encoding == "utf-8" else PIECE_BYTES // 2
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._raw = bytearray()
        """Less than a piece, so that many small parts take no more memory than a few large ones."""
        self._pieces: list[bytes] = []
        self._size = self._chars = self._lines = self._ends = 0
        """Of the text, and how many NULs came after it: what follows decides whether they belong to it."""
        self._end = ""
        """A carriage return that the next piece may go on from."""
        self.held_bytes = 0
        """Memory of what was taken."""

    def add(self, data: bytes | bytearray | memoryview, last: bool) -> None:
        """The next bytes of it; ConfigError, a sentence for whoever pastes it, if it is not text."""
        self._raw += data
        whole = len(self._raw) - len(self._raw) % self._at_once
        for at in range(0, whole, self._at_once):
            self._decode(bytes(self._raw[at : at + self._at_once]), False)
        del self._raw[:whole]
        if last:
            self._decode(bytes(self._raw), True)
            self._raw.clear()

    def _decode(self, data: bytes, last: bool) -> None:
        try:
            text = self._end + self._decoder.decode(data, last)
        except UnicodeDecodeError:
            raise ConfigError(f"the clipboard holds no valid {self._encoding.upper()} text") from None
        self._end = "\r" if text.endswith("\r") and not last else ""
        text = text[: len(text) - len(self._end)].replace("\r\n", "\n")
        kept = text.rstrip("\0")
        ends, self._ends = self._ends, len(text) - len(kept) + (0 if kept else self._ends)
        if kept:
            for at in range(0, ends, PIECE_BYTES):
                self._keep("\0" * min(ends - at, PIECE_BYTES))
            self._keep(kept)

    def _keep(self, text: str) -> None:
        piece = text.encode()
        self._size += len(piece)
        self._chars += len(text)
        self._lines += text.count("\n")
        if self._size <= CLIP_BYTES_MAX:
            self._pieces.append(piece)
            self.held_bytes += sys.getsizeof(piece)

    def text(self) -> ClipText:
        """The whole text, after the last bytes; ConfigError if it is too long."""
        check_size(self._size)
        return ClipText(tuple(self._pieces), self._chars, self._lines)


def clip_text(data: bytes, encoding: str = "utf-8") -> ClipText:
    """The text in these bytes, made at once; ConfigError, a sentence for whoever pastes it, if it is none."""
    reader = ClipReader(encoding)
    reader.add(data, last=True)
    return reader.text()


def check_size(size: int) -> None:
    """ConfigError if a text of so many bytes is too long."""
    if size > CLIP_BYTES_MAX:
        raise ConfigError(
            f"the text on the clipboard has {size / 1e6:.1f} MB; {CLIP_BYTES_MAX / 1e6:.1f} MB at most can be passed on"
        )
