"""What is concluded of screens (graph/screenfacts), encoders (outlets/picturestrain), viewers (guest/viewerblame)."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.graph.screenfacts import HELD_NS, MODES_MAX, MODES_PAUSE_NS, OVER_SCREENS, ScreenFacts, withheld
from millrace.guest import viewerblame
from millrace.guest.viewerblame import ViewerBlame
from millrace.outlets.picturestrain import KEYS_MAX, KEYS_NS, LONG_NS, ROW, Spent, Strain
from millrace.outlets.queue import Passed
from millrace.pixels.rects import Rect
from millrace.rights.model import OWNER
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.keepalive import Keepalive
from millrace.wire.peer.messages import Trouble
from millrace.wire.peer.pictures import ChangeView, Key, Shown, TakeKeyboard, Watch
from tests.unit.test_guest_home import House
from tests.watch import Desk, Remote

MS = NS_PER_MS
FULL = Watch(formats=["raw"], codecs=["avc1"])


# -- sources -----------------------------------------------------------------------------------------


def test_modes_of_a_machine_that_boots_are_no_trouble_and_many_are_told_once() -> None:
    facts = ScreenFacts()
    for at in range(MODES_MAX - 1):
        facts.mode(NS_PER_S + at * 100 * MS)
    assert not list(facts.second(1))
    facts.mode(NS_PER_S * 3)
    assert not list(facts.second(1))
    for at in range(40):
        facts.mode(10 * NS_PER_S + at * 50 * MS)
    (found,) = facts.second(1)
    assert (found.cause, found.at_ns) == ("too many modes", 10 * NS_PER_S)
    facts.mode(12 * NS_PER_S)
    assert not list(facts.second(1))
    for at in range(MODES_MAX):
        facts.mode(13 * NS_PER_S + at * (MODES_PAUSE_NS - 1))
    assert [found.at_ns for found in facts.second(1)] == [13 * NS_PER_S]


def test_only_what_is_reported_far_beyond_its_changes_is_over_reported() -> None:
    facts, pixels = ScreenFacts(), 1000
    for at in range(40):
        facts.compared(pixels, pixels // 2, at)
    assert not list(facts.second(pixels)), "a film"
    for second in range(3):
        facts.compared(pixels, pixels, second * NS_PER_S)
        for at in range(1, OVER_SCREENS + 1):
            facts.compared(pixels, 4, second * NS_PER_S + at)
        found = list(facts.second(pixels))
        assert [one.at_ns for one in found] == ([1] if second == 0 else []), "told once"
    assert not list(facts.second(pixels))
    for at in range(OVER_SCREENS):
        facts.compared(pixels, 0, 9 * NS_PER_S + at)
    assert [one.cause for one in facts.second(pixels)] == ["over-reported"]


def test_reader_may_hold_a_picture_for_a_second() -> None:
    assert withheld("viewer/1", 0, HELD_NS, 1) is None
    found = withheld("viewer/1", 5, HELD_NS + 6, 1 << 20)
    assert found is not None and found.at_ns == 5 and found.evidence == {"by": "viewer/1", "held_ms": 1000, "mib": 1.0}


# -- encoders ----------------------------------------------------------------------------------------


class Told:
    def __init__(self) -> None:
        self.all: list[tuple[str, HostNs]] = []
        self.evidence: list[Any] = []

    def __call__(self, cause: str, at_ns: HostNs, evidence: Any) -> None:
        self.all.append((cause, at_ns))
        self.evidence.append(evidence)


def spent(at_ms: int, waited: int, took: int, computed: int, crowded: bool = False) -> Spent:
    at = at_ms * MS
    return Spent(at, at + waited * MS, at + (waited + took) * MS, computed * MS, crowded)


def test_slow_pictures_are_told_by_what_took_the_time() -> None:
    for waited, took, computed, crowded, cause in (
        (0, 50, 45, False, "behind"),
        (0, 50, 10, True, "starved"),
        (40, 10, 10, True, "kept waiting"),
        (40, 10, 10, False, "starved"),
    ):
        told = Told()
        strain = Strain(33 * MS, told)
        for at in range(ROW - 1):
            strain.encoded(spent(at * 60, waited, took, computed, crowded))
        strain.encoded(spent(500, 0, 20, 20))
        assert not told.all, "one that was fast is between"
        for at in range(ROW):
            strain.encoded(spent(1000 + at * 60, waited, took, computed, crowded))
        assert told.all == [(cause, 1000 * MS)]
        assert told.evidence[0]["waited_for_thread_ms"] == waited and told.evidence[0]["interval_ms"] == 33


def test_one_very_slow_picture_is_told_at_once() -> None:
    told = Told()
    Strain(33 * MS, told).encoded(spent(7, 0, LONG_NS // MS, LONG_NS // MS))
    assert told.all == [("behind", 7 * MS)]


def test_key_pictures_are_a_storm_only_as_often_as_they_are_made_at_most() -> None:
    told = Told()
    strain = Strain(33 * MS, told)
    for at in range(10):
        strain.joined()
        strain.key_picture(at * (KEYS_NS // (KEYS_MAX - 1) + MS))
    assert not told.all
    for at in range(KEYS_MAX):
        strain.joined()
        strain.refreshed()
        strain.key_picture(100 * NS_PER_S + at * 500 * MS)
    assert told.all == [("key pictures", 100 * NS_PER_S)]
    assert told.evidence == [{"key_pictures": KEYS_MAX, "joined": KEYS_MAX, "asked_for": KEYS_MAX}]


# -- viewers -----------------------------------------------------------------------------------------


class Line:
    """A viewer's connection, of which pictures are sent and looked at."""

    def __init__(self, knows: bool = True) -> None:
        self.house, self.now, self.knows = House(), NS_PER_S, knows
        self.passed = Passed(0, 0)
        self.keepalive = Keepalive(NS_PER_S, self.now)
        self.pings: list[HostNs] = []
        traffic = (lambda: self.passed) if knows else (lambda: None)
        self.blame = ViewerBlame(self.house.home, OWNER, "viewer/1", self.keepalive, self.pings.append, traffic)

    def send(self, serial: int, size: int = 1000) -> None:
        self.passed = Passed(self.passed.written + size, self.passed.arrived)
        self.blame.sent(serial, self.now, self.passed if self.knows else None)

    def run(self, ms: int) -> None:
        for _ in range(ms // 5):
            self.now += 5 * MS
            due = self.blame.next_timeout()
            if due is not None and due <= self.now:
                self.blame.look(self.now)
                assert (self.blame.next_timeout() or self.now + 1) > self.now

    def told(self) -> list[tuple[str, str, HostNs | None]]:
        return [(one.stage, one.cause, one.at_ns) for one in self.house.symptoms]


def test_prompt_viewer_is_not_looked_at_and_sent_no_ping() -> None:
    line = Line()
    for serial in range(1, 50):
        line.send(serial)
        line.run(40)
        line.blame.told(Shown(serial), line.now)
        line.run(40)
    assert not line.pings and not line.told() and line.blame.next_timeout() is None


def test_line_of_which_the_system_says_nothing_is_called_full() -> None:
    line = Line(knows=False)
    line.send(1)
    line.run(900)
    line.blame.told(Shown(1), line.now)
    assert line.told() == [("send", "line full", NS_PER_S)] and len(line.pings) == 1


def test_picture_that_is_never_acknowledged_is_judged_once() -> None:
    line = Line()
    line.send(1)
    line.run(5_000)
    assert line.told() == [("network", "stalled", NS_PER_S)]
    line.blame.forget()


def test_trouble_is_dated_by_the_first_picture_that_was_not_timely() -> None:
    line = Line()
    for serial in range(1, 4):
        line.send(serial)
        line.run(viewerblame.TIMELY_NS // MS + 20)
        line.blame.told(Shown(serial), line.now)
    line.send(4)
    line.run(viewerblame.LATE_NS // MS + 20)
    line.blame.told(Shown(4), line.now)
    assert [at for _, _, at in line.told()] == [NS_PER_S]


def test_viewer_that_says_it_did_not_run_is_not_blamed_twice() -> None:
    for first in (False, True):
        line = Line()
        line.send(1)
        line.passed = Passed(1000, 1000)
        line.run(400)
        stopped = Trouble("froze", "viewer", "not run", NS_PER_S)
        for event in (stopped, Shown(1)) if first else (Shown(1), stopped):
            line.blame.told(event, line.now)
        line.run(2_000)
        assert line.told() == [("viewer", "not run", NS_PER_S)]
    line.send(2)
    line.passed = Passed(2000, 2000)
    line.run(3_000)
    assert [cause for _, cause, _ in line.told()] == ["not run", "does not read"]


def test_what_was_painted_long_ago_is_not_late_for_its_sound_when_it_is_shown_at_another_scale() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, FULL)
    desk.run(50)
    for scale in ("0.5", "0.25", "0.5", "1") * 2:
        # Whatever is shown now was painted seconds ago, and its sound was heard then.
        desk.run(2_000)
        shown, remote.skew_ns = remote.session.times.shown, 2_000 * MS
        remote.say(ChangeView({"scale": scale}))
        desk.run(2_000)
        assert remote.session.times.shown > shown and not desk.house.symptoms
    for at in range(viewerblame.SKEWED):
        screen.fill(Rect(0, 0, 9, 9), at, desk.now_ns)
        desk.run(200)
    assert [(one.stage, one.cause) for one in desk.house.symptoms] == [("viewer", "behind sound")]


def test_keys_that_are_not_passed_on_or_show_an_effect_are_no_trouble() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, FULL)
    desk.run(50)

    def types() -> None:
        for code in range(16, 22):
            remote.say(Key(code, True))
            desk.run(50)

    types()
    desk.run(5_000)
    assert not screen.typed and not desk.house.symptoms, "it does not have the keyboard"
    remote.say(TakeKeyboard(True))
    types()
    screen.fill(Rect(0, 0, 9, 9), 5, desk.now_ns)
    desk.run(5_000)
    assert len(screen.typed) >= 6 and not desk.house.symptoms
    at = desk.now_ns
    types()
    desk.run(5_000)
    (symptom,) = desk.house.symptoms
    assert (symptom.stage, symptom.cause, symptom.at_ns) == ("screen", "no reaction", at)


def test_keys_that_wait_for_the_machine_are_not_ones_that_it_ignores(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(desk.add(), "takes", lambda key, again: False)
    remote = Remote(desk, FULL)
    desk.run(50)
    remote.say(TakeKeyboard(True))
    for code in range(16, 22):
        remote.say(Key(code, True))
    desk.run(5_000)
    assert remote.session.keyboard.hands.waiting and not desk.house.symptoms
