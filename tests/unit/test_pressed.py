"""Keys and buttons of a window, as a machine gets them."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

from millrace.client.meanings import RIGHT_ALT, meaning_of
from millrace.client.pressed import LEFT, RIGHT, WHEEL_DOWN, WHEEL_LEFT, WHEEL_UP, Pressed
from millrace.client.xdisplay import display_of
from millrace.pixels.rects import Point
from millrace.wire.usbkeys import CODES

A, C, F, Q, DELETE, RIGHT_CONTROL = 0x04, 0x06, 0x09, 0x14, 0x63, 0xE4
CONTROL, ALT, UP = 0xE0, 0xE2, 0x52
KEYBOARD = "qwertyuiop|asdfghjkl|zxcvbnm"


class Machine:
    def __init__(self) -> None:
        self.keys: list[tuple[int, bool]] = []
        self.pointers: list[tuple[Point, int, bool]] = []
        self.commands: list[str] = []
        self.pressed = Pressed(
            lambda code, down, meaning, locks: self.keys.append((code, down)),
            lambda at, buttons, relative: self.pointers.append((at, buttons, relative)),
            self.commands.append,
        )


def test_rows_of_the_keyboard_are_rows_of_codes() -> None:
    """XT codes count along the rows of the original keyboard."""
    for first, row in zip((0x10, 0x1E, 0x2C), KEYBOARD.split("|"), strict=True):
        assert [CODES[0x04 + ord(letter) - ord("a")] for letter in row] == list(range(first, first + len(row)))
    assert [CODES[0x1E + digit] for digit in range(10)] == list(range(2, 12))
    assert CODES[UP] == 0xC8 and CODES[0xE3] == 0xDB and CODES[0x65] == 0xDD
    doubled = {code for code in CODES.values() if list(CODES.values()).count(code) > 1}
    assert doubled == {0x2B} and all(0 < code < 256 for code in CODES.values())


def test_keys_are_passed_on_once_and_released_when_the_window_loses_them() -> None:
    machine = Machine()
    for usage, down in ((CONTROL, True), (C, True), (C, True), (C, False), (0xFFF, True), (A, True), (A, False)):
        machine.pressed.key(usage, down)
    assert machine.keys == [(0x1D, True), (0x2E, True), (0x2E, False), (0x1E, True), (0x1E, False)]
    machine.keys.clear()
    machine.pressed.button(LEFT, True)
    machine.pressed.release()
    machine.pressed.release()
    assert machine.keys == [(0x1D, False)] and [one[1] for one in machine.pointers] == [LEFT, 0]
    machine.pressed.key(CONTROL, False)
    assert machine.keys == [(0x1D, False)]


def test_the_viewers_own_keys_do_not_reach_the_machine() -> None:
    machine = Machine()
    for usage, down in ((CONTROL, True), (ALT, True), (F, True), (F, False), (ALT, False), (CONTROL, False)):
        machine.pressed.key(usage, down)
    assert machine.commands == ["full screen"]
    assert machine.keys == [(0x1D, True), (0x38, True), (0x1D, False), (0x38, False)]
    machine.pressed.key(RIGHT_CONTROL, True)
    machine.pressed.key(ALT, True)
    machine.pressed.key(Q, True)
    assert machine.commands == ["full screen"] and machine.keys[-1] == (0x10, True)


def test_secure_attention_is_a_chord() -> None:
    machine = Machine()
    for usage in (CONTROL, ALT, DELETE):
        machine.pressed.key(usage, True)
    assert machine.keys[4:] == [(c, True) for c in (0x1D, 0x38, 0xD3)] + [(c, False) for c in (0xD3, 0x38, 0x1D)]
    assert machine.commands == []


def test_a_notch_is_set_once_and_cleared() -> None:
    machine = Machine()
    machine.pressed.moved(Point(5, 6))
    machine.pressed.button(RIGHT, True)
    machine.pressed.wheel(-2, 0)
    machine.pressed.wheel(1, -1)
    machine.pressed.moved(Point(-3, 2), True)
    down, up, left = WHEEL_DOWN | RIGHT, WHEEL_UP | RIGHT, WHEEL_LEFT | RIGHT
    assert [one[1] for one in machine.pointers] == [0, RIGHT, down, RIGHT, down, RIGHT, up, RIGHT, left, RIGHT, RIGHT]
    assert {one[0] for one in machine.pointers[:-1]} == {Point(5, 6)}
    assert machine.pointers[-1] == (Point(-3, 2), RIGHT, True)
    machine.pressed.wheel(1_000, 0)
    assert len(machine.pointers) == 11 + 16


def test_key_means_what_it_types_or_its_own_character() -> None:
    # As SDL tells them on a German X display: AltGr and Q, Shift and 7, Control and Z, the dead acute, an arrow.
    assert meaning_of(ord("q"), "@", True) == "@" and meaning_of(ord("7"), "/", True) == "/"
    assert meaning_of(ord("z"), "", True) == "z" and meaning_of(1 << 30, "", True) == "Dead"
    assert meaning_of(1 << 30 | 0x50, "", True) == "" == meaning_of(0x0D, "\r", True)
    assert meaning_of(RIGHT_ALT, "", True) == "AltGraph" and meaning_of(RIGHT_ALT, "", False) == ""
    assert meaning_of(ord("a"), "", False) == "a" and meaning_of(0x7FFFFFFF, "", False) == ""


def test_meaning_of_a_key_goes_along_when_it_is_pressed() -> None:
    meanings: list[str] = []
    pressed = Pressed(lambda code, down, meaning, locks: meanings.append(meaning), lambda *_: None, lambda _: None)
    pressed.key(C, True, "j")
    pressed.release()
    pressed.chord((0x1D,))
    assert meanings == ["j", "", "", ""]


class Version(ctypes.Structure):
    """Of SDL."""


class Wayland(ctypes.Structure):
    """What SDL says of a window that is on no X display."""

    _fields_ = (("version", Version), ("subsystem", ctypes.c_int))


def test_window_on_no_x_display_has_none() -> None:
    sdl = SimpleNamespace(
        SDL_SysWMinfo=lambda: Wayland(Version(), 6), SDL_GetVersion=lambda at: None,
        SDL_GetWindowWMInfo=lambda window, info: True, SDL_SYSWM_X11=2,
    )  # fmt: skip
    assert display_of(sdl, object()) is None
