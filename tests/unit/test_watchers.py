"""Watchers: who gives up what it holds for another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from millrace.budget import MIB, PROGRAMS, Budget
from millrace.rights.model import Principal, Right
from millrace.server.http.watchers import DISPLACED, READ_SOON, WATCHER_BYTES, Place, Watchers
from millrace.symptoms import Symptom

ONE, OTHER = (Principal(f"token/{n}", Right.SEE, frozenset({"alice"})) for n in (1, 2))


class Rig:
    """A guest whose watchers may hold 16 MiB. One holds 14 of them, another has come."""

    def __init__(self) -> None:
        self.budget, self.reports = Budget("guest alice", 64 * MIB), list[Symptom]()
        plane: Any = SimpleNamespace(budget_of=lambda who: self.budget, report=self.reports.append)
        self.watchers = Watchers(plane, cast(Any, None))
        self.told: list[str] = []
        self.most, self.other = self._place(ONE), self._place(OTHER)
        assert self.watchers._hold(self.most, 14 * MIB)

    def _place(self, who: Principal) -> Place:
        place = Place(who, self.budget, "watcher", False)
        self.watchers._watchers[place] = cast(Any, SimpleNamespace(end=self.told.append))
        return place


def test_watcher_in_its_handshake_is_not_asked_for_what_it_holds() -> None:
    rig = Rig()
    assert not rig.watchers._hold(rig.other, 2 * MIB) and not rig.told
    rig.most.connected = True
    assert rig.watchers._hold(rig.other, 2 * MIB) and rig.told == [DISPLACED] and not rig.most.account.held


def test_watcher_is_given_up_for_what_another_needs_more_and_not_for_all_that_it_holds() -> None:
    rig = Rig()
    rig.most.connected = True
    assert rig.watchers._hold(rig.other, MIB) and rig.watchers._hold(rig.other, 3 * MIB // 2)
    assert not rig.told and rig.other.account.part("waiting") == 3 * MIB // 2 - READ_SOON


def test_watcher_of_a_full_guest_is_told_of_a_change_and_nobody_is_asked_for_it() -> None:
    rig = Rig()
    rig.most.connected = True
    rig.budget.open("stream", {"queue": int(rig.budget.limit * PROGRAMS) - rig.budget.held})
    assert rig.watchers._hold(rig.other, 4000) and not rig.told and not rig.reports
    assert rig.other.account.held == WATCHER_BYTES
    rig.most.connected = False
    assert not rig.watchers._hold(rig.other, READ_SOON + 1) and not rig.told and len(rig.reports) == 1
