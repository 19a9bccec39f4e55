"""The part of a client of an X display that types and points: by XTEST, 2.2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from millrace.pixels.rects import Point
from millrace.units import HostNs
from millrace.wire.keys import LightsTold
from millrace.wire.x11 import fakes, requests
from millrace.wire.x11.events import LayoutUntold
from millrace.wire.x11.keyboard import Keyboard
from millrace.wire.x11.requests import BUTTON_RELEASE, KEY_RELEASE, TEST
from millrace.wire.x11.said import Said, no_more, weakly

_BUTTONS = range(1, 6)
"""Those whose state is told."""
_BUTTONS_AT = 7
"""The first one's bit in a mask is the next."""


class X11Input(ABC):
    """Keys and the pointer of one display."""

    _majors: dict[bytes, int]
    _now_ns: HostNs
    """When something was received, or a deadline passed, last."""

    def __init__(self, tell: Callable[[LightsTold | LayoutUntold], None]) -> None:
        self._keys = Keyboard(tell)
        self._buttons = 0
        self._checks = 0
        self.unanswered = 0
        """The number of the check that the server has not answered yet, from 1 on; 0 if none."""

    @abstractmethod
    def _send(self, request: bytes) -> None:
        """Say what has no answer."""

    @abstractmethod
    def _say(self, said: Iterable[Said]) -> None: ...

    @abstractmethod
    def _number(self) -> int:
        """A resource number that was not used yet."""

    @property
    @abstractmethod
    def _root(self) -> int:
        """The window of the screen; 0 before we are let in."""

    @property
    def takes_input(self) -> bool:
        """Whether the server has XTEST: an Xorg that was started with `-tst` has not."""
        return TEST in self._majors

    @property
    def _makes_input(self) -> bool:
        return self._root > 0 and self.takes_input

    # -- keys ------------------------------------------------------------------------------------

    @property
    def keys_wait(self) -> bool:
        """Whether no key may be pressed now: the server has to answer first."""
        return self._keys.waits(self._now_ns)

    @property
    def lacks_layout(self) -> bool:
        """Whether keys are pressed by their place, as the server does not tell its layout."""
        return self._keys.silent

    def send_keys_watch(self) -> None:
        """Be told of the keyboard's layout and locks from the first call on, once we are let in."""
        if self._makes_input:
            self._say(self._keys.begin(self._majors[TEST], self._root))

    def send_key(self, code: int, down: bool, meaning: str = "") -> bool:
        """Press or release the key with this scan code, as QEMU numbers it; or with 0, one for a character.

        `meaning`: what it means to the viewer, and to the display's programs, whatever their layout; empty: what its
        place means there. False if the layout has no key for that. Without XTEST nothing is typed (`takes_input`).
        """
        if not self._makes_input:
            return True
        self.send_keys_watch()
        said = self._keys.key(code, down, meaning, self._now_ns)
        self._say(said or [])
        return said is not None

    # A window manager that moves a window may have the server to itself from the press of a button to its release
    # (GrabServer). That release is among our requests, which would wait for it for good.
    def send_through_grabs(self) -> None:
        """Have our requests processed while a program has grabbed the server."""
        if self._makes_input:
            self._send(requests.control_grabs(self._majors[TEST], True))

    # No input is answered, so a server that is stopped looks like one in which nothing happens.
    def send_check(self) -> None:
        """Have the server answer something behind what was sent, unless it still has to (`unanswered`)."""
        if self._makes_input and not self.unanswered:
            self._checks += 1
            self.unanswered = self._checks
            self._say([Said(requests.get_focus(), weakly(self._checked))])

    def _checked(self, part: bytes) -> Sequence[Said]:
        self.unanswered = 0
        return no_more(part)

    # -- the pointer -----------------------------------------------------------------------------

    def send_pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer to, or by, `at`, with these buttons down."""
        if self._makes_input:
            before, self._buttons = self._buttons, buttons
            for fake in fakes.pointer(at, before, buttons, relative):
                self._send(requests.fake_input(self._majors[TEST], *fake[:2], self._root, *fake[2:]))

    # -- what is down ----------------------------------------------------------------------------

    # What a client holds down by XTEST stays down when it is gone. The server drops a release of what somebody holds
    # on a keyboard or mouse of its own.
    def send_release(self) -> None:
        """Release what is down, and give back keys, such as a daemon may have left that did not end by itself."""
        if self._makes_input:
            self._say(self._keys.look(self._majors[TEST], self._root, self._number()))
            keys, pointer = requests.query_keys(), requests.query_pointer(self._root)
            self._say([Said(keys, weakly(self._keys_down)), Said(pointer, weakly(self._buttons_down))])

    def _keys_down(self, part: bytes) -> list[Said]:
        bits = ((8 * number + bit, held >> bit & 1) for number, held in enumerate(part[8:40]) for bit in range(8))
        return [self._release(KEY_RELEASE, key) for key, down in bits if down]

    def _buttons_down(self, part: bytes) -> list[Said]:
        mask = int.from_bytes(part[24:26], "little")
        return [self._release(BUTTON_RELEASE, button) for button in _BUTTONS if mask >> _BUTTONS_AT + button & 1]

    def _release(self, kind: int, number: int) -> Said:
        return Said(requests.fake_input(self._majors[TEST], kind, number, self._root))

    def send_end(self) -> None:
        """Release what was pressed, and leave the layout as it was: the connection is about to be closed."""
        if self._makes_input:
            self._say(self._keys.end())
            up = fakes.pointer(Point(0, 0), self._buttons, 0, True)
            self._say(self._release(fake.kind, fake.detail) for fake in up)
            self._buttons = 0
