"""Whoever types waits for room, in virtual time: it comes back with time, when a server reads on, and at the end."""

from __future__ import annotations

import asyncio

import pytest

from millrace.budget import LISTENERS, Budget
from millrace.doors.inputroom import AT_ONCE, InputRoom
from millrace.doors.qemu.input import KEYS_UNANSWERED
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.guest.hands import Hands
from millrace.guest.machines.consoles import Shown
from millrace.guest.machines.paced import PACE_S, Paced
from millrace.io.later import Later
from millrace.io.turns import Turns
from millrace.pixels.rects import Size
from millrace.rights.model import OWNER
from millrace.wire.peer.pictures import TEXT_MAX, Key, Text
from tests import virtual
from tests.qemuconsole import Rig, noise

A, LEFT = 0x1E, Size(64, 48)
WHO = Watcher("viewer/1", OWNER)


def hands_of(screens: Screens, budget: Budget, turns: Turns) -> Hands:
    screens.seat.take(WHO)
    return Hands(turns, budget.open("viewer", {"itself": 1}, LISTENERS))


def test_later_calls_once_a_time_after_it_was_begun_last() -> None:
    async def main() -> None:
        loop, called = asyncio.get_running_loop(), list[float]()
        later, began = Later(lambda: called.append(loop.time())), loop.time()
        later.begin(1)
        await asyncio.sleep(0.5)
        later.begin(1)
        await asyncio.sleep(2)
        assert called == [pytest.approx(began + 1.5, abs=0.01)] and not later.begun
        later.begin(1)
        later.close()
        await asyncio.sleep(2)
        assert len(called) == 1

    virtual.run(main())


def test_room_for_a_key_comes_back_each_pace_and_not_while_the_machine_is_full() -> None:
    async def main() -> None:
        full, told = [False], list[str]()
        room = InputRoom(lambda: full[0])
        paced = Paced(room)
        for _ in range(AT_ONCE + 2):
            room.used()
        paced.go_on()
        assert not room.takes(True, lambda: told.append("room"))
        await asyncio.sleep(2.5 * PACE_S)
        assert not told
        full[0] = True
        await asyncio.sleep(100 * PACE_S)
        assert not told and not room.pacing
        full[0] = False
        paced.relieved()
        await asyncio.sleep(1.5 * PACE_S)
        assert told == ["room"]
        await asyncio.sleep(2 * AT_ONCE * PACE_S)
        assert not room.pacing
        full[0] = True
        assert not room.takes(True, lambda: told.append("end"))
        paced.close()
        assert told == ["room", "end"]

    virtual.run(main())


class Typing:
    """A console of QEMU that is shown, and a viewer who types into it; QEMU answers when told to."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.rig.console.scanout(noise(64, 48))
        self.rig.step()
        self.shown = Shown(self.rig.door, lambda: None, lambda: None)
        self.rig.input._flush = self.shown.typed
        self.hands = hands_of(self.rig.screens, self.rig.budget, Turns())
        self.calls = self.rig.client.calls

    def say(self, event: Key | Text) -> None:
        self.hands.control(event, WHO, self.rig.screen, LEFT)

    async def answer(self, paces: int) -> None:
        """QEMU answers at once, for so long."""
        for _ in range(paces):
            self.rig.client.unanswered = 0
            self.shown.answered()
            await asyncio.sleep(PACE_S)


def test_text_goes_into_a_console_in_its_pace() -> None:
    async def main() -> None:
        one = Typing()
        one.say(Text("a" * 500))
        await one.answer(100)
        assert 100 <= len(one.calls) <= 100 + AT_ONCE + 2
        await one.answer(1000)
        assert one.calls == [("Press", [A]), ("Release", [A])] * 500 and not one.hands.waiting
        one.shown.close()

    virtual.run(main())


def test_a_console_that_does_not_answer_is_sent_few_keys_and_goes_on_when_it_does() -> None:
    async def main() -> None:
        one = Typing()
        one.say(Text("a" * 500))
        one.rig.client.unanswered = KEYS_UNANSWERED
        await asyncio.sleep(0)
        sent = len(one.calls)
        await asyncio.sleep(10_000 * PACE_S)
        assert len(one.calls) == sent and one.hands.waiting
        await one.answer(1100)
        assert len(one.calls) == 1000 and not one.hands.waiting
        one.shown.close()

    virtual.run(main())


def test_what_waits_for_a_console_that_goes_is_dropped_at_once_and_nothing_is_timed() -> None:
    async def main() -> None:
        one = Typing()
        one.say(Text("a" * TEXT_MAX))
        await asyncio.sleep(10 * PACE_S)
        sent = len(one.calls)
        one.shown.close()
        assert one.rig.screen.ended
        await asyncio.sleep(0)
        assert not one.hands.waiting and len(one.calls) == sent
        await asyncio.sleep(100 * PACE_S)
        assert len(one.calls) == sent

    virtual.run(main())
