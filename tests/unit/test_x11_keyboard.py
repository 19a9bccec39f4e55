"""Keys of an X display: which are pressed for what a viewer types, by the layout and the state that the server tells.

Of millrace.wire.x11.input, keyboard, keymap, said, spares and xkb.
"""

from __future__ import annotations

import struct

import pytest

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Point
from millrace.wire.keys import BY_EVDEV, SHIFT, LightsTold
from millrace.wire.keysyms import char_of, keysym_of
from millrace.wire.x11 import requests, xkb
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.input import X11Input
from millrace.wire.x11.keyboard import STROKES_MAX
from millrace.wire.x11.keymap import ENTRIES_MAX, Keymap
from millrace.wire.x11.marks import NAMES
from millrace.wire.x11.spares import IDLE_NS, KEPT_NS
from tests.fuzz import xserver
from tests.fuzz.xserver import KEYBOARD, KEYBOARD_FIRST, MAJORS, ROOT
from tests.received import received

TEST = MAJORS[b"XTEST"][0]
MARK_NAME, CARDINAL = 307, 6
E, ALT_GR, LEVEL_3, CAPS, KANA = 0xFE03, 0xB8, 92, 0x3A, 101
GERMAN: dict[int, xserver.Groups] = {
    24: [(4, [0x71, 0x51, 0x40, 0x7D9])], 29: [(3, [0x7A, 0x5A])], 52: [(3, [0x79, 0x59])],
    26: [(4, [0x65, 0x45, 0x20AC, 0x20AC])], 47: [(3, [0xF6, 0xD6])], 11: [(2, [0x32, 0x22])],
    21: [(2, [0xFE51, 0xFE50])], 36: [(1, [0xFF0D])], 50: [(1, [0xFFE1])], 108: [(1, [0xFE03])], 66: [(1, [0xFFE5])],
}  # fmt: skip
RUSSIAN = {24: [(3, [0x6CA, 0x6EA]), (3, [0x71, 0x51])], 36: [(1, [0xFF0D])]}
MODIFIERS = {50: 1, 66: 2, 108: 0x80}


class Display:
    """A client, and what its server says."""

    def __init__(
        self, keys: dict[int, xserver.Groups], repeated: tuple[int, ...] = (), listed: tuple[tuple[int, int], ...] = (),
        watched: bool = True,
    ) -> None:  # fmt: skip
        self.lists = {MARK_NAME: listed}
        self.owners: dict[int, int] = {}
        self.wire, self.now_ns, self._keys = X11Client(b"", 0), 0, keys
        self.repeated = sum(1 << keycode for keycode in repeated).to_bytes(32, "little")
        assert isinstance(self.wire, X11Input)
        self.says(b"".join([xserver.setup(), *xserver.extensions()]))
        self.wire.events(), self.wire.data_to_send()
        self.number, self.mods, self.locked = 12, 0, 0
        self.wire.send_release()
        if watched:
            self.wire.send_keys_watch()
        self.begun = self.answer()
        """What was requested at first."""

    def says(self, data: bytes) -> None:
        received(self.wire, data, self.now_ns)

    def sent(self) -> list[bytes]:
        """The requests that it made."""
        data, out = b"".join(bytes(chunk.data) for chunk in self.wire.data_to_send()), []
        while data:
            size = 4 * int.from_bytes(data[2:4], "little")
            out.append(data[:size])
            data = data[size:]
        return out

    def answer(self) -> list[bytes]:
        """Answer all that is asked for, and what that leads to; returns what was requested."""
        every: list[bytes] = []
        while asked := self.sent():
            every += asked
            said = [self._said(one) for one in asked]
            for one in said:
                self.says(one)
        return every

    def _said(self, request: bytes) -> bytes:
        self.number += 1
        if request[0] == 98:
            return xserver.reply(self.number, bytes((1, KEYBOARD, KEYBOARD_FIRST, 0)))
        if request[:2] == bytes((KEYBOARD, 0)):
            return xserver.reply(self.number, b"", 1)
        if request[:2] == bytes((KEYBOARD, 8)):
            return xserver.keyboard(self.number, self._keys, MODIFIERS)
        if request[0] == 16:
            return xserver.reply(self.number, struct.pack("<I", MARK_NAME + NAMES.index(request[8:].rstrip(b"\0"))))
        if request[0] == 22:
            window, selection = struct.unpack_from("<II", request, 4)
            self.owners[selection] = window
            return b""
        if request[0] == 23:
            return xserver.reply(
                self.number, struct.pack("<I", self.owners.get(int.from_bytes(request[4:8], "little"), 0))
            )
        if request[0] == 20:
            listed = self.lists.get(int.from_bytes(request[8:12], "little"), ())
            data = b"".join(struct.pack("<II", *pair) for pair in listed)
            return xserver.has(self.number, data, CARDINAL, bits=32)
        if request[0] in (38, 44):
            return xserver.reply(self.number)
        if request[0] == 103:
            return xserver.reply(self.number, bytes(12) + self.repeated, any(self.repeated))
        if request[:2] == bytes((KEYBOARD, 4)):
            return xserver.keyboard_state(self.number, self.mods, self.locked)
        return b""

    def key(self, code: int, down: bool, meaning: str = "") -> list[bytes]:
        """What is requested for a key; the state follows it."""
        self.wire.send_key(code, down, meaning)
        return self.answer()

    def typed(self, code: int, meaning: str) -> list[object]:
        """What is done for a key that is pressed and released."""
        return [done for down in (True, False) for one in self.key(code, down, meaning if down else "")
                if (done := shown(one)) is not None]  # fmt: skip


