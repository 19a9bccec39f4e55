"""What the keys of an X display mean, and which may be given a meaning: of millrace.wire.x11.keymap, spares, marks."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from millrace.wire.keys import BY_EVDEV
from millrace.wire.x11 import requests, xkb
from millrace.wire.x11.keymap import Keymap, Place
from millrace.wire.x11.marks import NAMES, Marks
from millrace.wire.x11.marks import _listed as listed_in
from millrace.wire.x11.requests import KEYCODE_OFFSET
from millrace.wire.x11.spares import IDLE_NS, KEPT_NS, Spares
from millrace.wire.x11.xkb import NO_STATE, KeyState
from tests.fuzz import xserver
from tests.fuzz.xserver import ROOT

TYPES_AT, SHIFT_TYPE_AT = 40, 48
"""Where the kinds of keys begin in a layout, and the second of them, which has one combination: that of Shift."""
REAL, NEVER_MADE = 38, (254, 255)
"""A key that keyboards have, and two that none has."""
A, B = 0x61, 0x62
MARK_NAME, CARDINAL, WINDOW = 307, 6, 0x40_0007
"""Numbers of the first list's name, of its kind, and of the window that owns ours."""


def layout(keys: dict[int, xserver.Groups], modifiers: dict[int, int] | None = None) -> Keymap:
    return Keymap(xserver.keyboard(0, keys, modifiers or {}))


def full(*free: int) -> dict[int, xserver.Groups]:
    """Keys that all mean something, but these."""
    return {code: [(2, [0x31, 0x32])] for code in range(8, 256) if code not in free}


def mark(*pairs: tuple[int, int], name: int = MARK_NAME) -> bytes:
    """The request that lists these keys and their keysyms."""
    data = b"".join(struct.pack("<II", *pair) for pair in pairs)
    return requests.change_property(ROOT, name, CARDINAL, 32, data)


class Slot(NamedTuple):
    """A list of keys and their keysyms, the window that owns it, and the one that owns it when it was claimed."""

    owner: int = 0
    claimed_by: int = WINDOW
    listed: Sequence[tuple[int, int]] = ()


def marked(marks: Marks, slots: Sequence[Slot]) -> list[bytes]:
    """Have the display answer all that is asked of it; returns what was requested."""
    every = list[bytes]()
    asked = deque(marks.look(ROOT, WINDOW))
    while asked:
        said = asked.popleft()
        every.append(said.request)
        if said.then is not None:
            asked += said.then(answered(every, said.request, slots))
    assert not marks.due
    return every


def answered(every: list[bytes], request: bytes, slots: Sequence[Slot]) -> bytes:
    if request[0] == 16:
        return xserver.reply(1, struct.pack("<I", MARK_NAME + NAMES.index(request[8:].rstrip(b"\0"))))
    mark = int.from_bytes(request[4:8] if request[0] == 23 else request[8:12], "little")
    slot = slots[mark - MARK_NAME] if mark - MARK_NAME < len(slots) else Slot()
    if request[0] == 23:
        owner = slot.claimed_by if requests.set_owner(WINDOW, mark) in every else slot.owner
        return xserver.reply(1, struct.pack("<I", owner))
    assert request[0] == 20
    return xserver.has(1, b"".join(struct.pack("<II", *pair) for pair in slot.listed), CARDINAL, bits=32)


def spares_of(keymap: Keymap, *listed: tuple[int, int]) -> Spares:
    """Those of a display with this layout, which lists these keys and their keysyms."""
    spares = Spares()
    marked(spares.marks, [Slot(listed=listed)])
    assert spares.marks.own == MARK_NAME
    spares.learn(keymap)
    return spares


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
    keymap = layout({**full(253, *NEVER_MADE), 251: doubled}, {251: 0x40, 254: 0x10})
    assert keymap.free == [253, 255] and {251, 254} <= keymap.modifiers


def test_keys_that_keyboards_have_are_taken_last() -> None:
    assert REAL - KEYCODE_OFFSET in BY_EVDEV and all(key - KEYCODE_OFFSET not in BY_EVDEV for key in NEVER_MADE)
    spares = spares_of(layout(full(REAL, *NEVER_MADE)))
    taken = [found[0] for symbol in (1, 2, 3) if (found := spares.take(symbol, 0))]
    assert sorted(taken[:2]) == [*NEVER_MADE] and taken[2] == REAL


