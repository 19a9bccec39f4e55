"""What had no room in the guest's memory is shown once there is some."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from millrace.budget import Budget
from millrace.doors.x11.door import X11Door
from millrace.graph.model import Ids
from millrace.graph.screens import Screens
from millrace.guest.machines import refit
from millrace.guest.machines.refit import Refit
from millrace.pixels.rects import Point, Size
from millrace.units import HostNs
from millrace.wire.x11.events import CursorShape
from tests.fuzz import vncserver, xserver
from tests.fuzz.vncserver import noise
from tests.unit.test_vnc_pictures import HEIGHT, WIDTH
from tests.unit.test_vnc_screen import Hall, hall
from tests.unit.test_x11 import FIRST_COPY, Bounded, Served, inside


class Narrow:
    """A screen that has room at the third try."""

    def __init__(self) -> None:
        self.trouble, self.tries = "", 0

    def fit(self, now_ns: HostNs) -> None:
        self.tries += 1
        if self.tries == 3:
            self.trouble = ""


def test_room_is_looked_for_as_long_as_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "AGAIN_S", 0.0)
    screen, told = Narrow(), list[str]()

    async def main() -> None:
        one = Refit(screen, lambda: told.append(screen.trouble))
        one.look()
        assert not one._later.begun and not told
        screen.trouble = "no room"
        for _ in range(3):
            one.look()
        for _ in range(20):
            await asyncio.sleep(0)
        assert screen.tries == 3 and told == ["no room", ""] and not one._later.begun
        screen.trouble = "no room"
        one.look()
        one.close()
        for _ in range(20):
            await asyncio.sleep(0)
        assert screen.tries == 3

    asyncio.run(main())


def test_display_without_room_is_shown_once_there_is_room_and_all_of_it_is_copied() -> None:
    one, copy = Bounded(), FIRST_COPY + xserver.ASKED
    one.turns(xserver.attached(xserver.ATTACHED + xserver.ASKED))
    one.turns(xserver.copied(copy))
    one.turns(xserver.resized(400, 400))
    asked, given, refusals = copy + 2 + 3, len(one.memories), one.budget.refusals
    one.turns(xserver.attached(asked))
    one.budget.open("film").may_spare(lambda: pytest.fail("a question is no demand"))
    one.door.fit(0)
    assert one.door.trouble and len(one.memories) == given and one.budget.refusals == refusals
    one.budget.limit = Budget().limit
    one.door.fit(0)
    assert not one.door.trouble and one.account.held == 400 * 400 * 4 == len(one.memories[-1])
    assert one.screen.memory is not None and one.screen.memory.mode.width == 400
    assert one.wire.behind, "all of it is to be copied"
    one.door.fit(0)
    assert len(one.memories) == given + 1
    one.door.close()
    for fd in {*one.files} - {one.files[1]}:
        os.close(fd)


SHAPE = CursorShape(Point(5, 6), Point(1, 2), Size(2, 2), bytes(16))


def test_display_without_room_for_a_screen_is_attached_and_shown_with_its_cursor_once_there_is_room() -> None:
    wire, budget, memory = inside(), Budget(limit=0), bytearray(1_000_000)
    screens = Screens("alice", Ids(), budget)
    door = X11Door(screens, wire, "X", "door/1", lambda size: (5, memoryview(memory)), lambda ready: None, lambda: None)
    wire._events.append(SHAPE)
    door.receive(0)
    assert not screens and "no room for its" in door.trouble
    door.fit(0)
    assert not screens and not budget.held
    budget.limit = Budget().limit
    door.fit(0)
    door.receive(0)
    listed = screens.first
    assert listed is not None and listed.screen.memory is not None and listed.screen.cursor.shown and not door.trouble


def test_server_without_room_for_a_screen_is_attached_and_shown_with_its_cursor_once_there_is_room() -> None:
    one = Hall(limit=0)
    one.says(vncserver.rect(0, 0, WIDTH, HEIGHT, -223))
    one.says(vncserver.cursor(noise(8, 2), b"\xff\xff"))
    screen = one.door.screen
    assert screen is not None and "no room for its" in screen.trouble and not one.screens
    screen.fit(0)
    assert not one.screens and not one.budget.held
    one.budget.limit = Budget().limit
    screen.fit(0)
    assert one.shown.shape == (HEIGHT, WIDTH, 4) and not screen.trouble
    listed = one.screens.first
    assert listed is not None and listed.screen.cursor.shown


def test_cursor_without_room_is_left_out_and_the_one_before_stays(caplog: pytest.LogCaptureFixture) -> None:
    one = hall()
    one.says(vncserver.cursor(noise(8, 2), b"\xff\xff"))
    listed = one.screens.first
    assert listed is not None
    before, one.budget.limit = listed.screen.cursor, one.budget.held
    for _ in range(3):
        one.says(vncserver.cursor(noise(16, 16), bytes(32)))
    assert listed.screen.cursor == before and sum("left out" in r.message for r in caplog.records) == 1
    one.budget.limit = Budget().limit
    one.says(vncserver.cursor(noise(16, 16), bytes(32)))
    assert listed.screen.cursor.shape == before.shape + 1


def test_cursor_of_a_display_without_room_is_left_out_and_the_one_before_stays() -> None:
    one = Served(budget=(budget := Budget()))
    one.wire._events.append(SHAPE)
    one.turns()
    before, budget.limit = one.screen.cursor, budget.held
    larger = replace(SHAPE, size=Size(8, 8), pixels=bytes(256))
    one.wire._events.append(larger)
    one.turns()
    assert one.screen.cursor == before and before.shown
    budget.limit = Budget().limit
    one.wire._events.append(larger)
    one.turns()
    assert one.screen.cursor.shape == before.shape + 1
