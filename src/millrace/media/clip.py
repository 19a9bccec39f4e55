"""Text that passes between a machine's clipboard and a viewer's: what is allowed, and its one form inside."""

from __future__ import annotations

from millrace.errors import ConfigError

CLIP_BYTES_MAX = 1024 * 1024
"""The largest text, in bytes of UTF-8. Both ends hold it in memory, and it is sent among pictures."""


# Lines end with a line feed, and nothing follows the text. Each protocol has its own rules for both, which its wire
# keeps; programs that get them wrong are common.
def clip_text(data: bytes, encoding: str = "utf-8") -> str:
    """The text in these bytes; ConfigError, a sentence for whoever pastes it, if it is too long or no text."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise ConfigError(f"what is on the clipboard is no text in {encoding.upper()}") from None
    text = text.rstrip("\0").replace("\r\n", "\n")
    check_size(len(text.encode()))
    return text


def check_size(size: int) -> None:
    """ConfigError if a text of so many bytes is too long."""
    if size > CLIP_BYTES_MAX:
        raise ConfigError(
            f"the text on the clipboard has {size / 1e6:.1f} MB; {CLIP_BYTES_MAX / 1e6:.1f} MB at most can be passed on"
        )
