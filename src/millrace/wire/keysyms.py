"""X keysyms of what a key means with a keyboard layout: a character, or a key by its name.

Facts from: X Window System Protocol, appendix A; keysymdef.h, whose keysyms of the alphabets follow the character sets
of their time; W3C UI Events KeyboardEvent key Values (the names).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MEANING_MAX = 32
"""Characters of what a key means."""
DEAD = "Dead"
"""A dead key of which is not told which accent it gives to the next one."""
UNICODE = 0x1000000
SPACE = 0x39

SPACES = frozenset("\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(map(chr, range(0x2000, 0x200B)))
"""Those that Python does not call printable: its `isprintable` leaves out the categories Z and C but the space."""
_SETS = ((0x100, "iso8859-2"), (0x200, "iso8859-3"), (0x300, "iso8859-4"), (0x500, "iso8859-6"),
         (0xC00, "iso8859-8"), (0xD00, "tis-620"))  # fmt: skip
"""Each keysym is the first of its set and the character's number there."""
_NEVER = "\ufffd\u0e4e\u0e4f\u0e5a\u0e5b"
"""What those sets have and no keysym."""
_RUNS = (
    (0x6A1, "ђѓёєѕіїјљњћќґўџ№ЂЃЁЄЅІЇЈЉЊЋЌҐЎЏ"),
    (0x7A1, "ΆΈΉΊΪ"), (0x7A7, "ΌΎΫ"), (0x7AB, "Ώ"), (0x7AE, "΅―"), (0x7B1, "άέήίϊΐόύϋΰώ"),
    (0x7C1, "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣ"), (0x7D4, "ΤΥΦΧΨΩ"), (0x7E1, "αβγδεζηθικλμνξοπρσςτυφχψω"),
    (0x8BC, "≤≠≥"), (0x8FB, "←↑→↓"), (0xAA9, "—–"), (0xAC3, "⅛⅜⅝⅞"), (0xAD5, "‰"), (0xAAE, "…"), (0xAC9, "™"),
    (0xAD0, "‘’“”"), (0xAF1, "†‡"), (0xAFD, "‚„"),
    (0x13BC, "ŒœŸ"), (0x20AC, "€"),
)  # fmt: skip
ACCENTS = {
    "\u0300": 0xFE50, "\u0301": 0xFE51, "\u0302": 0xFE52, "\u0303": 0xFE53, "\u0304": 0xFE54, "\u0306": 0xFE55,
    "\u0307": 0xFE56, "\u0308": 0xFE57, "\u030a": 0xFE58, "\u030b": 0xFE59, "\u030c": 0xFE5A, "\u0327": 0xFE5B,
    "\u0328": 0xFE5C, "\u0323": 0xFE60, "\u0309": 0xFE61, "\u031b": 0xFE62,
}  # fmt: skip
"""The dead key of each combining character, which is what it means."""
_ALONE = dict(zip("`´'^~¯˘˙¨\"°˚˝ˇ¸˛", "\u0300\u0301\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u0308\u030a\u030a"
                                     "\u030b\u030c\u0327\u0328", strict=True))  # fmt: skip
"""The combining character of what an accent looks like alone."""
_NAMES = {
    "AltGraph": 0xFE03, "Backspace": 0xFF08, "CapsLock": 0xFFE5, "Compose": 0xFF20, "Escape": 0xFF1B,
    "Alphanumeric": 0xFF30, "Romaji": 0xFF24, "Hiragana": 0xFF25, "Katakana": 0xFF26, "HiraganaKatakana": 0xFF27,
    "Zenkaku": 0xFF28, "Hankaku": 0xFF29, "ZenkakuHankaku": 0xFF2A,
}  # fmt: skip
"""Keys that a layout may put in another place."""
_SIDES = {"Control": 0xFFE3, "Shift": 0xFFE1}
"""The left ones of these; the right ones have the number after it."""
_RIGHT = frozenset({0x36, 0x9D, 0xB8, 0xDC})
_KEYPAD = {*range(0x47, 0x54), 0x7E}


def _older() -> dict[str, int]:
    """The characters whose keysyms are older than Unicode."""
    out: dict[str, int] = {}

    def add(first: int, chars: Iterable[str]) -> None:
        for number, char in enumerate(chars, first):
            if ord(char) >= 0x100 and char.isprintable() and char not in _NEVER:
                out.setdefault(char, number)

    for first, name in _SETS:
        add(first + 0xA1, bytes(range(0xA1, 0x100)).decode(name, "replace"))
    add(0x6C0, bytes(range(0xC0, 0x100)).decode("koi8-r"))
    for first, chars in _RUNS:
        add(first, chars)
    return out


_OLDER = _older()
_CHARS = {symbol: char for char, symbol in _OLDER.items()}


def keysym_of(char: str) -> int:
    """The keysym of a character; 0 if it is none that a key types."""
    if not (char.isprintable() or char in SPACES):
        return 0
    if ord(char) < 0x100:
        return ord(char)
    return _OLDER.get(char) or UNICODE + ord(char)


def char_of(symbol: int) -> str:
    """The character of a keysym; empty if it has none."""
    if symbol in _CHARS or symbol < 0x100:
        return _CHARS.get(symbol) or chr(symbol)
    return chr(symbol - UNICODE) if 0x100 <= symbol - UNICODE <= 0x10FFFF else ""


def meant(code: int, meaning: str) -> int:
    """The keysym of a key that means this; 0 if its place says what it is, or nothing is known.

    `code`: its scan code, as QEMU numbers it.
    """
    if len(meaning) != 1:
        return _NAMES.get(meaning) or (_SIDES[meaning] + (code in _RIGHT) if meaning in _SIDES else 0)
    if meaning in ACCENTS:
        return ACCENTS[meaning]
    if code in _KEYPAD and meaning in "0123456789.,":
        return 0xFF80 + ord(meaning)
    return 0 if code in _KEYPAD else keysym_of(meaning)


def composed(code: int, meaning: str) -> tuple[int, str] | None:
    """What a character was composed of: the keysym of its dead key, and the character of the other key.

    None if it has no accent. `code` is the other key's.
    """
    if len(meaning) != 1:
        return None
    parts = unicodedata.normalize("NFD", meaning)
    if len(parts) == 2 and parts[1] in ACCENTS:
        return ACCENTS[parts[1]], parts[0]
    if meaning in _ALONE:
        return ACCENTS[_ALONE[meaning]], " " if code == SPACE else meaning
    return None
