"""Which characters of a text a machine's keyboard types: of millrace.guest.typable."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from millrace.graph.pictures import Characters
from millrace.guest import typable as module
from millrace.guest.typable import MISSING_MAX, PIECE, SYMBOLS, TYPED, typable
from millrace.wire.keysyms import keysym_of
from millrace.wire.peer.pictures import TEXT_MAX

MARKS = "".join(chr(code) for code in range(0x300, 0x370) if unicodedata.combining(chr(code)))


def test_every_character_that_has_a_keysym_is_typed_and_no_other() -> None:
    """The categories C are those of control characters and of what is not assigned."""
    chars = [chr(code) for code in (*range(0x10000), *range(0x1F000, 0x20000), *range(0xE0000, 0xE0200))]
    has = {char for char in chars if not unicodedata.category(char).startswith("C")}
    assert {char for char in chars if keysym_of(char)} == has
    alone = [char for char in chars if unicodedata.is_normalized("NFC", char) and not unicodedata.combining(char)]
    typed = "".join(char for char in alone if char in has or char in SYMBOLS)
    assert "".join(typable(char, Characters.ALL)[0] for char in alone) == typed.replace("\r\n", "\n")


@pytest.mark.parametrize(("characters", "typed", "missing"), [
    (Characters.NONE, "az\n\n\t\b", "é日я\x07"), (Characters.OTHERS, "aé日яz\n\n\t\b日", "\x07"),
    (Characters.ALL, "aé日яz\n\n\t\b日", "\x07"),
])  # fmt: skip
def test_what_is_missing_is_named(characters: Characters, typed: str, missing: str) -> None:
    assert typable("ae\u0301日яz\r\n\n\t\b\x07日", characters) == (typed, missing)


def test_only_the_first_missing_ones_are_named() -> None:
    assert typable("".join(map(chr, range(0x400, 0x500))), Characters.NONE)[1] == "".join(
        map(chr, range(0x400, 0x400 + MISSING_MAX))
    )


@pytest.mark.parametrize("shift", range(PIECE + 1))
def test_text_is_composed_wherever_it_is_cut(shift: int) -> None:
    words = "x" * shift + ("e\u0301o\u0308\u0323 " + unicodedata.normalize("NFD", "한글") + "ক\u09c7\u09be") * 30
    assert typable(words, Characters.ALL) == (unicodedata.normalize("NFC", words), "")


def test_no_text_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is looked through in one step."""
    pieces, calls = list[int](), 0
    normalize = unicodedata.normalize

    def noted(form: object, text: str) -> str:
        pieces.append(len(text))
        return normalize("NFC", text)

    monkeypatch.setattr(module.unicodedata, "normalize", noted)

    def called(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    foreign = "".join(map(chr, range(0x4E00, 0x4E00 + TEXT_MAX)))
    for text in (foreign, (MARKS * TEXT_MAX)[:TEXT_MAX], "\ue000" * TEXT_MAX):
        for characters in Characters:
            pieces.clear()
            calls = 0
            sys.setprofile(called)
            typable(text, characters)
            sys.setprofile(None)
            assert max(pieces) <= PIECE, "in a row of accents, each is compared with all before it"
            assert calls < TEXT_MAX // 4


def test_keys_of_a_us_keyboard() -> None:
    assert TYPED["A"] == (0x1E, True) and TYPED["a"] == (0x1E, False) and TYPED["\n"] == (0x1C, False)
