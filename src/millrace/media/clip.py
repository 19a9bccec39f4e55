"""Text that passes between a machine's clipboard and a viewer's: what is allowed, and its one form inside."""

from __future__ import annotations

import codecs
import sys

from millrace.errors import ConfigError

CLIP_BYTES_MAX = 1024 * 1024
"""The largest text, in bytes of UTF-8. Both ends hold it in memory, and it is sent among pictures."""


# Lines end with a line feed, and nothing follows the text. Each protocol has its own rules for both, which its wire
# keeps; programs that get them wrong are common.
class ClipReader:
    """A text that is taken in pieces, so that no step is longer than its piece; in this encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._parts: list[str] = []
        self._size = self._ends = 0
        """Bytes of it in UTF-8, and how many NULs came after them: what follows decides whether they belong to it."""
        self._end = ""
        """A carriage return that the next piece may go on from."""
        self.held_bytes = 0
        """Memory of what was taken."""

    def add(self, data: bytes, last: bool) -> None:
        """The next bytes of it; ConfigError, a sentence for whoever pastes it, if it is no text."""
        try:
            text = self._end + self._decoder.decode(data, last)
        except UnicodeDecodeError:
            raise ConfigError(f"what is on the clipboard is no text in {self._encoding.upper()}") from None
        self._end = "\r" if text.endswith("\r") and not last else ""
        text = text[: len(text) - len(self._end)].replace("\r\n", "\n")
        kept = text.rstrip("\0")
        ends, self._ends = self._ends, len(text) - len(kept) + (0 if kept else self._ends)
        if kept:
            kept = "\0" * ends + kept
            self._parts.append(kept)
            self._size += len(kept.encode())
            self.held_bytes += sys.getsizeof(kept)

    def text(self) -> str:
        """The whole text, after the last piece; ConfigError if it is too long."""
        check_size(self._size)
        return "".join(self._parts)


def clip_text(data: bytes, encoding: str = "utf-8") -> str:
    """The text in these bytes; ConfigError, a sentence for whoever pastes it, if it is too long or no text."""
    reader = ClipReader(encoding)
    reader.add(data, last=True)
    return reader.text()


def check_size(size: int) -> None:
    """ConfigError if a text of so many bytes is too long."""
    if size > CLIP_BYTES_MAX:
        raise ConfigError(
            f"the text on the clipboard has {size / 1e6:.1f} MB; {CLIP_BYTES_MAX / 1e6:.1f} MB at most can be passed on"
        )
