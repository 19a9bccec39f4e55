"""What a viewer does, as XTEST makes it happen in an X display."""

from __future__ import annotations

from typing import NamedTuple

from millrace.pixels.rects import Point
from millrace.wire.keys import BY_CODE
from millrace.wire.x11.requests import (
    BUTTON_PRESS,
    BUTTON_RELEASE,
    KEYCODE_MAX,
    KEYCODE_OFFSET,
    MOTION,
)

_BUTTONS = (1, 2, 3, 4, 5, 8, 9, 6, 7)
"""X's numbers of left, middle, right, wheel up, wheel down, side, extra, wheel left and wheel right."""


class Fake(NamedTuple):
    """One event: the number of the button, or 1 for a movement that is relative; and where to."""

    kind: int
    detail: int
    x: int = 0
    y: int = 0


# X's key codes are those of Linux, 8 further on (xkeyboard-config, keycodes/evdev).
def keycode(code: int) -> int:
    """Of the key with this scan code, as QEMU numbers it; 0 if X has none."""
    known = BY_CODE.get(code)
    return 0 if known is None or known.evdev + KEYCODE_OFFSET > KEYCODE_MAX else known.evdev + KEYCODE_OFFSET


def pointer(at: Point, before: int, buttons: int, relative: bool) -> list[Fake]:
    """The pointer moves to, or by, `at`; `before` and `buttons` are the buttons that were and are down, in bits."""
    x, y = (min(max(way, -32_768), 32_767) for way in (at.x, at.y))
    out = [Fake(MOTION, int(relative), x, y)] if not relative or x or y else []
    for bit, number in enumerate(_BUTTONS):
        if (before ^ buttons) >> bit & 1:
            out.append(Fake(BUTTON_PRESS if buttons >> bit & 1 else BUTTON_RELEASE, number))
    return out
