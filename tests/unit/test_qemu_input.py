"""Keys, the pointer and wishes for a size on their way to QEMU's console."""

from __future__ import annotations

from millrace.doors.qemu.input import KEYS_UNANSWERED, MOTION_WAITS, MOVED_MAX, UNANSWERED_MAX
from millrace.graph.pictures import KeyPress
from millrace.pixels.rects import Point, Size
from tests.qemuconsole import Rig, noise


def sized(rig: Rig) -> Rig:
    rig.console.scanout(noise(64, 48))
    rig.step()
    return rig


def test_keys_arrive_by_number_and_those_held_are_released_at_the_end() -> None:
    rig = Rig()
    rig.door.key(KeyPress(0x1E, True))
    rig.door.key(KeyPress(0x1E, True))
    rig.door.key(KeyPress(0xC8, True))
    rig.door.key(KeyPress(0xC8, False))
    rig.door.key(KeyPress(0x1234, True))
    assert rig.client.calls == [("Press", [0x1E]), ("Press", [0x1E]), ("Press", [0xC8]), ("Release", [0xC8])]
    rig.door.close()
    assert rig.client.calls[4:] == [("Release", [0x1E])]


def test_positions_are_kept_within_the_screen_and_precede_buttons() -> None:
    rig = sized(Rig())
    rig.door.pointer(Point(10, 20), 0, False)
    rig.door.pointer(Point(100, -3), 0b101, False)
    rig.door.pointer(Point(63, 0), 0b100, False)
    assert rig.client.calls == [
        ("SetAbsPosition", [10, 20]), ("SetAbsPosition", [63, 0]), ("Press", [0]), ("Press", [2]), ("Release", [0]),
    ]  # fmt: skip
    rig.door.close()
    assert rig.client.calls[5:] == [("Release", [2])]


def test_notch_of_the_wheel_is_one_press() -> None:
    rig = sized(Rig())
    for buttons in (0b1000, 0, 0b10000, 0, 0x80, 0, 0x100, 0):
        rig.door.pointer(Point(0, 0), buttons, False)
    assert rig.client.calls == [("Press", [3]), ("Release", [3]), ("Press", [4]), ("Release", [4]),
                                ("Press", [7]), ("Release", [7]), ("Press", [8]), ("Release", [8])]  # fmt: skip


def test_pointer_follows_what_the_guest_takes() -> None:
    rig = sized(Rig())
    rig.door.set_absolute(False)
    assert rig.screen.relative
    rig.door.pointer(Point(5, 6), 0, True)
    rig.door.pointer(Point(-2, 1), 0, True)
    rig.door.pointer(Point(10, 10), 0, False)
    moves = [values for member, values in rig.client.calls if member == "RelMotion"]
    assert moves == [[5, 6], [-2, 1], [7, 3]]
    rig.door.set_absolute(True)
    assert not rig.screen.relative
    rig.door.pointer(Point(2, -3), 0, True)
    assert rig.client.calls[-1] == ("SetAbsPosition", [12, 7])


def test_movements_are_joined_while_qemu_does_not_answer_and_none_is_lost() -> None:
    rig = sized(Rig())
    rig.door.set_absolute(False)
    for _ in range(20):
        rig.door.pointer(Point(1, 2), 0, True)
    assert len(rig.client.calls) == MOTION_WAITS + 1
    rig.client.unanswered = 0
    rig.input.send_motion()
    sums = [sum(values[i] for _, values in rig.client.calls) for i in range(2)]
    assert sums == [20, 40]


def test_movements_that_add_up_while_qemu_does_not_answer_fit_into_a_call() -> None:
    rig = sized(Rig())
    rig.door.set_absolute(False)
    rig.client.unanswered = MOTION_WAITS + 1
    for _ in range(3):
        rig.door.pointer(Point(2**31 - 1, -(2**31)), 0, True)
    rig.client.unanswered = 0
    rig.input.send_motion()
    assert rig.client.calls[-1] == (rig.client.calls[-1][0], [MOVED_MAX, -MOVED_MAX])


def test_clicks_are_dropped_while_qemu_hangs_and_releases_are_not() -> None:
    rig = sized(Rig())
    rig.door.pointer(Point(1, 1), 1, False)
    rig.client.unanswered = UNANSWERED_MAX
    rig.door.pointer(Point(9, 9), 0b11, False)
    rig.door.pointer(Point(9, 9), 0b10, False)
    rig.door.size_wish(Size(800, 600))
    assert [member for member, _ in rig.client.calls] == ["SetAbsPosition", "Press", "Release"]


def test_there_is_no_room_while_qemu_has_not_answered_and_who_waits_is_told_of_its_end() -> None:
    rig, told = Rig(), list[int]()
    for n in range(KEYS_UNANSWERED):
        assert rig.door.takes(True, lambda: told.append(-1))
        rig.door.key(KeyPress(0x02 + n, True))
    assert not rig.door.takes(False, lambda: told.append(0)) and not rig.door.takes(True, lambda: told.append(1))
    rig.client.unanswered -= 1
    rig.input.room.tell()
    assert not told, "its guest's keyboard is as full as before"
    rig.input.room.pace()
    assert told == [1]
    rig.client.unanswered = KEYS_UNANSWERED
    assert not rig.door.takes(True, lambda: told.append(2))
    rig.door.close()
    assert told == [1, 2] and rig.screen.ended


def test_size_is_a_wish() -> None:
    rig = Rig()
    rig.door.size_wish(Size(1024, 768))
    rig.door.size_wish(Size(0, 768))
    assert rig.client.calls == [("SetUIInfo", [0, 0, 0, 0, 1024, 768])]