def shown(request: bytes) -> object:
    """A key that goes down, or up (below zero); what is locked; or a key that is given a keysym."""
    if request[0] == TEST:
        return request[5] if request[4] == 2 else -request[5]
    if request[:2] == bytes((KEYBOARD, 5)):
        return tuple(request[6:10])
    if request[:2] == bytes((KEYBOARD, 7)):
        return ("no repeat", "repeat")[request[28]]
    if request[0] == 100:
        return "given", request[4], struct.unpack_from("<II", request, 8)
    return None


def test_key_that_means_the_same_there_is_held() -> None:
    one = Display(GERMAN)
    assert [shown(done) for done in one.key(0x10, True, "q")] == [24]
    assert [shown(done) for done in one.key(0x10, True, "q")] == [24], "it is repeated"
    assert [shown(done) for done in one.key(0x10, False)] == [-24, None] and one.key(0x10, False) == []
    assert one.typed(0x15, "z") == [29, -29] and one.typed(0x2C, "y") == [52, -52]


def test_server_does_not_repeat_what_is_held_and_what_the_viewer_repeats_is_pressed_again() -> None:
    one = Display(GERMAN, repeated=(24,))
    press = ["no repeat", 24, "repeat"]
    assert [shown(done) for done in one.key(0x10, True, "q")] == press
    assert [shown(done) for done in one.key(0x10, True, "q")] == [-24, *press]
    assert one.typed(0x2C, "y") == [52, -52], "it is one that the server does not repeat"
    one.repeated = bytes(32)
    assert one.typed(0x10, "q") == [-24, *press, -24]
    assert one.typed(0x10, "q") == [24, -24], "by now somebody has turned it off"
    one.says(struct.pack("<BBHI24x", KEYBOARD_FIRST, 0, 0, 7))
    assert requests.get_keyboard_control() in one.answer(), "another keyboard may repeat others"


