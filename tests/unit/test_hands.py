"""What a viewer types: long texts in turns, everything else in its order behind them, bounded and charged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from millrace.graph.lights import CAPS
from millrace.graph.pictures import Characters, KeyPress, ScreenSource
from millrace.graph.share import SLICE_NS
from millrace.guest.hands import AT_ONCE, CHARS_MAX, INPUTS_MAX
from millrace.pixels.rects import Rect
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import TEXT_MAX, Key, Pointer, SizeWish, TakeKeyboard, Text, Watch
from tests.watch import Desk, Painter, Remote

LONG = Text("a" * TEXT_MAX)
TICK_NS = 20_000
A = [(0x1E, True, "a"), (0x1E, False)]


class Room:
    """A guest with a screen, and a viewer that has the keyboard."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.screen: Painter = self.desk.add()
        self._clock_ns = 0
        self.screen.fill(Rect(0, 0, 9, 9), 7, self.desk.now_ns)
        self.anna = Remote(self.desk, Watch(name="anna", formats=["raw"], keyboard=True))
        self.desk.run(60)

        self.desk.turns.clock = self._tick

    def _tick(self) -> int:
        """Each look at the clock takes a while, so that turns end."""
        self._clock_ns += TICK_NS
        return self._clock_ns

    def begin(self) -> int:
        """One round; returns how many letters of a long text were typed in it."""
        self.desk.turns._round()
        typed = len(self.typed) // 2
        assert self.typed == A * typed and 0 < typed <= SLICE_NS // TICK_NS
        return typed

    def end(self) -> int:
        """Rounds until nobody waits; returns their number."""
        return self.desk.turns.run()

    @property
    def typed(self) -> list[object]:
        return self.screen.typed

    @property
    def charged(self) -> int:
        return self.anna.session.account.part("typing")

    def faults(self) -> list[str]:
        """What anna was told, after all that waits."""
        self.desk.run(30)
        return [fault.message for fault in self.anna.news(Fault)]


@pytest.fixture
def room() -> Iterator[Room]:
    yield Room()


def test_long_text_is_typed_in_turns_and_charged_while_it_waits(room: Room) -> None:
    room.anna.say(LONG)
    assert not room.typed and room.charged > TEXT_MAX
    room.begin()
    assert room.charged > TEXT_MAX and room.end() > TEXT_MAX * TICK_NS // SLICE_NS - 2
    assert room.typed == A * TEXT_MAX
    assert not room.charged and not room.anna.session.keyboard.hands.waiting and not room.faults()


def test_short_text_is_typed_at_once(room: Room) -> None:
    room.anna.say(Text("a" * AT_ONCE))
    assert room.typed == A * AT_ONCE and not room.charged
    room.anna.say(Text(""))
    assert len(room.typed) == 2 * AT_ONCE


def test_what_is_done_during_a_text_comes_after_it_in_its_order(room: Room) -> None:
    room.anna.say(LONG)
    begun = room.begin()
    room.anna.say(Key(0x1C, True))
    room.anna.say(Text("b"))
    room.anna.say(Pointer(5, 6, 1))
    room.anna.say(Key(0x1C, False))
    room.anna.say(SizeWish(800, 600))
    assert room.typed == A * begun
    room.end()
    after = [(0x1C, True), (0x30, True, "b"), (0x30, False), (5, 6, 1, False), (0x1C, False), (800, 600)]
    assert room.typed == [*A * TEXT_MAX, *after]
    room.anna.say(Key(0x30, True))
    assert room.typed[-1] == (0x30, True), "at once again"


def test_movements_that_wait_are_joined_and_buttons_are_not(room: Room) -> None:
    room.anna.say(LONG)
    for x in range(50):
        room.anna.say(Pointer(x, 1, 0))
    for _ in range(50):
        room.anna.say(Pointer(2, -1, 1, relative=True))
    room.anna.say(Pointer(9, 9, 1))
    for _ in range(3):
        room.anna.say(Pointer(10_000, 0, 0, relative=True))
    room.end()
    moved = [(49, 1, 0, False), (100, -50, 1, True), (9, 9, 1, False)]
    assert room.typed[2 * TEXT_MAX :] == [*moved, (10_000, 0, 0, True), (10_000, 0, 0, True), (10_000, 0, 0, True)]


def test_only_the_newest_size_that_is_wished_for_waits(room: Room) -> None:
    room.anna.say(LONG)
    for width in range(100, 100 + 2 * INPUTS_MAX):
        room.anna.say(SizeWish(width, 600))
        if width % 20 == 0:
            room.anna.say(Key(0x1C, width % 40 == 0))
    assert room.anna.session.keyboard.hands.waiting < INPUTS_MAX // 4
    room.end()
    sizes = [one for one in room.typed if one[1] == 600]  # type: ignore[index]
    assert sizes == [(99 + 2 * INPUTS_MAX, 600)] and not room.faults()


def test_taking_over_the_keyboard_stops_what_is_left(room: Room) -> None:
    ben = Remote(room.desk, Watch(name="ben"))
    room.desk.run(30)
    room.anna.say(LONG)
    begun = room.begin()
    room.anna.say(Key(0x1C, True))
    ben.say(TakeKeyboard(True))
    ben.say(Key(0x30, True))
    room.end()
    assert room.typed == [*A * begun, (0x30, True)] and not room.charged


