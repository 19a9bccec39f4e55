"""Keys: the table's facts, and which keysym a key has while others are pressed."""

from __future__ import annotations

import pytest

from millrace.wire.keys import BY_CODE, BY_EVDEV, BY_KEYSYM, BY_NAME, KEYS, Keyboard

A, SHIFT, LEFT, ONE, KEYPAD_7 = 0x1E, 0x2A, 0xCB, 0x02, 0x47


@pytest.mark.parametrize(
    ("name", "code", "evdev", "keysym"),
    [
        # Linux' input-event-codes.h, and the prefixed codes of a PC's keyboard.
        ("KeyA", 0x1E, 30, 0x61), ("ArrowUp", 0xC8, 103, 0xFF52), ("MetaLeft", 0xDB, 125, 0xFFEB),
        ("Delete", 0xD3, 111, 0xFFFF), ("F12", 0x58, 88, 0xFFC9), ("AltRight", 0xB8, 100, 0xFFEA),
        ("Comma", 0x33, 51, 0x2C), ("NumpadEnter", 0x9C, 96, 0xFF8D), ("Backslash", 0x2B, 43, 0x5C),
    ],
)  # fmt: skip
def test_key_has_the_known_numbers(name: str, code: int, evdev: int, keysym: int) -> None:
    key = BY_NAME[name]
    assert (key.code, key.evdev, key.keysym) == (code, evdev, keysym)
    assert BY_CODE[code] is BY_EVDEV[evdev] is key and BY_KEYSYM[keysym] is key


def test_no_number_belongs_to_two_keys() -> None:
    for numbers in (BY_NAME, BY_CODE, BY_EVDEV):
        assert len(numbers) == len(KEYS) > 130
    assert all(0 < key.code < 256 and key.keysym > 0 for key in KEYS)
    assert BY_CODE[0x56].evdev == 86 and BY_KEYSYM[ord("<")] is BY_NAME["Comma"]
    assert all(BY_KEYSYM[ord(char)] for char in map(chr, range(32, 127)))


def test_shifted_key_is_told_as_what_it_types_and_released_as_what_it_was_pressed_as() -> None:
    keys = Keyboard()
    assert keys.keysym(A, True, None) == ord("a") == keys.keysym(A, False, None)
    keys.keysym(SHIFT, True, None)
    assert [keys.keysym(code, True, None) for code in (A, ONE, LEFT)] == [ord("A"), ord("!"), 0xFF51]
    keys.keysym(SHIFT, False, None)
    assert keys.keysym(A, False, None) == ord("A")
    assert keys.keysym(A, True, None) == ord("a")


def test_locks_change_letters_and_keypad_only() -> None:
    keys = Keyboard()
    assert keys.keysym(A, True, 4) == ord("A") and keys.keysym(ONE, True, 4) == ord("1")
    assert [keys.keysym(KEYPAD_7, True, leds) for leds in (None, 2, 0)] == [0xFFB7, 0xFFB7, 0xFF95]
    keys.keysym(SHIFT, True, 4)
    assert keys.keysym(A, True, 4) == ord("a") and keys.keysym(KEYPAD_7, True, 2) == 0xFF95


def test_unknown_key_has_no_keysym() -> None:
    assert Keyboard().keysym(0xFF, True, None) == 0 == Keyboard().keysym(0xFF, False, None)
