"""Which keysym a VNC server is told of a key, with what a viewer's own layout makes of it."""

from __future__ import annotations

import pytest

from millrace.wire.keysyms import DEAD, composed, keysym_of, meant
from millrace.wire.vnc.keyboard import Keyboard, Stroke

A, E, SHIFT, LEFT, ONE, SEVEN, KEYPAD_7, ACCENT, SPACE = 0x1E, 0x12, 0x2A, 0xCB, 0x02, 0x08, 0x47, 0x0D, 0x39
ALT_GR, RIGHT_CONTROL, COMMA = 0xB8, 0x9D, 0x53
ACUTE, GRAVE = 0xFE51, 0xFE50


@pytest.fixture
def keys() -> Keyboard:
    return Keyboard()


def symbols(keys: Keyboard, code: int, down: bool, meaning: str = "", leds: int | None = None) -> list[int]:
    return [stroke.keysym for stroke in keys.strokes(code, down, meaning, leds)]


def typed(keys: Keyboard, code: int, meaning: str) -> list[tuple[int, int]]:
    """Keysyms and codes of what goes down when a key is pressed and released."""
    strokes = keys.strokes(code, True, meaning, None) + keys.strokes(code, False, "", None)
    downs = [(one.keysym, one.code) for one in strokes if one.down]
    assert sorted(downs) == sorted((one.keysym, one.code) for one in strokes if not one.down)
    return downs


def test_shifted_key_is_told_as_what_it_types_and_released_as_what_it_was_pressed_as(keys: Keyboard) -> None:
    assert symbols(keys, A, True) == [ord("a")] == symbols(keys, A, False)
    symbols(keys, SHIFT, True)
    assert [symbols(keys, code, True) for code in (A, ONE, LEFT)] == [[ord("A")], [ord("!")], [0xFF51]]
    symbols(keys, SHIFT, False)
    # It repeats.
    assert symbols(keys, A, True) == [ord("A")] == symbols(keys, A, False)
    assert symbols(keys, A, True) == [ord("a")]


def test_locks_change_letters_and_keypad_only(keys: Keyboard) -> None:
    def pressed(code: int, leds: int | None) -> list[int]:
        out = symbols(keys, code, True, "", leds)
        symbols(keys, code, False)
        return out

    assert pressed(A, 4) == [ord("A")] and pressed(ONE, 4) == [ord("1")]
    assert [pressed(KEYPAD_7, leds) for leds in (None, 2, 0)] == [[0xFFB7], [0xFFB7], [0xFF95]]
    symbols(keys, SHIFT, True, "", 4)
    assert pressed(A, 4) == [ord("a")] and pressed(KEYPAD_7, 2) == [0xFF95]


def test_unknown_key_has_no_keysym(keys: Keyboard) -> None:
    assert symbols(keys, 0xFF, True) == [0] == symbols(keys, 0xFF, False)


# What a German keyboard types.
@pytest.mark.parametrize(
    ("code", "meaning", "keysym"),
    [
        (0x15, "z", 0x7A), (0x27, "ö", 0xF6), (0x0C, "ß", 0xDF), (SEVEN, "/", 0x2F), (0x10, "@", 0x40),
        (E, "€", 0x20AC),
        (ALT_GR, "AltGraph", 0xFE03), (ALT_GR, "Alt", 0xFFEA), (RIGHT_CONTROL, "Control", 0xFFE4),
        (0x3A, "Control", 0xFFE3), (0x3A, "Escape", 0xFF1B), (COMMA, ",", 0xFFAC), (KEYPAD_7, "7", 0xFFB7),
        (KEYPAD_7, "Home", 0xFF95), (LEFT, "ArrowLeft", 0xFF51), (0x1C, "Enter", 0xFF0D),
    ],
)  # fmt: skip
def test_key_is_told_as_what_it_means_to_the_viewer(keys: Keyboard, code: int, meaning: str, keysym: int) -> None:
    assert keys.strokes(code, True, meaning, None) == [Stroke(keysym, code, True)]
    assert keys.strokes(code, False, "", None) == [Stroke(keysym, code, False)]


