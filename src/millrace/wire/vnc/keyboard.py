"""What a VNC server is told of a key: RFC 6143, 7.5.4; rfbproto, "QEMU Extended Key Event Message".

Servers that know scan codes may go by the keysym all the same: TigerVNC's, and QEMU with a keyboard layout (`-k`).
"""

from __future__ import annotations

from typing import NamedTuple

from millrace.wire.keys import BY_CODE, CAPS_LED, NUM_LED, SHIFT, SHIFTS, Key
from millrace.wire.keysyms import ACCENTS, DEAD, composed, keysym_of, meant

_SHIFT_SYMBOL = 0xFFE1
_KEYPAD = frozenset(range(0xFF95, 0xFFA0))
"""Keysyms of the keypad without num lock, and with it 0xFFAE to 0xFFB9."""


class Stroke(NamedTuple):
    """A key goes down or up. Its scan code, or its keysym, is 0 where it has none."""

    keysym: int
    code: int
    down: bool


# A server that is told keysyms finds a key for each and presses what it takes to get it. So it has to be told 'A' and
# not 'a' while shift is down, and a key must be released as what it was pressed as, whatever shift does meanwhile.
#
# Some viewers are not told which accent a dead key stands for before the next key has become a letter with it. Then the
# dead key is told with that one, with the shift that it had. A server that goes by scan codes has had it in its time:
# this one has none, so that it is not pressed twice.
class Keyboard:
    """Which keysym a key has now: it depends on what else is pressed."""

    def __init__(self) -> None:
        self._pressed: dict[int, int] = {}
        self._dead: tuple[bool, bool] | None = None
        """A dead key was pressed last: whether with shift, and whether its accent was told."""

    @property
    def pressed(self) -> tuple[int, ...]:
        """Scan codes of the keys that are down, the last one first."""
        return tuple(reversed(self._pressed))

    def strokes(self, code: int, down: bool, meaning: str, leds: int | None) -> list[Stroke]:
        """What to tell for a key.

        `meaning`: what it means to the viewer (docs/picture-protocol.md); empty: a US keyboard is assumed. `leds`:
        those of the machine's keyboard, if known.
        """
        if not down:
            symbol = self._pressed.pop(code) if code in self._pressed else self._symbol(code, meaning, leds)
            return [Stroke(symbol, code, False)]
        before: list[Stroke] = []
        if code not in self._pressed:
            before, meaning = self._composed(code, meaning)
            self._pressed[code] = self._symbol(code, meaning, leds)
        return [*before, Stroke(self._pressed[code], code, True)]

    def _composed(self, code: int, meaning: str) -> tuple[list[Stroke], str]:
        """The dead key that was pressed before this one, and what this one means without it."""
        if meaning == DEAD or meaning in ACCENTS:
            self._dead = self._shift, meaning != DEAD
            return [], meaning
        if len(meaning) != 1 or self._dead is None:
            return [], meaning
        (shifted, told), self._dead = self._dead, None
        parts = composed(code, meaning)
        if parts is None:
            return [], meaning
        dead = [] if told else [Stroke(parts[0], 0, True), Stroke(parts[0], 0, False)]
        return (dead if told or shifted is self._shift else self._with_shift(shifted, dead)), parts[1]

    def _with_shift(self, shifted: bool, strokes: list[Stroke]) -> list[Stroke]:
        """With shift or without, whatever is pressed."""
        held = [Stroke(self._pressed[code], code, True) for code in SHIFTS if code in self._pressed]
        if shifted:
            held = [Stroke(_SHIFT_SYMBOL, SHIFT, False)]
        before, after = ([one._replace(down=down) for one in held] for down in (shifted, not shifted))
        return [*before, *strokes, *after]

    @property
    def _shift(self) -> bool:
        return not SHIFTS.isdisjoint(self._pressed)

    def _symbol(self, code: int, meaning: str, leds: int | None) -> int:
        if code not in BY_CODE:
            return keysym_of(meaning) if len(meaning) == 1 else 0
        if meaning == DEAD:
            return 0
        key = BY_CODE[code]
        if key.keysym in _KEYPAD and len(meaning) > 1:
            return key.keysym
        return meant(code, meaning) or (key.shifted if self._shifts(key, leds) else key.keysym)

    def _shifts(self, key: Key, leds: int | None) -> bool:
        if key.keysym in _KEYPAD:
            return self._shift is not (leds is None or bool(leds & NUM_LED))
        caps = leds is not None and bool(leds & CAPS_LED) and key.name.startswith("Key")
        return self._shift is not caps
