"""Incidents: written down once, counted for ever; and a listener's blame, from what it saw."""

from __future__ import annotations

import pytest

from millrace.client.blame import Blame
from millrace.graph.incidents import CAUSES, KEPT, Incidents
from millrace.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS


def ring() -> tuple[Incidents, list[tuple[str, int]]]:
    ids = iter(range(1, 10_000))
    made, seen = Incidents(lambda: next(ids), lambda: 1_000 * NS_PER_S), []
    made.on_change = lambda change, incident: seen.append((change, incident.number))
    return made, seen


def test_the_same_within_a_second_is_one_incident_and_counts() -> None:
    made, seen = ring()
    first = made.record("client", "wrote late", 10 * NS_PER_S, "alice", "stream/1", {"asked_for_ms": 4})
    again = made.record("client", "wrote late", 10 * NS_PER_S + 900 * MS, "alice", "stream/1")
    other = made.record("client", "wrote late", 10 * NS_PER_S + 900 * MS, "alice", "stream/2")
    later = made.record("client", "wrote late", 12 * NS_PER_S, "alice", "stream/1")
    assert again is first and first.count == 2 and len({first.number, other.number, later.number}) == 3
    assert made.totals() == {("alice", "client", "wrote late"): 4}
    assert seen == [("new", 1), ("change", 1), ("new", 2), ("new", 3)]
    view = first.view()
    assert view["id"] == "incident/1" and view["text"] and view["evidence"] == {"asked_for_ms": 4}


def test_the_ring_is_bounded_and_totals_are_not_forgotten() -> None:
    made, seen = ring()
    for n in range(KEPT + 5):
        made.record("store", "can't write", 2 * n * NS_PER_S)
    assert len(made) == KEPT and made.totals()["", "store", "can't write"] == KEPT + 5
    assert [number for change, number in seen if change == "remove"] == [1, 2, 3, 4, 5]


def test_what_is_near_is_of_the_daemon_or_of_the_same_thing() -> None:
    made, _ = ring()
    stall = made.record("loop", "not run", 10 * NS_PER_S)
    made.record("send", "line full", 10 * NS_PER_S, "alice", "listener/1")
    ours, send = frozenset({"loop"}), frozenset({"send"})
    assert made.near(ours, 10 * NS_PER_S + 300 * MS, 600 * MS) is stall
    assert made.near(ours, 11 * NS_PER_S, 600 * MS) is None
    assert made.near(send, 10 * NS_PER_S, NS_PER_S, "listener/2") is None
    assert made.near(send, 10 * NS_PER_S, NS_PER_S, "listener/1") is not None


def test_an_incident_begins_when_it_began_on_the_wall_clock_too() -> None:
    made, _ = ring()
    incident = made.record("loop", "busy", 10 * NS_PER_S, at_ns=10 * NS_PER_S - 500 * MS)
    assert incident.wall_ns == 1_000 * NS_PER_S - 500 * MS
    with pytest.raises(AssertionError):
        made.record("moon", "full", 0)


class Line:
    """A listener's seconds, in steps of 5 ms: ticks, pulls and packets, unless they are held up."""

    def __init__(self) -> None:
        self.blame, self.now, self.sent = Blame(50 * MS), 0, 0

    def run(self, ms: int, loop: bool = True, device: bool = True, line: bool = True, lost: int = 0) -> None:
        for _ in range(ms // 5):
            self.now += 5 * MS
            if loop and self.now % (50 * MS) == 0:
                self.blame.ticked(self.now)
            if device:
                self.blame.pulled(self.now, 5 * MS)
            if line and self.now % (20 * MS) == 0:
                self.sent += lost + 1
                self.blame.arrived(self.now, 20 * MS, self.sent)
                if lost:
                    self.blame.lost(self.now + 10 * MS, lost)
                lost = 0


def test_who_is_to_blame() -> None:
    for held, stage, cause in (
        ({"loop": False, "device": False, "line": False}, "listener", "not run"),
        ({"loop": False, "line": False}, "listener", "not run"),
        ({"device": False}, "device", "late"),
        ({"line": False}, "network", "stalled"),
        ({"lost": 3}, "network", "packets lost"),
        ({}, "network", "late"),
    ):
        one = Line()
        one.run(1_000)
        began = one.now
        one.run(300, **held)  # type: ignore[arg-type]
        one.run(50)
        verdict = one.blame.hole(one.now)
        assert (verdict.stage, verdict.cause) == (stage, cause) and (stage, cause) in CAUSES
        if cause in ("not run", "late", "stalled") and held:
            assert abs(verdict.at_ns - began) <= 50 * MS


def test_a_pause_in_the_sound_is_no_stall_and_old_faults_are_forgiven() -> None:
    one = Line()
    one.run(500)
    one.blame.silence()
    one.run(2_000, line=False)
    one.run(100)
    assert one.blame.hole(one.now).cause == "late"
    one.run(300, line=False)
    one.run(1_000)
    assert one.blame.hole(one.now).cause == "late"