def test_whether_keys_are_repeated_is_set_by_a_request_of_its_own() -> None:
    """XKBproto.h, xkbSetControlsReq: 100 bytes, the controls that are affected from 24 on."""
    for on in (False, True):
        request = xkb.repeat(KEYBOARD, on)
        assert struct.unpack_from("<BBHH", request) == (KEYBOARD, 7, 25, 0x100) and len(request) == 100
        assert struct.unpack_from("<III", request, 24) == (1, on, 1 << 31) and not any(request[36:])


def test_requests_are_processed_while_a_program_has_grabbed_the_server() -> None:
    one = Display(GERMAN)
    one.wire.send_through_grabs()
    assert one.sent() == [bytes((TEST, 3, 2, 0, 1, 0, 0, 0))]


def test_same_key_elsewhere_is_held_too() -> None:
    assert Display(GERMAN).typed(0x2C, "z") == [29, -29]
    assert Display(GERMAN).typed(0x3A, "Shift") == [50, -50], "that of another viewer's Caps Lock"


def test_what_takes_other_modifiers_is_a_stroke_with_these_locked() -> None:
    one = Display(GERMAN)
    assert one.typed(0x03, "@") == [(0x83, 0x80, 1, 0), 24, -24, (0x83, 0, 1, 0)]
    one.locked = one.mods = 2
    one.says(xserver.keyboard_told(2, 2))
    assert one.wire.events()[-1] == LightsTold(4)
    assert one.typed(0x10, "q") == [(0x83, 0, 1, 0), 24, -24, (0x83, 2, 1, 0)], "caps lock is on again"
    assert one.typed(0x15, "Z") == [29, -29], "that is what it means with caps lock"
    assert one.typed(0x27, "ö")[1:3] == [47, -47]


def test_stroke_lets_go_of_shift_and_its_like() -> None:
    one = Display(GERMAN)
    one.mods = 1
    assert [shown(done) for done in one.key(SHIFT, True, "Shift")] == [50, None]
    assert one.typed(0x03, "@") == [-50, (0x83, 0x80, 1, 0), 24, -24, (0x83, 0, 1, 0), 50]
    assert one.typed(0x10, "Q") == [24, -24] and one.typed(0x04, '"') == [11, -11]


def test_other_group_is_locked_for_a_stroke() -> None:
    one = Display(RUSSIAN)
    assert one.typed(0x10, "й") == [24, -24]
    assert one.typed(0x10, "Q") == [(3, 1, 1, 1), 24, -24, (3, 0, 1, 0)]
    one.says(xserver.keyboard_told(group=1, locked_group=1))
    assert one.typed(0x10, "q") == [24, -24]
    assert one.typed(0x10, "й") == [(3, 0, 1, 0), 24, -24, (3, 0, 1, 1)]
    assert one.typed(0x1C, "") == [36, -36], "it has one group only"


def test_what_no_key_means_is_given_to_one_without_a_meaning_for_a_while() -> None:
    one = Display(GERMAN)
    given, *stroke = one.typed(0, "日")
    name, keycode, symbols = given  # type: ignore[misc]
    assert (name, symbols) == ("given", (0x10065E5, 0x10065E5)) and keycode not in GERMAN
    assert stroke == [(3, 0, 1, 0), keycode, -keycode, (3, 0, 1, 0)]
    assert one.typed(0, "日") == stroke, "it still has it"
    one.says(xserver.keyboard_changed(keycode, 1))
    assert one.answer() == [], "that is our own change"
    assert one.wire.next_timeout() == IDLE_NS
    one.wire.handle_timeout(IDLE_NS)
    assert [shown(done) for done in one.sent()][:1] == [("given", keycode, (0, 0))] and one.wire.next_timeout() is None


