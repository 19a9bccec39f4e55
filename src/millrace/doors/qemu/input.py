"""Keys and the pointer of one console of QEMU."""

from __future__ import annotations

from collections.abc import Callable

from millrace.absent import nothing
from millrace.doors.inputroom import AT_ONCE, InputRoom
from millrace.graph.pictures import KeyPress
from millrace.pixels.rects import Point, Size
from millrace.wire.qemu.client import DisplayClient

CODE_MAX = 0xFF
BUTTONS = range(9)
"""Left, middle, right, wheel up, wheel down, side, extra, wheel left, wheel right.

As in a reader's set of buttons, so in QEMU (qapi/ui.json, InputButton).
"""
WHEEL = frozenset({3, 4, 7, 8})
MOTION_WAITS = 4
"""Calls that QEMU has not answered yet, from which on movements are joined."""
UNANSWERED_MAX = 256
"""Beyond this many, presses of buttons are dropped, and only releases are sent."""
KEYS_UNANSWERED = AT_ONCE
"""From so many on there is no room: a QEMU that was stopped would give them all to its guest at once."""
SIZE_MAX = 16_384
MOVED_MAX = 1 << 20


def _bounded(moved: int) -> int:
    """While QEMU does not answer, movements are added up; a call takes 32 bits."""
    return max(-MOVED_MAX, min(MOVED_MAX, moved))


# QEMU takes either positions or movements of the pointer, and refuses the other. It is the guest that decides, by its
# tablet, at any time. So what a reader sends is converted where it does not fit: positions to the movement since the
# last one, and movements to a position on the screen.
#
# Keys are sent at once and in their order, and none waits here: whoever types asks for room before, so that what it has
# not typed yet is in its own hands when it loses the keyboard.
class ConsoleInput:
    """Sends a reader's input to one console; `flush` is called when something was sent, or waits."""

    def __init__(self, client: DisplayClient, console: int, flush: Callable[[], None]) -> None:
        self._client, self._console, self._flush = client, console, flush
        self.absolute = True
        self.size = Size(0, 0)
        self._at = Point(0, 0)
        self._moved = Point(0, 0)
        """Movement that was not sent yet."""
        self._due = False
        self._buttons = 0
        self._keys: set[int] = set()
        """Keys that are down in the guest."""
        self.room = InputRoom(lambda: client.unanswered >= KEYS_UNANSWERED)

    def key(self, press: KeyPress) -> None:
        """Press or release a key. A key that is held is pressed again, as a keyboard repeats it."""
        if not 0 < press.code <= CODE_MAX:
            return
        self.room.used()
        (self._keys.add if press.down else self._keys.discard)(press.code)
        self._client.send_key(self._console, press.code, press.down)
        self._flush()

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer to, or by, `at`; then press and release buttons."""
        before = self._at
        self._at = self._within(Point(before.x + at.x, before.y + at.y) if relative else at)
        by = at if relative else Point(at.x - before.x, at.y - before.y)
        self._moved = Point(_bounded(self._moved.x + by.x), _bounded(self._moved.y + by.y))
        self._due = self._due or self._at != before or by != Point(0, 0)
        changed = [button for button in BUTTONS if (buttons ^ self._buttons) >> button & 1]
        self.send_motion(forced=bool(changed))
        for button in changed:
            self._button(button, bool(buttons >> button & 1))
        self._flush()

    def _button(self, button: int, down: bool) -> None:
        if down and self._overrun:
            return
        self._buttons ^= 1 << button
        if button not in WHEEL:
            self._client.send_button(self._console, button, down)
        elif down:
            # A notch is one press; the release is for the guest's sake.
            self._client.send_button(self._console, button, True)
            self._client.send_button(self._console, button, False)

    def send_motion(self, forced: bool = False) -> None:
        """Send the movement that is due; unless `forced`, only if QEMU keeps up."""
        if not self._due or (self._client.unanswered > MOTION_WAITS and not forced) or self._overrun:
            return
        moved, self._moved, self._due = self._moved, Point(0, 0), False
        if self.absolute:
            self._client.send_position(self._console, self._at.x, self._at.y)
        else:
            self._client.send_movement(self._console, moved.x, moved.y)

    def size_wish(self, size: Size) -> None:
        """Tell the guest how large a screen is wanted."""
        if 0 < size.width <= SIZE_MAX and 0 < size.height <= SIZE_MAX and not self._overrun:
            self._client.send_size(self._console, size.width, size.height)
            self._flush()

    def release(self) -> None:
        """Release every key and button that is held."""
        for code in self._keys:
            self._client.send_key(self._console, code, False)
        for button in BUTTONS:
            if self._buttons >> button & 1 and button not in WHEEL:
                self._client.send_button(self._console, button, False)
        self._keys.clear()
        self._buttons = 0
        self._flush()

    def close(self) -> None:
        """Release all, for good. Whoever has this is reached through `flush`: a cycle (daemon/collector.py)."""
        try:
            self.release()
        finally:
            self._flush = nothing
            self.room.close()

    @property
    def _overrun(self) -> bool:
        return self._client.unanswered >= UNANSWERED_MAX

    def _within(self, at: Point) -> Point:
        """The nearest position on the screen; QEMU refuses others."""
        width, height = max(1, self.size.width), max(1, self.size.height)
        return Point(min(max(at.x, 0), width - 1), min(max(at.y, 0), height - 1))
