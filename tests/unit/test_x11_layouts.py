"""What the keys of an X display mean, and which may be given a meaning: of millrace.wire.x11.keymap and spares."""

from __future__ import annotations

import pytest

from millrace.wire.keys import BY_EVDEV
from millrace.wire.x11 import requests, xkb
from millrace.wire.x11.keymap import Keymap, Place
from millrace.wire.x11.requests import KEYCODE_OFFSET
from millrace.wire.x11.spares import IDLE_NS, KEPT_NS, Spares
from millrace.wire.x11.xkb import NO_STATE, KeyState
from tests.fuzz import xserver

TYPES_AT, SHIFT_TYPE_AT = 40, 48
"""Where the kinds of keys begin in a layout, and the second of them, which has one combination: that of Shift."""
REAL, NEVER_MADE = 38, (254, 255)
"""A key that keyboards have, and two that none has."""
A, B = 0x61, 0x62


def layout(keys: dict[int, xserver.Groups], modifiers: dict[int, int] | None = None) -> Keymap:
    return Keymap(xserver.keyboard(0, keys, modifiers or {}))


def full(*free: int) -> dict[int, xserver.Groups]:
    """Keys that all mean something, but these."""
    return {code: [(2, [0x31, 0x32])] for code in range(8, 256) if code not in free}


# -- where a keysym is found -----------------------------------------------------------------------


@pytest.mark.parametrize(("worse", "better"), [
    ([(4, [0x31, 0x32, A, 0x33])], [(1, [A])]),
    ([(4, [0x31, 0x32, 0x33, A])], [(4, [0x31, 0x32, A, 0x33])]),
    ([(1, [0x31]), (1, [A])], [(4, [0x31, 0x32, 0x33, A])]),
])  # fmt: skip
def test_place_where_least_is_to_be_changed_is_found(worse: xserver.Groups, better: xserver.Groups) -> None:
    """The group counts more than modifiers, and of these each counts."""
    for keys in ({30: worse, 40: better}, {30: better, 40: worse}):
        found = layout(keys).find((A,), NO_STATE)
        assert found is not None and keys[found.keycode] is better


def test_group_stays_if_the_key_means_the_same_with_it() -> None:
    one_group = layout({30: [(3, [A, 0x41])]})
    assert one_group.find((0x41,), KeyState(0, 0, 1, 1)) == Place(30, 1, 3, 1)
    assert layout({30: [(3, [A, 0x41]), (3, [B, 0x42])]}).find((0x41,), KeyState(0, 0, 1, 1)) == Place(30, 0, 3, 1)


@pytest.mark.parametrize(("combinations", "chosen"), [
    ([(2, 1), (5, 1)], 5), ([(5, 1), (8, 1)], 8), ([(8, 1), (5, 1)], 8),
])  # fmt: skip
def test_of_several_combinations_the_one_without_lock_and_with_the_fewest_modifiers_is_taken(
    combinations: list[tuple[int, int]], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xserver, "KEY_TYPES", {1: (0xF, combinations)})
    found = layout({30: [(1, [A, B])]}).find((B,), NO_STATE)
    assert found is not None and found.mods == chosen


def test_combination_that_is_not_active_is_none() -> None:
    part = bytearray(xserver.keyboard(0, {8: [(2, [A, B])]}, {}))
    assert part[SHIFT_TYPE_AT + 8] == 1 and Keymap(bytes(part)).means(8, KeyState(1, 0, 0, 0)) == B
    part[SHIFT_TYPE_AT + 8] = 0
    keymap = Keymap(bytes(part))
    assert keymap.means(8, KeyState(1, 0, 0, 0)) == A and keymap.find((B,), NO_STATE) is None


def test_modifiers_that_are_kept_by_a_kind_of_keys_are_passed_over() -> None:
    part = bytearray(xserver.keyboard(0, {8: [(2, [A, B])]}, {}))
    part[SHIFT_TYPE_AT + 6] = 1
    part[SHIFT_TYPE_AT + 16 : SHIFT_TYPE_AT + 16] = bytes((9, 9, 9, 9))
    keymap = Keymap(bytes(part))
    assert keymap.means(8, NO_STATE) == A and keymap.means(8, KeyState(1, 0, 0, 0)) == B


# -- keys that may be given a meaning --------------------------------------------------------------


def test_keys_of_modifiers_are_not_free() -> None:
    doubled: xserver.Groups = [(2, [0xFFEB, 0xFFEB])]
    keymap = layout({**full(253, *NEVER_MADE), 251: doubled, 252: doubled}, {251: 0x40, 254: 0x10})
    assert keymap.free == [253, 255] and keymap.doubled == [252] and {251, 254} <= keymap.modifiers


def test_keys_that_keyboards_have_are_taken_last() -> None:
    assert REAL - KEYCODE_OFFSET in BY_EVDEV and all(key - KEYCODE_OFFSET not in BY_EVDEV for key in NEVER_MADE)
    spares = Spares()
    spares.learn(layout(full(REAL, *NEVER_MADE)))
    taken = [found[0] for symbol in (1, 2, 3) if (found := spares.take(symbol, 0))]
    assert sorted(taken[:2]) == [*NEVER_MADE] and taken[2] == REAL


def test_key_of_a_keyboard_that_means_the_same_with_shift_is_not_taken() -> None:
    """A key that nobody has, and that means that, is one that a daemon has left which was killed."""
    for key, taken in ((REAL, None), (254, 254)):
        spares = Spares()
        spares.learn(layout({**full(), key: [(2, [A, A])]}))
        found = spares.take(B, 0)
        assert (found and found[0]) == taken


def test_key_that_was_given_a_meaning_is_not_free_when_the_layout_has_it() -> None:
    spares = Spares()
    spares.learn(layout(full(254)))
    assert spares.take(A, 0) == (254, [requests.change_keysyms(254, A)])
    spares.learn(layout({**full(), 254: [(2, [A, A])]}))
    assert spares.keys == {254} and not spares.has_room(0) and spares.take(B, 0) is None


def test_keys_mean_nothing_again_some_time_after_the_last_was_pressed() -> None:
    spares = Spares()
    spares.learn(layout(full(253, *NEVER_MADE)))
    taken = []
    for number, symbol in enumerate((A, B)):
        found = spares.take(symbol, 0)
        assert found is not None and (number or spares.due_ns(0) is None), "it was not pressed yet"
        spares.pressed(found[0], number * KEPT_NS)
        taken.append(found[0])
    due_ns = KEPT_NS + IDLE_NS
    assert spares.due_ns(0) == due_ns and spares.handle_timeout(due_ns - 1) == [] and spares.keys == {*taken}
    assert spares.handle_timeout(due_ns) == [requests.change_keysyms(key, 0) for key in taken]
    assert not spares.keys and spares.due_ns(due_ns) is None
    assert all(spares.take(symbol, due_ns) is not None for symbol in (1, 2, 3)), "they are free again"


def test_changes_are_told_of_the_keyboard_as_it_is_used() -> None:
    """XKBproto.h, xkbSelectEventsReq: which events, then what of the layout."""
    request = xkb.watch(9)
    assert request[:4] == bytes((9, 1, 5, 0)) and request[6:8] == bytes((0b111, 0))