def test_key_keeps_its_meaning_until_programs_have_asked_for_it() -> None:
    """There are two keys without a meaning only."""
    few = {code: GERMAN.get(code, [(1, [0x31])]) for code in range(8, 254)}
    one = Display(few)
    first, second = one.typed(0, "日")[0], one.typed(0, "本")[0]
    assert {first[1], second[1]} == {254, 255} and one.wire.keys_wait  # type: ignore[index]
    assert one.typed(0, "語") == [], "whoever does not wait loses it"
    assert one.typed(0, "日")[0] == (3, 0, 1, 0)
    one.wire.receive(b"", 1)
    assert one.wire.next_timeout() == KEPT_NS, "since it was pressed, whatever comes after that"
    one.wire.handle_timeout(KEPT_NS)
    assert not one.wire.keys_wait and one.typed(0, "語")[0] == ("given", second[1], (0x1008A9E,) * 2)  # type: ignore[index]
    assert {shown(done)[1] for done in ended(one) if shown(done)} == {254, 255}  # type: ignore[index]


def ended(one: Display) -> list[bytes]:
    one.wire.send_end()
    return one.sent()


def test_without_a_free_key_nothing_is_waited_for() -> None:
    one = Display({code: GERMAN.get(code, [(1, [0x31])]) for code in range(8, 256)})
    assert one.typed(0, "日") == [] and not one.wire.keys_wait and one.typed(0, "q") == [24, -24]
    assert not one.wire.send_key(0x10, True, "日") and not one.wire.send_key(0, True, "本"), "it is told"
    assert one.wire.send_key(0, True, "q") and one.wire.send_key(0, False)


def test_dead_key_is_pressed_if_its_accent_is_known() -> None:
    one = Display(GERMAN)
    assert one.typed(0x0D, "\u0301") == [21, -21] and one.typed(0x12, "é") == [26, -26]
    assert one.typed(0x0D, "Dead") == []
    given, *_ = one.typed(0x12, "é")
    assert given[2] == (0xE9, 0xE9), "the letter itself"  # type: ignore[index]


def test_nothing_may_be_typed_until_the_layout_and_the_state_are_known() -> None:
    one = Display(GERMAN)
    assert not one.wire.keys_wait
    one.says(xserver.keyboard_changed(8, 248, 7) + xserver.keyboard_changed(24, 1))
    assert one.wire.keys_wait and [asked[1] for asked in one.answer()] == [8, 8], "again, as it has changed since"
    assert not one.wire.keys_wait
    one.wire.send_key(SHIFT, True, "Shift")
    assert one.wire.keys_wait
    one.answer()
    assert not one.wire.keys_wait
    for _ in range(STROKES_MAX):
        one.wire.send_key(0, True, "@")
    assert one.wire.keys_wait
    one.says(xserver.keyboard_told(0x80, 0x80))
    asked = one.answer()
    assert not one.wire.keys_wait and one.typed(0x10, "q") == [24, -24], "what it told meanwhile was our doing"
    assert len(asked) == STROKES_MAX * 7


def test_layout_that_takes_a_meaning_back_is_learnt() -> None:
    one = Display(GERMAN)
    one.typed(0, "日")
    one.says(struct.pack("<BBHI24x", KEYBOARD_FIRST, 0, 0, 7))
    assert sorted(asked[1] for asked in one.answer() if asked[0] == KEYBOARD) == [4, 8]
    assert one.typed(0, "日")[0][0] == "given"  # type: ignore[index]


def test_key_that_was_given_a_meaning_keeps_it_though_the_layout_is_read_again() -> None:
    keys = dict(GERMAN)
    one = Display(keys)
    given, *stroke = one.typed(0, "日")
    keys[given[1]] = [(2, [0x10065E5, 0x10065E5])]  # type: ignore[index]
    one.says(struct.pack("<BBHI24x", KEYBOARD_FIRST, 0, 0, 7))
    one.answer()
    one.wire.handle_timeout(IDLE_NS - 1)
    one.now_ns = IDLE_NS - 1
    assert one.typed(0, "日") == stroke, "as one that it has been given"
    assert one.wire.next_timeout() > IDLE_NS, "and may ask for once more"  # type: ignore[operator]


