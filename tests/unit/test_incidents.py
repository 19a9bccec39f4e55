"""Incidents: recorded once, counted for ever; and a listener's diagnosis from what it observed."""

from __future__ import annotations

import pytest
from msgspec import to_builtins

from millrace.cli.incidents import line
from millrace.client.blame import Blame
from millrace.observe.incidents import INCIDENTS_MAX, INCIDENTS_PER_KIND_MAX, NAMED_MAX, OTHERS, Incident, Incidents
from millrace.symptoms import CAUSES
from millrace.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS


def ring() -> tuple[Incidents, list[tuple[str, int]]]:
    ids = iter(range(1, 10_000))
    seen: list[tuple[str, int]] = []

    def changed(change: str, incident: Incident) -> None:
        seen.append((change, incident.number))

    return Incidents(lambda: next(ids), lambda: 1_000 * NS_PER_S, changed), seen


def test_repeats_within_a_second_count_as_one_incident() -> None:
    made, seen = ring()
    first = made.record("client", "wrote late", 10 * NS_PER_S, "alice", "stream/1", {"asked_for_ms": 4})
    again = made.record("client", "wrote late", 10 * NS_PER_S + 900 * MS, "alice", "stream/1")
    other = made.record("client", "wrote late", 10 * NS_PER_S + 900 * MS, "alice", "stream/2")
    later = made.record("client", "wrote late", 12 * NS_PER_S, "alice", "stream/1")
    assert again is first and first.count == 2 and len({first.number, other.number, later.number}) == 3
    assert made.totals() == {("alice", "client", "wrote late"): 4}
    assert seen == [("new", 1), ("change", 1), ("new", 2), ("new", 3)]
    view = first.view()
    assert view.id == "incident/1" and view.text and view.evidence == {"asked_for_ms": 4}


def test_counters_of_repeats_are_the_latest_and_all_else_is_of_the_first() -> None:
    made, _ = ring()
    for underruns in (14, 15, 533):
        made.record(
            "client", "wrote late", 10 * NS_PER_S, "alice", "stream/1", {"underruns": underruns, "pid": underruns}
        )
    made.record("client", "wrote late", 10 * NS_PER_S, "alice", "stream/1")
    assert [(one.count, one.evidence) for one in made] == [(4, {"underruns": 533, "pid": 14})]


def test_what_only_the_first_has_done_is_told_as_such() -> None:
    made, _ = ring()
    for n in range(NAMED_MAX + 3):
        what = "GET /tokens" if n == NAMED_MAX + 1 else "GET /about"
        made.record("rights", "refused", n * MS, evidence={"who": f"token/{n}", "what": what, "why": "wrong"})
    for late_ms in (3.5, 4.5, 3.5):
        made.record("loop", "starved", NS_PER_S, evidence={"late_ms": late_ms})
    *named, others, late = [to_builtins(one.view()) for one in made]
    assert [one["varied"] for one in named] == [()] * NAMED_MAX
    assert (others["varied"], others["count"], late["varied"]) == (("what",), 3, ("late_ms",))
    assert line(others).endswith(" [who others, why wrong; at first what GET /about]")
    assert line(late).endswith(" [at first late 3.5 ms]") and line(named[0]).endswith(
        " [who token/0, what GET /about, why wrong]"
    )
    del others["varied"]
    assert line(others).endswith(" [who others, what GET /about, why wrong]"), "from an older daemon"


def test_lasting_condition_is_one_incident_with_first_and_last_time() -> None:
    made, seen = ring()
    for stage in ("cycle", "requests"):
        for second in range(0, 180, 9):
            made.record(stage, "cut short", second * NS_PER_S, "worst")
        made.record(stage, "cut short", 300 * NS_PER_S, "worst")
        once, again = [to_builtins(incident.view()) for incident in made if incident.stage == stage]
        assert (once["count"], again["count"]) == (20, 1)
        assert once["last"] - once["at"] == 171 and again["last"] == again["at"]
        assert " (× 20 until " in line(once) and "×" not in line(again)
    assert [change for change, _ in seen].count("new") == 4


