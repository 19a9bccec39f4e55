"""What one viewer types and points at, and what it holds down, to be released when it may no longer type."""

from __future__ import annotations

import sys
from collections import deque

import msgspec

from millrace.budget import ENCODERS, MIB, PROGRAMS, VIEWERS, Account
from millrace.errors import BudgetError, ConfigError, RightsError
from millrace.graph.pictures import PIXEL_BYTES, Characters, KeyPress, Mode, ScreenSource
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.guest.typable import SYMBOLS, TYPED, typable
from millrace.io.turns import Turns
from millrace.outlets.picturecost import work_bytes
from millrace.pixels.rects import Point, Size
from millrace.text import quoted
from millrace.wire.keys import SHIFT
from millrace.wire.peer.pictures import SIDE_MAX, TEXT_MAX, Key, Pointer, SizeWish, Text

WHEEL = 0b110011000
"""Notches of the wheel, which are not buttons that can be held."""

AT_ONCE = 16
"""The characters that are typed at once. A longer text is typed in turns."""
CHARS_MAX, INPUTS_MAX = 16 * TEXT_MAX, 1024
"""How many characters may wait, and how many texts, keys and other inputs."""
INPUT_BYTES = 256
"""Memory of one that waits, besides its text."""


class _Input(msgspec.Struct):
    """What a viewer of pictures of that size does."""

    event: Key | Pointer | SizeWish | Text
    size: Size
    left: int
    """How many steps it still takes: the characters of a text, or 1."""

    @property
    def chars(self) -> int:
        """Characters that are still to be typed."""
        return self.left if isinstance(self.event, Text) else 0

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        return INPUT_BYTES + (sys.getsizeof(self.event.text) if isinstance(self.event, Text) else 0)