def test_server_without_xkb_has_its_keys_pressed_where_they_are() -> None:
    for refused in (13, 14, 0):
        one = Display.__new__(Display)
        one.wire, one.now_ns = X11Client(b"", 0), 0
        one.says(b"".join([xserver.setup(), *xserver.extensions()]))
        one.wire.events(), one.wire.data_to_send()
        one.wire.send_keys_watch()
        if refused == 13:
            one.says(xserver.error(13))
        else:
            one.says(xserver.reply(13, bytes((refused > 0, KEYBOARD, KEYBOARD_FIRST, 0))))
        if refused == 14:
            one.says(xserver.error(14))
        one.sent()
        assert not one.wire.keys_wait
        assert one.wire.send_key(0x10, True, "@") and one.wire.send_key(0, True, "@")
        assert not one.wire.send_key(0, True, "日"), "it is told"
        assert [shown(done) for done in one.sent()] == [24, 50, 11, -11, -50] and one.wire.events() == []


def test_refused_layout_or_state_leaves_the_keys_where_they_are() -> None:
    one = Display(GERMAN)
    one.says(xserver.keyboard_changed(8, 248, 7))
    one.sent()
    one.says(xserver.error(one.number + 1))
    assert not one.wire.keys_wait


def test_what_changes_is_asked_to_be_told() -> None:
    assert xkb.watch(KEYBOARD) in Display(GERMAN).begun


def test_named_key_that_the_layout_lacks_is_pressed_where_it_is() -> None:
    """It is none that a key without a meaning could be given: programs go by more than its keysym."""
    one = Display(GERMAN)
    assert KANA - 8 in BY_EVDEV and one.typed(BY_EVDEV[KANA - 8].code, "Hiragana") == [KANA, -KANA]


def test_unicode_keysym_of_an_older_character_is_found_too() -> None:
    assert Display({24: [(1, [0x100044F])]}).typed(0x10, "я") == [24, -24]


def test_state_that_is_told_before_it_is_answered_is_not_believed() -> None:
    one = Display(GERMAN)
    one.wire.events()
    one.wire.send_key(SHIFT, True, "Shift")
    one.says(xserver.keyboard_told(2, 2))
    assert one.wire.events() == [], "it may be that of before"
    one.answer()
    assert one.wire.events() == []
    one.says(xserver.keyboard_told(2, 2))
    assert one.wire.events() == [LightsTold(4)]


def test_state_that_is_told_while_strokes_are_on_their_way_is_not_believed() -> None:
    one = Display(GERMAN)
    one.wire.events()
    for _ in range(2):
        one.wire.send_key(0, True, "@")
    one.says(xserver.keyboard_told(2, 2))
    first, last = (number for number, asked in enumerate(one.sent(), one.number + 1) if asked[1] == 4)
    one.says(xserver.keyboard_state(first, 2, 2))
    assert one.wire.events() == [], "the other stroke changes it again"
    one.says(xserver.keyboard_state(last, 2, 2))
    assert one.wire.events() == [LightsTold(4)]


def test_key_that_is_held_for_two_is_released_once() -> None:
    one = Display(GERMAN)
    one.mods = 1
    for code in (SHIFT, CAPS):
        assert shown(one.key(code, True, "Shift")[0]) == 50
    assert one.typed(0x03, "@") == [-50, (0x83, 0x80, 1, 0), 24, -24, (0x83, 0, 1, 0), 50]
    assert [shown(done) for done in ended(one)] == [-50]


def test_meaning_is_kept_from_when_the_server_has_pressed_the_key() -> None:
    one = Display(GERMAN)
    one.now_ns = 7 * IDLE_NS
    one.typed(0, "日")
    assert one.wire.next_timeout() == 8 * IDLE_NS


def test_lights_are_told_when_they_change() -> None:
    one = Display(GERMAN)
    assert one.wire.events() == [LightsTold(0)]
    for locked in (0x12, 0x12, 0x10):
        one.says(xserver.keyboard_told(locked, locked))
    assert one.wire.events() == [LightsTold(6), LightsTold(2)]


