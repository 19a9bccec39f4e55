"""What had no room in the guest's memory is shown once there is some."""

from __future__ import annotations

import asyncio
import os

import pytest

from millrace.budget import Budget
from millrace.guest.machines import refit
from millrace.guest.machines.refit import Refit
from millrace.units import HostNs
from tests.fuzz import xserver
from tests.unit.test_x11 import FIRST_COPY, Bounded


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
