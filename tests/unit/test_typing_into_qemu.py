"""What viewers type into a QEMU machine, which takes a hundred keys a second: it waits in one place, in its order."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from millrace.doors.inputroom import AHEAD_MAX, AT_ONCE
from millrace.doors.qemu.input import KEYS_UNANSWERED, ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.guest.hands import INPUTS_MAX
from millrace.io.sharedpicture import shared_picture
from millrace.sim.qemuscreen import FakeConsole, exchange
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import TEXT_MAX, Key, Pointer, TakeKeyboard, Text, Watch
from millrace.wire.qemu.client import Console
from millrace.wire.qemu.display import ScreenPeer
from tests.qemuconsole import Sent, noise
from tests.watch import Desk, Remote

A, B, CONTROL, SHIFT = 0x1E, 0x30, 0x1D, 0x2A
LETTER = [("Press", [A]), ("Release", [A])]
LONG = Text("a" * TEXT_MAX)


class Room:
    """A QEMU machine's screen, a viewer that has the keyboard, and one that has not."""

    def __init__(self) -> None:
        self.desk, self.client, self.hangs = Desk(), Sent(), False
        self.input = ConsoleInput(self.client, 2, lambda: None)
        peer, console = ScreenPeer(1000, os.close), FakeConsole()
        self.door = QemuScreen(
            self.desk.home.screens, peer, Console(2, "virtio-vga", 0, True), "door/9", self.input, shared_picture
        )
        exchange(console, peer, peer.take)
        console.scanout(noise(64, 48))
        exchange(console, peer, lambda: self.door.receive(self.desk.now_ns))
        self.door.publish()
        self.door.receive(self.desk.now_ns)
        self.anna = Remote(self.desk, Watch(name="anna", formats=["raw"], keyboard=True))
        self.ben = Remote(self.desk, Watch(name="ben", formats=["raw"]))
        self.desk.run(60)
        assert not self.calls

    @property
    def calls(self) -> list[tuple[str, list[int]]]:
        """What was sent to QEMU."""
        return self.client.calls

    def pace(self, number: int = 1) -> None:
        """So many times 10 ms pass."""
        for _ in range(number):
            if self.input.room.pacing:
                self.input.room.pace()
            if not self.hangs:
                self.answer()
            self.desk.run(10)

    def answer(self) -> None:
        """QEMU has taken all that it was sent."""
        self.client.unanswered = 0
        self.input.send_motion()
        self.input.room.tell()

    def charged(self, of: Remote) -> int:
        return of.session.account.part("typing")

    def faults(self) -> list[str]:
        self.desk.run(30)
        return [fault.message for fault in self.anna.news(Fault)]


@pytest.fixture
def room() -> Room:
    return Room()