def test_what_an_earlier_daemon_has_left_pressed_is_released() -> None:
    one = Display(GERMAN)
    one.wire.send_release()
    assert one.sent()[5:] == [requests.query_keys(), requests.query_pointer(ROOT)]
    one.says(xserver.reply(one.number + 6, bytes(4) + bytes((0, 0x40)) + bytes(26)))
    one.says(xserver.reply(one.number + 7, bytes(16) + struct.pack("<H", 0x500)))
    assert [(done[4], done[5]) for done in one.sent()] == [(3, 46), (5, 1), (5, 3)]


def test_end_releases_what_is_down_the_last_key_first() -> None:
    one = Display(GERMAN)
    for code, meaning in ((SHIFT, "Shift"), (0x10, "Q")):
        one.mods = 1
        one.key(code, True, meaning)
    one.wire.send_pointer(Point(3, 4), 0b10101, False)
    one.sent()
    assert [(done[4], done[5]) for done in ended(one)] == [(3, 24), (3, 50), (5, 1), (5, 3), (5, 5)]
    assert ended(one) == []


# -- the layout ------------------------------------------------------------------------------------


def test_key_of_fewer_groups_has_one_in_the_place_of_those_that_it_does_not_have() -> None:
    for info, means in ((0x02, 0x61), (0x42, 0x62), (0x82, 0x61), (0x92, 0x62)):
        part = bytearray(xserver.keyboard(0, {8: [(1, [0x61]), (1, [0x62])]}, {}))
        types = sum(8 + 8 * len(entries) for _, entries in xserver.KEY_TYPES.values())
        part[40 + types + 4] = info
        assert Keymap(bytes(part)).means(8, xkb.KeyState(0, 0, 2, 2)) == means


def test_type_with_many_combinations_costs_little() -> None:
    """Each key that is pressed looks through them."""
    part = bytearray(xserver.keyboard(0, {8: [(1, [0x61])]}, {}))
    part[45] = 255
    part[48:48] = bytes((1, 5, 1, 5, 0, 0, 0, 0)) * 255
    keymap = Keymap(bytes(part))
    assert len(keymap._types[0].entries) == 8 * ENTRIES_MAX and keymap.means(8, xkb.NO_STATE) == 0x61


@pytest.mark.parametrize("size", [40, 60, 120, 300, 2000])
def test_layout_that_is_not_whole_ends_the_connection(size: int) -> None:
    whole = xserver.keyboard(0, GERMAN, MODIFIERS)
    with pytest.raises(RemoteProtocolError, match="incomplete"):
        Keymap(whole[:size])
    with pytest.raises(RemoteProtocolError, match="incomplete"):
        Keymap(whole[:17] + b"\x20" + whole[18:])


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("groups", [0, 1])
def test_keysyms_of_a_key_without_levels_mean_nothing(before: int, groups: int) -> None:
    keys = bytearray(xserver.keyboard(0, {8: [(1, [0x61])], 9: [(1, [0xFFE1])], 10: [(1, [0x62])]}, {}))
    at = 40 + sum(8 + 8 * len(entries) for _, entries in xserver.KEY_TYPES.values()) + 12 * before
    keys[at + 4 : at + 6] = bytes((groups, 0))
    keymap = Keymap(bytes(keys))
    assert (keymap.find((0x61,), xkb.NO_STATE) is None, keymap.levels == set()) == (before == 0, before == 1)
    found = keymap.find((0x62,), xkb.NO_STATE)
    assert found is not None and found.keycode == 10


def test_character_of_a_keysym_is_the_one_that_it_is_the_keysym_of() -> None:
    for char in "aÄ€йś日’":
        assert char_of(keysym_of(char)) == char
    assert char_of(0xFF0D) == ""
