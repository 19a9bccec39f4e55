"""The keys and buttons that are down in a window, so that none stays down in the machine when the window loses them."""

from __future__ import annotations

from collections.abc import Callable

from millrace.pixels.rects import Point
from millrace.wire.usbkeys import CODES

LEFT, MIDDLE, RIGHT, WHEEL_UP, WHEEL_DOWN, SIDE, EXTRA, WHEEL_LEFT, WHEEL_RIGHT = (1 << bit for bit in range(9))
CHORD = frozenset({0x1D, 0x38})
"""Left Control and left Alt: with them, the keys of `COMMANDS` are the viewer's own, as in QEMU's windows."""
COMMANDS = {0x21: "full screen", 0x22: "grab", 0x25: "keyboard", 0x10: "quit", 0x53: "secure attention"}
"""F, G, K, Q; and Delete of the keypad, which the desktop here does not catch."""
SECURE_ATTENTION = (0x1D, 0x38, 0xD3)
NOTCHES_MAX = 8
"""The most notches of a wheel in one event."""


class Pressed:
    """Turns key and pointer events into those of the machine. `command` is called for the viewer's own keys.

    `key` is called with a code, whether it is pressed, what it means, and the locks then, if they are known.
    """

    def __init__(
        self,
        key: Callable[[int, bool, str, int | None], None],
        pointer: Callable[[Point, int, bool], None],
        command: Callable[[str], None],
    ) -> None:
        self._key, self._pointer, self._command = key, pointer, command
        self._down: set[int] = set()
        self._kept: set[int] = set()
        """Keys that were the viewer's own, whose release is not the machine's either."""
        self.buttons = 0
        self._at = Point(0, 0)

    def knows(self, usage: int) -> bool:
        """Whether there is such a key."""
        return usage in CODES

    def key(self, usage: int, down: bool, meaning: str = "", repeated: bool = False, locks: int | None = None) -> None:
        """A key by its USB usage, what it means where it is pressed, and the locks there; unknown ones are ignored.

        A press may be `repeated` while the key is down in the machine; others of such a key are ignored.
        """
        code = CODES.get(usage)
        if code is None:
            return
        if repeated:
            if code in self._down:
                self._key(code, True, meaning, locks)
        elif down and code in COMMANDS and self._down >= CHORD:
            self._kept.add(code)
            self._own(COMMANDS[code])
        elif not down and code in self._kept:
            self._kept.discard(code)
        elif down != (code in self._down):
            (self._down.add if down else self._down.discard)(code)
            self._key(code, down, meaning, locks)

    def _own(self, command: str) -> None:
        self.release()
        if command == "secure attention":
            self.chord(SECURE_ATTENTION)
        else:
            self._command(command)

    def chord(self, codes: tuple[int, ...]) -> None:
        """Press these keys in order, and release them."""
        for code in codes:
            self._key(code, True, "", None)
        for code in reversed(codes):
            self._key(code, False, "", None)

    def release(self) -> None:
        """The window lost the keyboard: nothing is down any more."""
        for code in sorted(self._down):
            self._key(code, False, "", None)
        self._down.clear()
        if self.buttons:
            self.buttons = 0
            self._pointer(self._at, 0, False)

    def moved(self, at: Point, relative: bool = False) -> None:
        """The pointer is at, or moved by, `at`."""
        self._at = Point(0, 0) if relative else at
        self._pointer(at, self.buttons, relative)

    def button(self, bit: int, down: bool, relative: bool = False) -> None:
        """A button was pressed or released."""
        self.buttons = self.buttons | bit if down else self.buttons & ~bit
        self._pointer(self._at, self.buttons, relative)

    def wheel(self, notches: int, right: int, relative: bool = False) -> None:
        """The wheel was turned, up and to the right if positive: for each notch its bit is set once and cleared."""
        for turned, back, forth in ((notches, WHEEL_DOWN, WHEEL_UP), (right, WHEEL_LEFT, WHEEL_RIGHT)):
            for _ in range(min(abs(turned), NOTCHES_MAX)):
                self._pointer(self._at, self.buttons | (forth if turned > 0 else back), relative)
                self._pointer(self._at, self.buttons, relative)
