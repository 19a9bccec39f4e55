"""What one viewer types and points at, and what it holds down, to be released when it may no longer type."""

from __future__ import annotations

from millrace.errors import ConfigError
from millrace.graph.pictures import Mode, ScreenSource
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.pixels.rects import Point, Size
from millrace.text import quoted
from millrace.wire.keys import BY_KEYSYM
from millrace.wire.peer.pictures import Key, Pointer, SizeWish, Text

WHEEL = 0b11000
"""Notches of the wheel, which are no buttons that can be held."""

SHIFT = 0x2A
SYMBOLS = {"\n": 0xFF0D, "\r": 0xFF0D, "\t": 0xFF09, "\b": 0xFF08}
"""Keysyms of characters that are not their own."""


class Hands:
    """What one viewer holds down on a screen."""

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        self._buttons = 0
        self._at, self._relative = Point(0, 0), False

    @property
    def keys(self) -> tuple[int, ...]:
        """Scan codes of the keys, in the order in which they were pressed."""
        return tuple(self._keys)

    def key(self, source: ScreenSource, code: int, down: bool) -> None:
        """Press or release a key. A press that is repeated is passed on: it is the viewer's auto-repeat."""
        source.key(code, down)
        if down:
            self._keys[code] = None
        else:
            self._keys.pop(code, None)

    def pointer(self, source: ScreenSource, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer, with these buttons down."""
        source.pointer(at, buttons, relative)
        self._at, self._buttons, self._relative = at, buttons & ~WHEEL, relative

    # A viewer's positions are in the picture that it is sent, which may be smaller than the screen. A machine that has
    # only a mouse can't follow positions.
    def control(self, event: Key | Pointer | SizeWish | Text, who: Watcher, screen: Screen, size: Size) -> None:
        """Pass on what a viewer of pictures of that size does; RightsError unless `who` has the keyboard."""
        typed = isinstance(event, Key | Text)
        source = screen.controlled(who, "typing" if typed else "pointing")
        if isinstance(event, Key):
            self.key(source, event.code, event.down)
        elif isinstance(event, SizeWish):
            source.size_wish(Size(event.width, event.height))
        elif isinstance(event, Text):
            for code, shifted in _keys_of(event.text):
                self._type(source, code, shifted)
        elif event.relative:
            self.pointer(source, Point(event.x, event.y), event.buttons, True)
        elif screen.memory is not None and not screen.relative:
            self.pointer(source, _on_screen(event, screen.memory.mode, size), event.buttons, False)

    def _type(self, source: ScreenSource, code: int, shifted: bool) -> None:
        """Press and release a key, with shift if it takes that."""
        if shifted:
            source.key(SHIFT, True)
        source.key(code, True)
        source.key(code, False)
        if shifted:
            source.key(SHIFT, False)

    # The pointer stays where it is: a movement of nothing, or the position that was last.
    def release(self, source: ScreenSource) -> None:
        """Release everything, the last key first."""
        keys, buttons = list(self._keys), self._buttons
        self.forget()
        for code in reversed(keys):
            source.key(code, False)
        if buttons:
            source.pointer(Point(0, 0) if self._relative else self._at, 0, self._relative)

    def forget(self) -> None:
        """The screen is gone, and with it what was held down there."""
        self._keys.clear()
        self._buttons = 0


# A machine takes keys, and what they mean depends on its keyboard layout, which nobody tells us. US is what most have
# before anybody has chosen another.
def _keys_of(text: str) -> list[tuple[int, bool]]:
    """The scan codes that type a text on a US keyboard, and whether with shift; ConfigError if it has no such key."""
    out = []
    for char in text.replace("\r\n", "\n"):
        symbol = SYMBOLS.get(char, ord(char))
        key = BY_KEYSYM.get(symbol)
        if key is None or (char not in SYMBOLS and not char.isprintable()):
            raise ConfigError(f"text: the machine's keyboard has no key for {quoted(char)}; type it there")
        out.append((key.code, symbol != key.keysym))
    return out


def _on_screen(event: Pointer, mode: Mode, size: Size) -> Point:
    """A position in a picture of that size, on the screen."""
    x, y = event.x * mode.width // size.width, event.y * mode.height // size.height
    return Point(max(0, min(mode.width - 1, x)), max(0, min(mode.height - 1, y)))