# keysymdef.h.
@pytest.mark.parametrize(
    ("char", "keysym"),
    [("a", 0x61), ("ÿ", 0xFF), ("ą", 0x1B1), ("ħ", 0x2B1), ("ĸ", 0x3A2), ("ф", 0x6C6), ("ё", 0x6A3), ("Ґ", 0x6BD),
     ("σ", 0x7F2), ("ς", 0x7F3), ("ώ", 0x7BB), ("א", 0xCE0), ("ก", 0xDA1), ("ع", 0x5D9), ("œ", 0x13BD), ("„", 0xAFE),
     ("😀", 0x101F600), ("\n", 0), ("\ud800", 0)],
)  # fmt: skip
def test_character_has_its_keysym(char: str, keysym: int) -> None:
    assert keysym_of(char) == keysym


def test_dead_key_is_told_with_the_letter_that_has_its_accent(keys: Keyboard) -> None:
    # A server that goes by scan codes has the first one, and one that goes by keysyms the second.
    assert typed(keys, ACCENT, DEAD) == [(0, ACCENT)]
    assert typed(keys, E, "é") == [(ACUTE, 0), (ord("e"), E)]
    assert typed(keys, E, "é") == [(0xE9, E)], "a layout may have the letter on a key"
    assert typed(keys, ACCENT, DEAD) + typed(keys, E, "ê") == [(0, ACCENT), (0xFE52, 0), (ord("e"), E)]


def test_dead_key_whose_accent_is_known_is_told_at_once(keys: Keyboard) -> None:
    assert typed(keys, ACCENT, "\u0301") + typed(keys, E, "e") == [(ACUTE, ACCENT), (ord("e"), E)]
    # Some browsers tell the letter that it becomes, some do not.
    assert typed(keys, ACCENT, "\u0300") + typed(keys, E, "è") == [(GRAVE, ACCENT), (ord("e"), E)]


def test_dead_key_has_the_shift_that_it_was_pressed_with(keys: Keyboard) -> None:
    symbols(keys, SHIFT, True)
    symbols(keys, ACCENT, True, DEAD)
    symbols(keys, ACCENT, False)
    symbols(keys, SHIFT, False)
    assert symbols(keys, E, True, "è") == [0xFFE1, GRAVE, GRAVE, 0xFFE1, ord("e")]
    symbols(keys, ACCENT, True, DEAD)
    symbols(keys, ACCENT, False)
    symbols(keys, SHIFT, True)
    strokes = keys.strokes(A, True, "Á", None)
    assert [(one.keysym, one.down) for one in strokes] == [
        (0xFFE1, False), (ACUTE, True), (ACUTE, False), (0xFFE1, True), (ord("A"), True),
    ]  # fmt: skip


def test_accent_alone_and_a_dead_key_without_a_letter(keys: Keyboard) -> None:
    assert typed(keys, ACCENT, DEAD) + typed(keys, SPACE, "´") == [(0, ACCENT), (ACUTE, 0), (0x20, SPACE)]
    assert typed(keys, ACCENT, DEAD) + typed(keys, A, "x") == [(0, ACCENT), (ord("x"), A)]
    assert typed(keys, E, "é") == [(0xE9, E)], "it counts for one key only"


def test_composed_character_is_taken_apart() -> None:
    assert composed(0x16, "ü") == (0xFE57, "u") and composed(0x18, "ő") == (0xFE59, "o")
    assert composed(ACCENT, "´") == (ACUTE, "´") and composed(SPACE, "^") == (0xFE52, " ")
    assert composed(E, "e") is None and composed(E, "Enter") is None and composed(E, "ǘ") is None


def test_name_that_is_not_known_leaves_the_key_what_it_is() -> None:
    assert meant(A, "Unidentified") == 0 and meant(A, "x" * 32) == 0 and meant(KEYPAD_7, "+") == 0