@pytest.mark.parametrize("named", ["who", "for", "by"])
def test_nobody_is_accused_of_what_others_do_at_the_same_time(named: str) -> None:
    made, _ = ring()
    for n in range(20):
        for who in ("token/3", "127.0.0.3") if n else ("token/3",):
            made.record("rights", "refused", n * 500 * MS, evidence={named: who, "what": f"GET /{n}"})
    assert [(one.evidence[named], one.count) for one in made] == [("token/3", 20), ("127.0.0.3", 19)]


def test_many_who_do_the_same_are_counted_together_from_the_eleventh_on() -> None:
    """Whoever has many addresses displaces nobody's incidents."""
    made, seen = ring()
    before = made.record("rights", "refused", 0, evidence={"who": "token/1"})
    for second in range(1, 4 * INCIDENTS_PER_KIND_MAX):
        for n in range(20):
            who = f"10.0.{second % 256}.{n}"
            made.record("rights", "refused", second * NS_PER_S + n * MS, evidence={"who": who, "what": "GET /"})
    named = [one for one in made if one.whose != OTHERS]
    (others,) = [one for one in made if one.whose == OTHERS]
    assert before in made and len(named) == 1 + NAMED_MAX and {one.count for one in named} == {1}
    assert others.evidence == {"who": OTHERS, "what": "GET /"} and others.count + NAMED_MAX == (second * 20)
    assert ("remove", before.number) not in seen and made.totals()["", "rights", "refused"] == 1 + second * 20
    # Once they are gone, who comes is named again.
    again = made.record("rights", "refused", (second + 2) * NS_PER_S, evidence={"who": "10.9.9.9"})
    assert again.evidence == {"who": "10.9.9.9"}


def test_ring_is_bounded_and_totals_are_kept() -> None:
    made, seen = ring()
    for n in range(INCIDENTS_PER_KIND_MAX + 5):
        made.record("store", "can't write", 2 * n * NS_PER_S)
    assert (
        len(made) == INCIDENTS_PER_KIND_MAX and made.totals()["", "store", "can't write"] == INCIDENTS_PER_KIND_MAX + 5
    )
    assert [number for change, number in seen if change == "remove"] == [1, 2, 3, 4, 5]
    for n in range(2 * INCIDENTS_MAX):
        stage, cause = list(CAUSES)[n % len(CAUSES)]
        made.record(stage, cause, n * NS_PER_S, subject=f"{n}")
    assert len(made) == INCIDENTS_MAX


def test_refused_requests_displace_none_of_the_daemons_own_incidents() -> None:
    made, _ = ring()
    own = made.record("loop", "busy", 0)
    for n in range(2 * INCIDENTS_MAX):
        for cause in ("refused", "malformed", "foreign page"):
            made.record("rights", cause, 2 * n * NS_PER_S, evidence={"who": f"10.0.{n // 256}.{n % 256}"})
    assert own in made and len(made) == 3 * INCIDENTS_PER_KIND_MAX + 1


def test_guest_displaces_no_incidents_of_others_or_daemon() -> None:
    made, _ = ring()
    made.record("loop", "busy", 0)
    for n in range(30):
        made.record("client", "wrote late", n, "bob", f"stream/{n}")
    for n in range(2 * INCIDENTS_MAX):
        stage, cause = list(CAUSES)[n % len(CAUSES)]
        made.record(stage, cause, n * NS_PER_S, "alice", f"listener/{n}")
    kept = [incident.guest for incident in made]
    assert (kept.count(""), kept.count("bob"), kept.count("alice")) == (1, 30, INCIDENTS_MAX - 30)
    for n in range(2 * INCIDENTS_MAX):
        made.record("store", "can't write", n * NS_PER_S, subject=f"{n}")
    kept = [incident.guest for incident in made]
    assert (kept.count(""), kept.count("bob"), kept.count("alice")) == (
        INCIDENTS_PER_KIND_MAX + 1,
        30,
        INCIDENTS_MAX - 30,
    )
    # Another guest that begins late gets as much as the one that was there before.
    for n in range(2 * INCIDENTS_MAX):
        stage, cause = list(CAUSES)[n % len(CAUSES)]
        made.record(stage, cause, n * NS_PER_S, "carol", f"listener/{n}")
    kept = [incident.guest for incident in made]
    assert kept.count("bob") == 30 and abs(kept.count("alice") - kept.count("carol")) <= 1


