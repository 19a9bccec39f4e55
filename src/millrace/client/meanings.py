"""What a key means where it is pressed, from what SDL tells of it.

SDL_keycode.h: the modifiers that are locks; the symbol of a key without shift is its character, or has bit 30 where it
types none.
"""

from __future__ import annotations

from millrace.wire.keys import CAPS_LED, NUM_LED
from millrace.wire.keysyms import DEAD

NO_CHARACTER = 1 << 30
"""With nothing else: SDL's symbol of a dead key."""
NUM, CAPS = 0x1000, 0x2000
"""SDL's modifiers that are locks."""
RIGHT_ALT = NO_CHARACTER | 0xE6


def meaning_of(symbol: int, text: str, level_3: bool) -> str:
    """A character, or a name; empty if it is what the place of the key says.

    `text`: what it types; empty if that is not known. `level_3`: the layout has AltGr.
    """
    if len(text) == 1 and text.isprintable():
        return text
    if symbol == RIGHT_ALT:
        return "AltGraph" if level_3 else ""
    if symbol == NO_CHARACTER:
        return DEAD
    return chr(symbol) if 0x20 < symbol <= 0x10FFFF and chr(symbol).isprintable() else ""


def locks_of(mods: int, mac: bool) -> int:
    """Locks that are on, as `Key` has them, by SDL's modifiers; a Mac has no num lock, and its keypad types digits."""
    return (NUM_LED if mods & NUM or mac else 0) | (CAPS_LED if mods & CAPS else 0)
