"""Which characters of a text the keyboard of a machine types."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from millrace.graph.pictures import Characters
from millrace.wire.keys import BY_KEYSYM
from millrace.wire.keysyms import SPACES

SYMBOLS = {"\n": 0xFF0D, "\r": 0xFF0D, "\t": 0xFF09, "\b": 0xFF08}
"""Keysyms of characters that are not their own."""
MISSING_MAX = 8
"""Characters that can't be typed, of which the viewer is told."""
PIECE, MARKS_MAX = 64, 8
"""Characters that are composed together, and so many that compose with one before them."""


# A machine takes keys, and what they mean depends on its keyboard layout, which nobody tells us. US is what most have
# before anybody has chosen another.
def _typed() -> dict[str, tuple[int, bool]]:
    """The scan code of each character that a US keyboard types, and whether with shift."""
    out = {}
    for symbol, key in BY_KEYSYM.items():
        if symbol < 0x100 and chr(symbol).isprintable():
            out[chr(symbol)] = key.code, symbol != key.keysym
    return out | {char: (BY_KEYSYM[symbol].code, False) for char, symbol in SYMBOLS.items()}


TYPED = _typed()


# A text is looked through in one step, so nothing is called for each of its characters.
def typable(text: str, characters: Characters) -> tuple[str, str]:
    """The characters that a machine types which takes `characters`, and the first few of those that it does not."""
    text = _composed(text.replace("\r\n", "\n"))
    if characters is Characters.NONE:
        bad = dict.fromkeys([char for char in text if char not in TYPED])
    else:
        bad = dict.fromkeys([char for char in text if not (char.isprintable() or char in SPACES or char in TYPED)])
    return "".join([char for char in text if char not in bad]) if bad else text, "".join(bad)[:MISSING_MAX]


# A letter and the accent that follows it are one character on keyboards. Of accents in a row, CPython's `normalize`
# compares each with those before it, and the whole text may be accents. So it is given pieces, cut where nothing
# composes if there is such a place.
def _composed(text: str) -> str:
    return text if text.isascii() else "".join(unicodedata.normalize("NFC", piece) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    begin = 0
    while begin < len(text):
        end = begin + PIECE
        while begin + PIECE - MARKS_MAX < end < len(text) and _follows(text[end]):
            end -= 1
        yield text[begin:end]
        begin = end


def _follows(char: str) -> bool:
    """Whether it may compose with the one before: a mark, or a vowel or a final consonant of Hangul (conjoining)."""
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"
