"""Room for what is typed: so many keys at once, one more with each pace, and none while the machine does not read."""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.inputroom import AHEAD_MAX, AT_ONCE, InputRoom


class Kept:
    """A room, whether its machine is full, and who was told."""

    def __init__(self) -> None:
        self.full = False
        self.told: list[str] = []
        self.room = InputRoom(lambda: self.full)

    def waiter(self, name: str) -> Callable[[], None]:
        return lambda: self.told.append(name)

    def use(self, number: int) -> None:
        for _ in range(number):
            self.room.used()


def test_room_for_keys_comes_back_with_time_and_the_last_who_waits_is_told_once() -> None:
    one = Kept()
    assert not one.room.pacing
    for _ in range(AT_ONCE):
        assert one.room.takes(True, one.waiter("nobody"))
        one.use(1)
    assert not one.room.takes(True, one.waiter("first")) and not one.room.takes(True, one.waiter("last"))
    assert one.room.takes(False, one.waiter("nobody")), "the pointer needs no pace"
    one.room.tell()
    assert not one.told and one.room.pacing
    for _ in range(AT_ONCE):
        one.room.pace()
    assert one.told == ["last"] and not one.room.pacing


def test_what_was_sent_without_room_is_made_up_for_within_bounds() -> None:
    one = Kept()
    one.use(AT_ONCE + 100)
    assert not one.room.takes(True, one.waiter("typist"))
    for _ in range(AHEAD_MAX):
        one.room.pace()
    assert not one.told
    one.room.pace()
    assert one.told == ["typist"]


def test_full_machine_takes_nothing_and_is_not_paced() -> None:
    one = Kept()
    one.use(1)
    one.full = True
    assert not one.room.pacing and not one.room.takes(False, one.waiter("mouse"))
    one.room.tell()
    assert not one.told
    one.full = False
    one.room.tell()
    assert one.told == ["mouse"] and one.room.pacing


def test_end_tells_whoever_waits_whether_there_is_room_or_not() -> None:
    one = Kept()
    one.full = True
    assert not one.room.takes(True, one.waiter("typist"))
    one.room.end()
    one.room.end()
    assert one.told == ["typist"]


def test_machine_that_is_gone_is_not_full() -> None:
    one = Kept()
    one.full = True
    assert not one.room.takes(False, one.waiter("who waits"))
    one.room.close()
    assert one.told == ["who waits"] and one.room.takes(False, one.waiter("nobody"))
