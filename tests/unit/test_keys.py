"""Keys: the table's facts."""

from __future__ import annotations

import pytest

from millrace.wire.keys import BY_CODE, BY_EVDEV, BY_KEYSYM, BY_NAME, KEYS


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