def test_daemons_that_type_at_once_take_other_keys() -> None:
    many = [key for key in range(120, 256) if key - KEYCODE_OFFSET not in BY_EVDEV]
    free = layout({**full(*many)}).free
    taken = []
    for lists in range(len(NAMES)):
        spares = Spares()
        marked(spares.marks, [Slot(owner=9)] * lists)
        spares.learn(layout(full(*many)))
        taken.append([found[0] for symbol in range(1, 11) if (found := spares.take(symbol, 0))])
    assert [len(keys) for keys in taken] == [10] * len(NAMES)
    assert len({key for keys in taken for key in keys}) == 10 * len(NAMES)
    assert (taken[0][0], taken[1][0]) == (max(free), min(free))


@pytest.mark.parametrize(("key", "symbol"), [
    (REAL, A), (36, 0xFF0D), (254, 0xFFD1), (254, 0xFE03), (254, 0xFF08), (65, 0x20),
])  # fmt: skip
def test_nothing_is_taken_from_a_key_that_somebody_has_before_him_or_that_means_no_character(
    key: int, symbol: int
) -> None:
    """Any program may list it. ISO_Level3_Shift, Return, BackSpace, F20, and the space bar."""
    spares = spares_of(layout({**full(), key: [(2, [symbol, symbol])]}), (key, symbol))
    assert not spares.keys and not spares.end()


@pytest.mark.parametrize("symbols", [[A, A], [A, B], [A], [B, A]])
def test_key_that_means_something_is_taken_only_if_a_daemon_has_listed_just_that(symbols: list[int]) -> None:
    """Users define keys that mean the same with Shift, too: `xmodmap -e "keycode 248 = F20 F20"`."""
    keys = {**full(), 254: [(2, symbols)]}
    for listed in ([], [(253, A)], [(254, B)], [(REAL, A), (254, A)]):
        spares = spares_of(layout(keys), *listed)
        left = (254, A) in listed and not any(symbol != A for symbol in symbols)
        assert spares.keys == ({254} if left else set())
        found = spares.take(B, 0)
        assert (found and found[0]) == (254 if left else None)
        given = [request for request in spares.end() if request[0] == 100]
        assert given == ([requests.change_keysyms(254, 0)] if left else [])


def test_what_a_killed_daemon_has_listed_is_given_back_at_once() -> None:
    spares = spares_of(layout({**full(253), 254: [(2, [A, A])], 255: [(2, [B, B])]}), (254, A), (255, B))
    due_ns = spares.due_ns(9 * IDLE_NS)
    assert due_ns is not None and due_ns <= 9 * IDLE_NS
    back = [requests.change_keysyms(key, 0) for key in (254, 255)]
    assert spares.handle_timeout(9 * IDLE_NS) == [*back, requests.delete_property(ROOT, MARK_NAME)]
    assert spares.end() == [] and {spares.take(symbol, 0)[0] for symbol in (1, 2, 3)} == {253, 254, 255}  # type: ignore[index]


def test_list_is_written_before_a_key_is_given_a_meaning_and_has_what_it_meant_before() -> None:
    spares = spares_of(layout(full(254)))
    for symbol, listed in ((A, [(254, A)]), (B, [(254, A), (254, B)])):
        assert spares.take(symbol, KEPT_NS) == (254, [mark(*listed), requests.change_keysyms(254, symbol)])
        spares.pressed(254, 0)
    assert spares.end() == [requests.change_keysyms(254, 0), requests.delete_property(ROOT, MARK_NAME)]
    assert spares.end() == []


def test_list_that_is_none_of_a_daemon_is_passed_over() -> None:
    for part in (xserver.has(1, bytes(8)), xserver.has(1, struct.pack("<II", 254, A), 19, bits=32),
                 xserver.has(1, struct.pack("<IIIII", 254, 0, 7, A, 254), CARDINAL, bits=32)):  # fmt: skip
        assert listed_in(part) == {}