def test_ongoing_incident_is_kept_and_listed_after_finished_ones() -> None:
    made, seen = ring()
    lasting = made.record("cycle", "cut short", 0, "worst")
    for n in range(1, INCIDENTS_MAX + 5):
        made.record("store", "can't write", 2 * n * NS_PER_S)
        made.record("cycle", "cut short", 2 * n * NS_PER_S, "worst")
    assert lasting in made and ("remove", lasting.number) not in seen and lasting.count == INCIDENTS_MAX + 5
    over = made.record("loop", "busy", 3 * INCIDENTS_MAX * NS_PER_S)
    early = made.record(
        "loop", "starved", 3 * INCIDENTS_MAX * NS_PER_S + 5, at_ns=2 * INCIDENTS_MAX * NS_PER_S + NS_PER_S
    )
    listed = list(made)
    assert listed[-1] is over and listed.index(early) < listed.index(lasting) < listed.index(over)
    of_kind = [made.record("loop", "busy", at * NS_PER_S, "worst", f"stream/{at}") for at in range(5_000, 5_003)]
    made.record("loop", "busy", 5_000 * NS_PER_S, "worst", "stream/5000")
    for at in range(5_003, 5_000 + INCIDENTS_PER_KIND_MAX + 1):
        made.record("loop", "busy", at * NS_PER_S, "worst", f"stream/{at}")
    assert of_kind[0] in made and of_kind[1] not in made


def test_related_incidents_are_of_daemon_or_same_object() -> None:
    made, _ = ring()
    stall = made.record("loop", "not run", 10 * NS_PER_S)
    made.record("send", "line full", 10 * NS_PER_S, "alice", "listener/1")
    ours, send = frozenset({"loop"}), frozenset({"send"})
    assert made.near(ours, 10 * NS_PER_S + 300 * MS, 600 * MS) is stall
    assert made.near(ours, 11 * NS_PER_S, 600 * MS) is None
    # A stall that goes on is still found behind an incident that began later and is over.
    again = made.record("loop", "not run", stall.last_ns + 900 * MS)
    assert again is stall and made.near(ours, stall.last_ns + 300 * MS, 600 * MS) is stall
    assert made.near(send, 10 * NS_PER_S, NS_PER_S, "alice", "listener/2") is None
    assert made.near(send, 10 * NS_PER_S, NS_PER_S, "alice", "listener/1") is not None
    assert made.near(send, 10 * NS_PER_S, NS_PER_S, "bob", "listener/1") is None


def test_related_incident_reported_late_is_found_by_its_time() -> None:
    made, _ = ring()
    first = made.record("loop", "busy", 12 * NS_PER_S, at_ns=10 * NS_PER_S)
    second = made.record("loop", "starved", 13 * NS_PER_S, at_ns=10 * NS_PER_S + 100 * MS)
    ours = frozenset({"loop"})
    assert made.near(ours, 10 * NS_PER_S + 50 * MS, 600 * MS) is second
    assert made.near(ours, 10 * NS_PER_S, 600 * MS) is first
    assert made.near(ours, 12 * NS_PER_S, 600 * MS) is None


def test_incident_has_wall_clock_time_of_its_start() -> None:
    made, _ = ring()
    incident = made.record("loop", "busy", 10 * NS_PER_S, at_ns=10 * NS_PER_S - 500 * MS)
    assert incident.wall_ns == 1_000 * NS_PER_S - 500 * MS
    with pytest.raises(AssertionError):
        made.record("moon", "full", 0)


