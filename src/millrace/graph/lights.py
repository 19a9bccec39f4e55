"""The locks of a machine's keyboard, as far as it tells of them by its lights."""

from __future__ import annotations

NUM, CAPS = 2, 4
"""Bits, as QEMU and SPICE count lights."""
CODES = {CAPS: 0x3A, NUM: 0x45}
"""Scan codes of the keys that turn them on and off."""
KEYPAD = frozenset(range(0x47, 0x54))


# A light follows its key after a while, or never: some systems use Caps Lock as another key. So a lock whose key was
# pressed is not known until the machine tells of its lights again, and its key is pressed once at most.
class Lights:
    """Which locks are on."""

    def __init__(self) -> None:
        self._known = self._on = 0

    def told(self, on: int) -> None:
        """The machine tells of all its lights."""
        self._known, self._on = NUM | CAPS, on

    def wrong(self, code: int, locks: int | None) -> list[int]:
        """The keys to press and release before this one, so that it does what it does where the viewer is.

        `locks`: those that are on there; None if that is not known. Num lock matters to keys of the keypad only.
        """
        out = []
        for bit, key in CODES.items():
            if code == key:
                self._known &= ~bit
            elif locks is not None and self._known & bit & (locks ^ self._on) and self._matters(bit, code):
                self._known &= ~bit
                out.append(key)
        return out

    def _matters(self, bit: int, code: int) -> bool:
        return code in KEYPAD or (bit == CAPS and code not in CODES.values())