# -- several daemons -------------------------------------------------------------------------------


def test_daemons_on_one_display_have_a_list_each_and_leave_that_of_one_that_lives() -> None:
    living = Slot(owner=9, listed=[(253, A)])
    spares = Spares()
    asked = marked(spares.marks, [living, Slot(), Slot(listed=[(255, B)]), Slot()])
    assert spares.marks.own == MARK_NAME + 1
    owned = [request for request in asked if request[0] == 22]
    assert owned == [requests.set_owner(WINDOW, MARK_NAME + 1), requests.set_owner(WINDOW, MARK_NAME + 2)]
    spares.learn(layout({**full(254), 253: [(2, [A, A])], 255: [(2, [B, B])]}))
    assert spares.keys == {255}, "what was left is taken over"
    assert spares.take(A, 0) == (254, [mark((255, B), (254, A), name=MARK_NAME + 1), requests.change_keysyms(254, A)])
    back = [requests.change_keysyms(key, 0) for key in (255, 254)]
    assert spares.end() == [*back, *(requests.delete_property(ROOT, MARK_NAME + n) for n in (1, 2))]


def test_list_that_another_daemon_has_taken_meanwhile_is_its() -> None:
    spares = Spares()
    marked(spares.marks, [Slot(claimed_by=9, listed=[(255, B)]), Slot()])
    assert not spares.marks.own and not spares.marks.has_left
    spares.learn(layout(full(254)))
    assert spares.take(A, 0) is None and spares.end() == [], "without a list no key is given a meaning"


def test_no_key_is_given_a_meaning_if_each_list_is_another_daemons() -> None:
    spares = Spares()
    marked(spares.marks, [Slot(owner=9)] * len(NAMES))
    spares.learn(layout(full(254)))
    assert not spares.marks.own and spares.take(A, 0) is None


def test_list_that_was_left_stays_until_it_is_known_which_of_its_keys_have_a_meaning() -> None:
    spares = Spares()
    marked(spares.marks, [Slot(listed=[(254, A)])])
    assert spares.end() == []
    spares.learn(layout({**full(), 254: [(2, [A, A])]}))
    assert spares.end() == [requests.change_keysyms(254, 0), requests.delete_property(ROOT, MARK_NAME)]


def test_key_that_can_not_be_listed_is_given_no_meaning() -> None:
    spares = Spares()
    spares.learn(layout(full(254)))
    assert spares.take(A, 0) is None


def test_key_that_was_given_a_meaning_is_not_free_when_the_layout_has_it() -> None:
    spares = spares_of(layout(full(254)))
    assert spares.take(A, 0) == (254, [mark((254, A)), requests.change_keysyms(254, A)])
    spares.learn(layout({**full(), 254: [(2, [A, A])]}))
    assert spares.keys == {254} and not spares.has_room(0) and spares.take(B, 0) is None


def test_keys_mean_nothing_again_some_time_after_the_last_was_pressed() -> None:
    spares = spares_of(layout(full(253, *NEVER_MADE)))
    taken = []
    for number, symbol in enumerate((A, B)):
        found = spares.take(symbol, 0)
        assert found is not None and (number or spares.due_ns(0) is None), "it was not pressed yet"
        spares.pressed(found[0], number * KEPT_NS)
        taken.append(found[0])
    due_ns = KEPT_NS + IDLE_NS
    assert spares.due_ns(0) == due_ns and spares.handle_timeout(due_ns - 1) == [] and spares.keys == {*taken}
    assert spares.handle_timeout(due_ns)[:-1] == [requests.change_keysyms(key, 0) for key in taken]
    assert not spares.keys and spares.due_ns(due_ns) is None
    assert all(spares.take(symbol, due_ns) is not None for symbol in (1, 2, 3)), "they are free again"


def test_changes_are_told_of_the_keyboard_as_it_is_used() -> None:
    """XKBproto.h, xkbSelectEventsReq: which events, then what of the layout."""
    request = xkb.watch(9)
    assert request[:4] == bytes((9, 1, 5, 0)) and request[6:8] == bytes((0b111, 0))