class Timeline:
    """A listener's time in steps of 5 ms: ticks, pulls and packets, unless switched off."""

    def __init__(self) -> None:
        self.blame, self.now, self.sent = Blame(50 * MS), 0, 0

    def run(self, ms: int, loop: bool = True, device: bool = True, network: bool = True, lost: int = 0) -> None:
        for _ in range(ms // 5):
            self.now += 5 * MS
            if loop and self.now % (50 * MS) == 0:
                self.blame.ticked(self.now)
            if device:
                self.blame.pulled(self.now, 5 * MS)
            if network and self.now % (20 * MS) == 0:
                self.sent += lost + 1
                self.blame.arrived(self.now, 20 * MS, self.sent)
                if lost:
                    self.blame.lost(self.now + 10 * MS, lost)
                lost = 0


def test_cause_is_diagnosed_from_gaps_in_loop_device_and_network() -> None:
    for held, stage, cause in (
        ({"loop": False, "device": False, "network": False}, "listener", "not run"),
        ({"loop": False, "network": False}, "listener", "not run"),
        ({"device": False}, "device", "late"),
        ({"network": False}, "network", "stalled"),
        ({"lost": 3}, "network", "packets lost"),
        ({}, "network", "late"),
    ):
        one = Timeline()
        one.run(1_000)
        began = one.now
        one.run(300, **held)  # type: ignore[arg-type]
        one.run(50)
        verdict = one.blame.hole(one.now)
        assert (verdict.stage, verdict.cause) == (stage, cause) and (stage, cause) in CAUSES
        assert all(verdict.evidence.values()), f"a figure without information: {verdict}"
        assert ("device_late_ms" in verdict.evidence) is (cause == "not run" and "device" in held)
        if cause in ("not run", "late", "stalled") and held:
            assert abs(verdict.at_ns - began) <= 50 * MS


def test_silence_is_not_a_stall_and_old_faults_expire() -> None:
    one = Timeline()
    one.run(500)
    one.blame.silence()
    one.run(2_000, network=False)
    one.run(100)
    assert one.blame.hole(one.now).cause == "late"
    one.run(300, network=False)
    one.run(1_000)
    assert one.blame.hole(one.now).cause == "late"


def test_lost_device_is_blamed_until_it_has_been_back_for_a_while() -> None:
    one = Timeline()
    one.run(500)
    gone = one.blame.gone(one.now - 20 * MS)
    assert (gone.stage, gone.cause, gone.at_ns) == ("device", "lost", one.now - 20 * MS)
    one.run(2_000, device=False)
    assert one.blame.hole(one.now).cause == "lost"
    one.blame.back(one.now)
    one.run(300)
    assert one.blame.hole(one.now).cause == "lost"
    one.run(1_000)
    assert one.blame.hole(one.now).cause == "late"


def test_slow_network_is_dated_by_last_packet_in_time() -> None:
    blame, now = Blame(50 * MS), 0
    for n in range(100):
        now += 20 * MS
        blame.arrived(now, 20 * MS, n)
    began = now
    for n in range(100, 120):
        now += 24 * MS
        blame.arrived(now, 20 * MS, n)
    verdict = blame.hole(now)
    assert (verdict.stage, verdict.cause) == ("network", "late") and 0 <= verdict.at_ns - began <= 3 * 24 * MS


def test_packets_arriving_together_are_neither_jitter_nor_stall() -> None:
    blame, now = Blame(50 * MS), 0
    for n in range(0, 200, 2):
        now += 40 * MS
        blame.ticked(now)
        blame.arrived(now, 20 * MS, n)
        blame.arrived(now + 1000, 20 * MS, n + 1, follows=True)
    assert not blame.unsure(now + 50 * MS)
    verdict = blame.hole(now)
    assert (verdict.cause, verdict.at_ns, verdict.evidence) == ("late", now, {}), "nothing before that was late"
