"""What is typed in a window, from SDL's events."""

from __future__ import annotations

import ctypes
from collections import deque

import pytest

from millrace.client import keyboard
from millrace.client.keyboard import WindowKeyboard
from millrace.client.meanings import CAPS, NUM, locks_of
from millrace.client.pressed import Pressed

A, Q, SEVEN, CONTROL_MOD, UNKNOWN = 0x04, 0x14, 0x24, 0x40, 0


class Keysym(ctypes.Structure):
    """See SDL_keyboard.h."""

    _fields_ = (("scancode", ctypes.c_int), ("sym", ctypes.c_int), ("mod", ctypes.c_uint16))


class KeyPart(ctypes.Structure):
    """Of an event."""

    _fields_ = (("repeat", ctypes.c_uint8), ("keysym", Keysym))


class TextPart(ctypes.Structure):
    """Of an event."""

    _fields_ = (("text", ctypes.c_char * 32),)


class Event(ctypes.Structure):
    """As far as it is used."""

    _fields_ = (("type", ctypes.c_uint32), ("key", KeyPart), ("text", TextPart))


class Sdl:
    """SDL's queue of events."""

    SDL_KEYDOWN, SDL_KEYUP, SDL_TEXTINPUT, SDL_FIRSTEVENT, SDL_LASTEVENT = 0x300, 0x301, 0x303, 0, 0xFFFF
    SDL_PEEKEVENT, SDL_GETEVENT, SDL_Event = 1, 2, Event

    def __init__(self) -> None:
        self.queue: deque[Event] = deque()
        self.active = True
        self.hints: dict[bytes, bytes] = {}

    def SDL_SetHint(self, name: bytes, value: bytes) -> None:
        self.hints[name] = value

    def SDL_IsTextInputActive(self) -> bool:
        return self.active

    def SDL_PeepEvents(self, out: object, count: int, how: int, first: int, last: int) -> int:
        if not self.queue:
            return 0
        ctypes.memmove(out, ctypes.byref(self.queue[0]), ctypes.sizeof(Event))  # type: ignore[arg-type]
        if how == self.SDL_GETEVENT:
            self.queue.popleft()
        return 1


class Window:
    """A window, what it sends of keys, and the text that has none."""

    def __init__(self) -> None:
        self.sdl, self.keys, self.texts = Sdl(), list[tuple[int, bool, str]](), list[str]()
        self.locks: list[int | None] = []
        self.pressed = Pressed(self._key, lambda *_: None, lambda _: None)
        self.typing = WindowKeyboard(self.sdl, self.pressed, self.texts.append, lambda: True)
        self.typing.begin()

    def _key(self, code: int, down: bool, meaning: str, locks: int | None) -> None:
        self.keys.append((code, down, meaning))
        self.locks.append(locks)

    def key(self, usage: int, symbol: str, text: str = "", mods: int = 0, repeat: int = 0, up: bool = True) -> None:
        """A key goes down, types something, and goes up; all of it is in the queue."""
        queue, keysym = self.sdl.queue, Keysym(usage, ord(symbol) if symbol else 1 << 30, mods)
        queue.append(Event(Sdl.SDL_KEYDOWN, KeyPart(repeat, keysym)))
        if text:
            queue.append(Event(Sdl.SDL_TEXTINPUT, KeyPart(), TextPart(text.encode())))
        if up:
            queue.append(Event(Sdl.SDL_KEYUP, KeyPart(0, keysym)))
        while queue:
            event = queue.popleft()
            (self.typing.text if event.type == Sdl.SDL_TEXTINPUT else self.typing.key)(event)


@pytest.fixture
def window() -> Window:
    return Window()


def test_key_goes_along_with_what_it_types(window: Window) -> None:
    window.key(SEVEN, "7", "/", 1)
    window.key(A, "a", "ä")
    assert window.keys == [(8, True, "/"), (8, False, ""), (0x1E, True, "ä"), (0x1E, False, "")] and not window.texts


def test_repeated_key_is_pressed_again_while_it_is_down_in_the_machine(window: Window) -> None:
    """VNC servers do not repeat keys, but leave that to their viewers."""
    window.key(A, "a", "a", repeat=1, up=False)
    assert not window.keys, "it went down before the machine had the keyboard"
    window.key(A, "a", "a", up=False)
    window.key(A, "a", "a", repeat=1, up=False)
    window.key(A, "a", "a", repeat=1)
    assert window.keys == [(0x1E, True, "a")] * 3 + [(0x1E, False, "")] and not window.texts


def test_text_without_a_key_is_typed_as_it_is(window: Window) -> None:
    """By an input method, which takes the keys; by a key that SDL does not know; and two characters of one key."""
    for char in "nihao":
        window.key(A, char)
    window.sdl.queue.append(Event(Sdl.SDL_TEXTINPUT, KeyPart(), TextPart("你好".encode())))
    window.key(UNKNOWN, "a", "Ж")
    window.key(A, "a", "لا")
    assert window.texts == ["你好", "Ж", "لا"] and not window.keys


def test_key_that_types_nothing_is_pressed_if_it_has_no_character_or_types_none_with_another(window: Window) -> None:
    window.key(A, "", "")
    window.key(Q, "q", "", CONTROL_MOD)
    assert window.keys == [(0x1E, True, "Dead"), (0x1E, False, ""), (0x10, True, "q"), (0x10, False, "")]
    window.sdl.active = False
    window.key(A, "a")
    assert window.keys[4:] == [(0x1E, True, "a"), (0x1E, False, "")], "text is not told at all"


def test_locks_are_those_of_the_press(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyboard, "MAC", False)
    for mods, locks in ((0, 0), (CAPS | 1, 4), (NUM, 2)):
        window.key(A, "a", "a", mods)
        assert window.locks[-2:] == [locks, None], "a release has none"
    # Keys that are pressed by themselves have not those of the key before.
    window.pressed.chord((0x1D, 0x38))
    assert window.locks[-4:] == [None] * 4
    assert locks_of(0, mac=True) == 2 and window.sdl.hints[b"SDL_IME_SHOW_UI"] == b"1"