def test_text_is_typed_whole_at_a_hundred_keys_a_second_and_charged_while_it_waits(room: Room) -> None:
    room.anna.say(LONG)
    room.desk.run(5)
    assert room.calls == LETTER * (AT_ONCE // 2) and room.charged(room.anna) > TEXT_MAX
    room.pace(1000)
    assert 1000 <= len(room.calls) <= 1000 + AT_ONCE + AHEAD_MAX and room.charged(room.anna) > TEXT_MAX
    room.pace(2 * TEXT_MAX - 1000)
    assert room.calls == LETTER * TEXT_MAX and not room.charged(room.anna) and not room.faults()
    room.pace(AT_ONCE + AHEAD_MAX)
    assert not room.input.room.pacing, "nothing more is due"


def test_capitals_have_their_shift(room: Room) -> None:
    room.anna.say(Text("A" * 50))
    room.pace(200)
    capital = [("Press", [SHIFT]), *LETTER, ("Release", [SHIFT])]
    assert room.calls == capital * 50


def test_taking_over_the_keyboard_drops_what_is_left_and_the_next_key_follows_at_once(room: Room) -> None:
    room.anna.say(Key(CONTROL, True))
    room.anna.say(LONG)
    room.pace(100)
    typed = list(room.calls)
    room.ben.say(TakeKeyboard(True))
    assert room.calls == [*typed, ("Release", [CONTROL])] and not room.charged(room.anna), "before time passes"
    room.ben.say(Key(B, True))
    room.ben.say(Key(B, False))
    room.pace(AHEAD_MAX)
    assert room.calls[len(typed) + 1 :] == [("Press", [B]), ("Release", [B])]
    room.pace(500)
    assert len(room.calls) == len(typed) + 3


def test_next_viewer_does_not_wait_for_many_keys_that_were_held(room: Room) -> None:
    for code in range(2, 52):
        room.anna.say(Key(code, True))
        room.pace()
    room.ben.say(TakeKeyboard(True))
    assert len(room.calls) == 100, "all are released at once"
    room.ben.say(Key(B, True))
    room.pace(AHEAD_MAX + 2)
    assert room.calls[-1] == ("Press", [B])


def test_click_and_key_come_after_the_text(room: Room) -> None:
    room.anna.say(Text("a" * 100))
    room.anna.say(Pointer(5, 6, 1))
    room.anna.say(Key(B, True))
    room.pace(300)
    assert room.calls == [*LETTER * 100, ("SetAbsPosition", [5, 6]), ("Press", [0]), ("Press", [B])]
    room.anna.say(Pointer(7, 6, 1))
    assert room.calls[-1] == ("SetAbsPosition", [7, 6]), "at once again"


def test_keys_in_quick_succession_wait_in_order_and_a_release_needs_no_room(room: Room) -> None:
    for code in range(2, 2 + AT_ONCE):
        room.anna.say(Key(code, True))
    room.anna.say(Key(2, False))
    assert room.calls[AT_ONCE:] == [("Release", [2])] and not room.charged(room.anna)
    room.anna.say(Key(B, True))
    room.anna.say(Key(3, False))
    assert len(room.calls) == AT_ONCE + 1 and room.charged(room.anna)
    room.pace(AHEAD_MAX)
    assert room.calls[AT_ONCE + 1 :] == [("Press", [B]), ("Release", [3])] and not room.charged(room.anna)


ENDS: dict[str, Callable[[Room], None]] = {
    "gives it up": lambda room: room.anna.say(TakeKeyboard(False)),
    "is taken over": lambda room: room.ben.say(TakeKeyboard(True)),
    "leaves": lambda room: room.anna.leave(),
    "seat is lost otherwise": lambda room: room.desk.home.screens.seat.leave(room.anna.session.who),
    "machine is gone": lambda room: room.door.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_the_typing_takes_what_waits_and_its_charge(room: Room, end: str) -> None:
    held = room.desk.home.admission.budget.held
    room.anna.say(LONG)
    room.pace(20)
    typed = len(room.calls)
    assert room.charged(room.anna) > TEXT_MAX and room.desk.home.admission.budget.held > held + TEXT_MAX
    ENDS[end](room)
    room.pace(5)
    assert len(room.calls) == typed and not room.charged(room.anna) and not room.anna.session.keyboard.hands.waiting
    assert room.desk.home.admission.budget.held <= held


def test_machine_that_hangs_is_sent_no_keys_and_what_waits_is_bounded(room: Room) -> None:
    room.hangs = True
    room.anna.say(Key(CONTROL, True))
    room.anna.say(LONG)
    room.pace(1000)
    assert room.client.unanswered <= KEYS_UNANSWERED + 1, "its guest's keyboard has room for 16"
    assert not room.input.room.pacing
    sent = len(room.calls)
    for n in range(INPUTS_MAX):
        room.anna.say(Key(B, n % 2 == 0))
    assert [fault for fault in room.faults() if "too much waits to be typed" in fault]
    assert room.calls[sent:] == [("Release", [CONTROL])] and not room.charged(room.anna)
    room.anna.say(Text("b"))
    room.hangs = False
    room.pace(AHEAD_MAX + 2)
    assert room.calls[sent + 1 :] == [("Press", [B]), ("Release", [B])], "it goes on when QEMU has answered"