def test_whoever_leaves_or_loses_the_screen_types_no_more(room: Room) -> None:
    other = Remote(room.desk, Watch(name="ben"))
    room.desk.run(30)
    other.say(TakeKeyboard(True))
    other.say(LONG)
    other.leave()
    room.anna.say(TakeKeyboard(True))
    room.anna.say(LONG)
    room.desk.remove(room.screen)
    room.end()
    assert not room.typed and not room.charged and not room.anna.session.keyboard.hands.waiting


def test_keyboard_that_went_otherwise_stops_the_text(room: Room) -> None:
    """Not by way of `Viewers`: the seat is asked before each key."""
    room.anna.say(LONG)
    room.desk.home.screens.seat.leave(room.anna.session.who)
    room.end()
    assert not room.typed and not room.charged


def test_too_much_text_is_refused_and_what_waits_is_typed(room: Room) -> None:
    for _ in range(CHARS_MAX // TEXT_MAX + 1):
        room.anna.say(LONG)
    told = room.faults()
    assert len(told) == 1 and "65,536 characters still wait; there is no room for 4,096 more" in told[0]
    room.end()
    assert room.typed == A * CHARS_MAX and room.charged == 0
    room.anna.say(Text("a"))
    assert len(room.typed) == 2 * CHARS_MAX + 2


def test_what_was_typed_makes_room_for_more_text(room: Room) -> None:
    for _ in range(CHARS_MAX // TEXT_MAX):
        room.anna.say(LONG)
    while len(room.typed) < 2 * TEXT_MAX:
        room.desk.turns._round()
    room.anna.say(LONG)
    assert not room.faults()
    room.end()
    assert room.typed == A * (CHARS_MAX + TEXT_MAX)


def test_too_many_keys_behind_a_text_drop_it_and_release_all(room: Room) -> None:
    room.anna.say(Key(0x1D, True))
    room.anna.say(LONG)
    for n in range(INPUTS_MAX):
        room.anna.say(Key(0x30, n % 2 == 0))
    told = room.faults()
    assert len(told) == 1 and "too much waits" in told[0]
    room.end()
    assert room.typed == [(0x1D, True), (0x1D, False)] and room.charged == 0


def test_text_without_room_in_the_budget_is_refused(room: Room) -> None:
    budget = room.desk.home.admission.budget
    budget.limit = budget.held + 1000
    room.anna.say(LONG)
    assert len(told := room.faults()) == 1 and "there is no room for 4,096 more" in told[0]
    room.end()
    assert not room.typed


def test_characters_without_a_key_are_typed_where_the_machine_takes_them(room: Room) -> None:
    room.anna.say(Text("aö’😀\x1b"))
    assert room.typed == A and "no key for 'ö’😀" in room.faults()[0]
    room.screen.screen.characters = Characters.OTHERS
    room.anna.say(Text("aö"))
    assert room.typed[2:] == [*A, (0, True, "ö"), (0, False)] and not room.faults()
    room.anna.say(Text("\x1bö"))
    assert room.typed[6:] == [(0, True, "ö"), (0, False)], "no keyboard has the character ESC"
    assert "no key for '\\x1b'; the rest" in room.faults()[0]
    room.screen.screen.characters = Characters.ALL
    room.anna.say(Text("a\n"))
    assert room.typed[8:] == [(0, True, "a"), (0, False), (0x1C, True), (0x1C, False)] and not room.faults()


def test_text_is_typed_without_caps_lock(room: Room) -> None:
    room.screen.screen.lights.told(CAPS)
    room.anna.say(Text("1ab"))
    lock, b = [(0x3A, True), (0x3A, False)], [(0x30, True, "b"), (0x30, False)]
    assert room.typed == [(2, True, "1"), (2, False), *lock, *A, *b]


def test_character_that_only_looks_like_a_keysym_is_refused(room: Room) -> None:
    """U+FF08 is a bracket; as a keysym, 0xFF08 is the backspace key."""
    room.anna.say(Text("（"))
    assert "no key for '（'" in room.faults()[0] and not room.typed


def test_source_is_that_of_the_screen(room: Room) -> None:
    source: ScreenSource = room.screen
    room.anna.session.keyboard.hands.key(source, KeyPress(0x1E, True))
    assert room.anna.session.keyboard.hands.keys == (0x1E,)


def test_letter_and_its_accent_are_typed_as_one_character(room: Room) -> None:
    room.screen.screen.characters = Characters.ALL
    room.anna.say(Text("e\u0301q"))
    assert room.typed == [(0, True, "é"), (0, False), (0, True, "q"), (0, False)]


def test_letter_whose_lock_has_taken_the_room_waits_for_more(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms, waits = [True, False], list[Callable[[], None]]()

    def takes(key: bool, again: Callable[[], None]) -> bool:
        has = not rooms or rooms.pop(0)
        if not has:
            waits.append(again)
        return has

    monkeypatch.setattr(room.screen, "takes", takes)
    room.screen.screen.lights.told(CAPS)
    room.anna.say(Text("a"))
    lock = [(0x3A, True), (0x3A, False)]
    assert room.typed == lock and len(waits) == 1
    waits[0]()
    room.end()
    assert room.typed == [*lock, *A]


def test_size_that_the_guest_has_no_room_to_show_is_refused_and_not_passed_on(room: Room) -> None:
    room.anna.say(SizeWish(7680, 4320))
    (told,) = room.faults()
    assert told.startswith("a screen of 7680 × 4320 takes 421 MiB to show, and guest")
    assert not room.typed
    room.anna.say(SizeWish(3840, 2160))
    room.desk.home.admission.budget.limit = 1000
    room.anna.say(SizeWish(9, 9))
    assert room.typed == [(3840, 2160), (9, 9)] and not room.faults(), "a smaller one takes no more"