# A text takes up to four keys a character, each of which is a message to the machine, and some machines take only so
# many keys a second. So a long one is typed in the guest's turns, as the machine has room, and what the viewer does
# meanwhile waits behind it. This is the only place where keys wait: whoever loses the keyboard loses what waits, before
# anybody else types.
class Hands:
    """What one viewer holds down on a screen, and what it has done that waits, in its order. A `Worker` of `turns`.

    What waits is charged to `account`.
    """

    first = False

    def __init__(self, turns: Turns, account: Account) -> None:
        self._turns, self._account = turns, account
        self._keys: dict[int, None] = {}
        self._buttons = 0
        self._at, self._relative = Point(0, 0), False
        self._waiting: deque[_Input] = deque()
        self._chars = self._held_bytes = 0
        """Of what waits."""
        self._from: tuple[Watcher, Screen] | None = None
        """Whose it is, and where it goes."""

    @property
    def keys(self) -> tuple[int, ...]:
        """Scan codes of the keys, in the order in which they were pressed."""
        return tuple(self._keys)

    @property
    def waiting(self) -> int:
        """How many texts, keys and other inputs wait to be passed on."""
        return len(self._waiting)

    def key(self, source: ScreenSource, press: KeyPress) -> None:
        """Press or release a key. A press that is repeated is passed on: it is the viewer's auto-repeat."""
        source.key(press)
        if press.down:
            self._keys[press.code] = None
        else:
            self._keys.pop(press.code, None)

    def pointer(self, source: ScreenSource, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer, with these buttons down."""
        source.pointer(at, buttons, relative)
        self._at, self._buttons, self._relative = at, buttons & ~WHEEL, relative

    def control(self, event: Key | Pointer | SizeWish | Text, who: Watcher, screen: Screen, size: Size) -> None:
        """Pass on what a viewer of pictures of that size does, after what waits.

        RightsError unless `who` has the keyboard. BudgetError for a size that could not be shown. ConfigError if too
        much waits, or names the characters of a text that the machine's keyboard lacks; the rest of it is typed.
        """
        source = screen.controlled(who, "typing" if isinstance(event, Key | Text) else "pointing")
        if isinstance(event, SizeWish):
            check_room(screen, Size(event.width, event.height))
        missing = ""
        if isinstance(event, Text):
            text, missing = typable(event.text, screen.characters)
            event = Text(text)
        self._do(_Input(event, size, len(event.text) if isinstance(event, Text) else 1), who, source, screen)
        if missing:
            rest = "; the rest is typed" if isinstance(event, Text) and event.text else ""
            raise ConfigError(f"text: the machine's keyboard has no key for {quoted(missing)}{rest}")

    def _do(self, done: _Input, who: Watcher, source: ScreenSource, screen: Screen) -> None:
        """Pass it on, or let it wait."""
        if not self._waiting and done.chars <= AT_ONCE:
            while done.left and self._pass_on(done, source, screen):
                pass
        if not done.left:
            return
        if not (self._replaces(done) or self._joins_last(done)):
            self._queue(done, source)
        self._from = who, screen
        self._go_on()

    def _go_on(self) -> None:
        self._turns.wait(self)

    # A window that is dragged larger wishes for a size with each of its movements.
    def _replaces(self, new: _Input) -> bool:
        """Whether a size that is wished for has taken the place of the one that waits."""
        if not isinstance(new.event, SizeWish):
            return False
        waits = next((one for one in self._waiting if isinstance(one.event, SizeWish)), None)
        if waits is not None:
            waits.event = new.event
        return waits is not None

    # The pointer may move a hundred times a second. Places are joined, and movements while their sum is one that a
    # viewer could send.
    def _joins_last(self, new: _Input) -> bool:
        """Whether a movement of the pointer was added to the one that waits last."""
        before, event = self._waiting[-1].event if self._waiting else None, new.event
        if not isinstance(before, Pointer) or not isinstance(event, Pointer):
            return False
        if (before.buttons, before.relative) != (event.buttons, event.relative):
            return False
        if event.relative:
            event = Pointer(before.x + event.x, before.y + event.y, event.buttons, True)
            if max(abs(event.x), abs(event.y)) > SIDE_MAX:
                return False
        self._waiting[-1] = _Input(event, new.size, 1)
        return True

    # A key that was dropped could leave another one pressed for good. So if not even keys have room, nothing is kept.
    def _queue(self, new: _Input, source: ScreenSource) -> None:
        chars, held_bytes = self._chars + new.chars, self._held_bytes + new.held_bytes
        if chars <= CHARS_MAX and len(self._waiting) < INPUTS_MAX and self._account.fits("typing", held_bytes, VIEWERS):
            self._waiting.append(new)
            self._chars, self._held_bytes = chars, held_bytes
            return
        if isinstance(new.event, Text):
            raise ConfigError(f"text: {self._chars:,} characters still wait; there is no room for {new.chars:,} more")
        self.release(source)
        raise ConfigError("too much waits to be typed: all of it is dropped, and all keys are released")

    def work(self) -> bool:
        """See `Worker`: pass on what waits, as far as the machine has room."""
        while self._waiting and self._from is not None:
            source, screen = self._target(*self._from), self._from[1]
            if source is None:
                self._drop()
                break
            if not self._next(source, screen):
                break
            if self._turns.over():
                return not self._waiting
        return True

    def _target(self, who: Watcher, screen: Screen) -> ScreenSource | None:
        """Where what waits goes; None if nothing may go there any more."""
        if screen.ended:
            return None
        try:
            return screen.controlled(who, "typing")
        except RightsError:
            return None

    def _next(self, source: ScreenSource, screen: Screen) -> bool:
        """Pass on a step of what waits first; False if the machine has no room for it."""
        one = self._waiting[0]
        if not self._pass_on(one, source, screen):
            return False
        self._chars -= isinstance(one.event, Text)
        if not one.left:
            self._waiting.popleft()
            self._held_bytes -= one.held_bytes
            self._account.hold("typing", self._held_bytes, VIEWERS)
        return True

    # A viewer's positions are in the picture that it is sent, which may be smaller than the screen. A machine that has
    # only a mouse can't follow positions.
    def _pass_on(self, one: _Input, source: ScreenSource, screen: Screen) -> bool:
        """Pass on an input, or the next character of a text; False if the machine has no room for it."""
        event = one.event
        if self._needs_room(event) and not source.takes(isinstance(event, Key | Text), self._go_on):
            return False
        if isinstance(event, Text):
            if not self._type(source, screen, event.text[-one.left]):
                return False
        elif isinstance(event, Key):
            if event.down and not self._lock(source, screen, event.code, event.locks):
                return False
            self.key(source, KeyPress(event.code, event.down, event.key))
        elif isinstance(event, SizeWish):
            source.size_wish(Size(event.width, event.height))
        elif event.relative:
            self.pointer(source, Point(event.x, event.y), event.buttons, True)
        elif screen.memory is not None and not screen.relative:
            self.pointer(source, _on_screen(event, screen.memory.mode, one.size), event.buttons, False)
        one.left -= 1
        return True

    def _needs_room(self, event: Key | Pointer | SizeWish | Text) -> bool:
        """Whether it is anything but the release of a key that is held."""
        return not isinstance(event, Key) or event.down or event.code not in self._keys

    def _lock(self, source: ScreenSource, screen: Screen, code: int, locks: int | None) -> bool:
        """Turn the locks on and off that are wrong for a key; False if there is no room for the key after that."""
        wrong = screen.lights.wrong(code, locks)
        for lock in wrong:
            source.key(KeyPress(lock, True))
            source.key(KeyPress(lock, False))
        return not wrong or source.takes(True, self._go_on)

    def _type(self, source: ScreenSource, screen: Screen, char: str) -> bool:
        """Press and release the key of a character, with shift if it takes that; False if there is no room for it."""
        code, shifted = TYPED.get(char, (0, False))
        if screen.characters is Characters.ALL and char not in SYMBOLS:
            code, shifted = 0, False
        if code and char.isalpha() and not self._lock(source, screen, code, 0):
            return False
        keys = [KeyPress(SHIFT, True)] * shifted
        keys += [KeyPress(code, True, "" if char in SYMBOLS else char), KeyPress(code, False)]
        keys += [KeyPress(SHIFT, False)] * shifted
        for press in keys:
            source.key(press)
        return True

    # The pointer stays where it is: a movement of nothing, or the position that was last.
    def release(self, source: ScreenSource) -> None:
        """Drop what waits and release everything, the last key first."""
        keys, buttons = list(self._keys), self._buttons
        self.forget()
        for code in reversed(keys):
            source.key(KeyPress(code, False))
        if buttons:
            source.pointer(Point(0, 0) if self._relative else self._at, 0, self._relative)

    def forget(self) -> None:
        """The screen is gone, and with it what was held down there, and what was to be typed."""
        self._drop()
        self._keys.clear()
        self._buttons = 0

    def _drop(self) -> None:
        self._waiting.clear()
        self._chars = self._held_bytes = 0
        self._from = None
        self._account.hold("typing", 0, VIEWERS)


# A door holds the picture, and some the memory that the machine copies it into. The picture before may be held until
# its readers have given it back.
def check_room(screen: Screen, size: Size) -> None:
    """BudgetError if the guest has no room for a screen of that size and an encoder of it."""
    budget, mode = screen.budget, None if screen.memory is None else screen.memory.mode
    before, pixels = 0 if mode is None else mode.whole.area, size.width * size.height
    if pixels <= before:
        return
    work = work_bytes(size, 1)
    encoder = work - (0 if mode is None else work_bytes(Size(mode.width, mode.height), 1))
    after = budget.held + 2 * PIXEL_BYTES * (pixels - before) + encoder
    if after > budget.limit * ENCODERS or not budget.has_room(PIXEL_BYTES * (2 * pixels - before), PROGRAMS):
        needed = (2 * PIXEL_BYTES * pixels + work) / MIB
        raise BudgetError(
            f"a screen of {size.width} × {size.height} takes {needed:.0f} MiB to show, and {budget.whose} holds"
            f" {budget.held / MIB:.0f} of the {budget.limit / MIB:.0f} MiB that it may hold: ask for a smaller one, or"
            " raise its `memory`"
        )


def _on_screen(event: Pointer, mode: Mode, size: Size) -> Point:
    """A position in a picture of that size, on the screen."""
    x, y = event.x * mode.width // size.width, event.y * mode.height // size.height
    return Point(max(0, min(mode.width - 1, x)), max(0, min(mode.height - 1, y)))
