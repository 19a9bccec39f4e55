"""A listener's session and a machine work in any `Home`: they use nothing beyond that protocol."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from millrace.clock.allowance import Allowances
from millrace.codec.parameters import CodecParameters
from millrace.doors.admission import Admission
from millrace.errors import PeerLost
from millrace.graph.model import Ids
from millrace.graph.screens import Screens
from millrace.graph.seat import Seat
from millrace.graph.tracks import Tracks
from millrace.guest.config import GuestConfig
from millrace.guest.home import Home, Machine
from millrace.guest.listener import ListenerSession
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.io.turns import Turns
from millrace.observe.explain import heard
from millrace.outlets.subscribers import Subscribers
from millrace.rights.model import OWNER
from millrace.sim.rig import Rig
from millrace.symptoms import CAUSES, LISTENERS_CAUSES, Symptom
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import FormatChanged, Hello, Pong, Report, Trouble, encode_message
from tests.bare import bare, members_of
from tests.unit.test_graph import add


class House:
    """A `Home` around a rig, and what it was told."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.latencies = 0
        self.machines: list[tuple[str, Any]] = []
        self.symptoms: list[Symptom] = []
        self.listeners: set[tuple[str, str]] = set()
        graph = self.rig.graph
        self.home: Home = bare(
            Home, name="alice", config=GuestConfig("alice"), graph=graph, outlets=Subscribers(graph),
            screens=Screens("alice", Ids(), graph.budget),
            tracks=Tracks("alice", Ids(), Seat("alice"), graph.budget),
            admission=Admission("alice", graph.budget, self.rig.prompts, self.symptoms.append),
            microphone=graph.add_source("microphone", "Microphone"), troubles=Allowances(), turns=Turns(lambda: 0),
            report=self.symptoms.append, recording=False, machines=[],
            has_listener=lambda key, principal: (key, principal.key) in self.listeners,
            latency_changed=self._latency_changed, make_room=lambda kind, who, more: False,
            machine_changed=lambda change, machine: self.machines.append((change, machine)),
        )  # fmt: skip

    def _latency_changed(self) -> None:
        self.latencies += 1


def test_listener_is_served_from_hello_to_end() -> None:
    house = House()
    rig, home = house.rig, house.home
    sent: list[str | bytes] = []
    session = ListenerSession(home, 7, "10.0.0.7", sent.extend, lambda: True, rig.now_ns, OWNER)
    assert home.admission.budget.shares()["listener"] == session.account.held > 0
    session.receive(encode_message(Hello(name="laptop", microphone=True)), rig.now_ns)
    told = [json.loads(text) for text in sent if isinstance(text, str)]
    assert [one["type"] for one in told] == ["welcome", "format", "microphone"]
    assert (told[0]["guest"], told[0]["sink"], told[2]["allowed"], told[2]["wanted"]) == (
        "alice",
        "millrace",
        True,
        False,
    )
    assert session.microphone_state == "ready" and session.microphone is not None
    home.recording = True
    session.update_microphone()
    assert json.loads(sent[-1])["wanted"] is True and session.microphone_state == "on"
    session.receive(encode_message(FormatChanged(CodecParameters(1, "s16", 48_000, ["mono"]))), rig.now_ns)
    # What its outlet hears is the graph's; what its network does is for the guest to know.
    add(rig)
    rig.run(0.1)
    assert any(isinstance(message, bytes) for message in sent)
    session.receive(encode_message(Report(latency_ns=5_000_000)), rig.now_ns)
    session.receive(encode_message(Trouble("hole", "network", "late")), rig.now_ns)
    assert house.latencies == 1
    assert [(one.stage, one.guest, one.subject) for one in house.symptoms] == [("network", "alice", "listener/7")]
    # When its rights have ended, it is sent nothing of what plays from then on.
    before = len(sent)
    (bye,) = session.stop("the token was revoked")
    assert json.loads(bye) == {"type": "bye", "reason": "the token was revoked", "again": False}
    rig.run(0.1)
    session.tick(rig.now_ns)
    assert len(sent) == before
    session.closed()
    session.closed()
    assert house.latencies == 2 and session.account.held == 0 and not home.outlets.outlets
    assert not home.microphone.taps and not any(stream.feeds_source for stream in rig.graph.streams.values())


def test_listener_leaves_its_outlet_though_its_microphone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    now = house.rig.now_ns
    session = ListenerSession(house.home, 7, "10.0.0.9", lambda message: True, lambda: True, now, OWNER)
    session.receive(encode_message(Hello(name="laptop", microphone=True)), now)
    assert session.microphone is not None and house.home.outlets.outlets

    def fail() -> None:
        raise AssertionError("an error in the daemon")

    monkeypatch.setattr(session.microphone, "remove", fail)
    with pytest.raises(AssertionError, match="an error in the daemon"):
        session.closed()
    assert not house.home.outlets.outlets and session.account.held == 0


def test_listener_reports_only_its_own_causes_at_bounded_rate() -> None:
    house = House()
    now = house.rig.now_ns
    session = ListenerSession(house.home, 7, "10.0.0.9", lambda message: True, lambda: True, now, OWNER)
    session.receive(encode_message(Hello(name="laptop")), now)
    for stage, cause in CAUSES:
        session.receive(encode_message(Trouble("hole", stage, cause)), now)
    session.receive(encode_message(Trouble("hole", "moon", "full")), now)
    assert {(one.stage, one.cause) for one in house.symptoms} == LISTENERS_CAUSES
    for _ in range(1000):
        session.receive(encode_message(Trouble("hole", "network", "late")), now)
    assert len(house.symptoms) == 100
    for n in range(1, 1001):
        session.receive(encode_message(Trouble("hole", "network", "late")), now + n * NS_PER_MS)
    assert len(house.symptoms) == 110
    session.closed()
    # Another connection of the same principal has what is left, one of another principal has its own.
    at = now + 1_100 * NS_PER_MS
    for principal in (OWNER, replace(OWNER, key="token/2")):
        session = ListenerSession(house.home, 8, "10.0.0.9", lambda message: True, lambda: True, at, principal)
        session.receive(encode_message(Hello(name="laptop")), at)
        for _ in range(1000):
            session.receive(encode_message(Trouble("hole", "network", "late")), at)
        session.closed()
    assert len(house.symptoms) == 211


def test_allowance_is_kept_by_name_until_it_is_full_again() -> None:
    allowances = Allowances()
    assert [allowances.take("alice", 6 * NS_PER_S, NS_PER_S) for _ in range(2)] == [True, False]
    assert allowances.take("bob", 6 * NS_PER_S, NS_PER_S) and len(allowances) == 2
    assert not allowances.take("alice", 6 * NS_PER_S, 2 * NS_PER_S)
    assert allowances.take("carol", 1, 60 * NS_PER_S) and len(allowances) == 1


def test_listener_is_not_blamed_for_stall_of_daemon() -> None:
    house = House()
    now, room = house.rig.now_ns, True
    session = ListenerSession(house.home, 7, "10.0.0.9", lambda messages: None, lambda: room, now, OWNER)
    session.receive(encode_message(Hello()), now)
    session.receive(encode_message(Pong(now, now)), now)
    session.outlet.send(b"packet")
    session.tick(now + NS_PER_S)
    for stopped_ns, has_room in ((4 * NS_PER_S, True), (5 * NS_PER_S, False)):
        session.tick(now + stopped_ns)
        assert session._room_for() is has_room


def test_listener_that_was_ended_is_not_greeted_and_plays_nothing() -> None:
    house = House()
    now, sent = house.rig.now_ns, list[str | bytes]()
    session = ListenerSession(house.home, 7, "10.0.0.9", sent.extend, lambda: True, now, OWNER)
    session.closed()
    session.receive(encode_message(Hello(name="laptop", microphone=True)), now)
    session.closed()
    assert session.outlet.group is None and not house.home.outlets.outlets and not house.rig.graph.taps
    assert not sent and session.microphone is None


def test_tick_raises_error_that_ended_sound_once() -> None:
    house = House()
    woken, now = list[str](), house.rig.now_ns
    session = ListenerSession(
        house.home, 7, "10.0.0.9", lambda messages: None, lambda: True, now, OWNER, wake=lambda: woken.append("")
    )
    session.receive(encode_message(Hello()), house.rig.now_ns)
    assert not woken
    session.outlet.fail(RuntimeError("no such socket"))
    assert woken, "one that rests is not ticked otherwise"
    with pytest.raises(RuntimeError, match="no such socket"):
        session.tick(house.rig.now_ns)
    session.tick(house.rig.now_ns)


def test_listener_rests_until_it_is_sent_something_and_its_bitrate_is_that_of_the_last_second() -> None:
    house = House()
    now = house.rig.now_ns
    session = ListenerSession(house.home, 7, "10.0.0.9", lambda messages: None, lambda: True, now, OWNER)
    session.receive(encode_message(Hello()), now)
    session.receive(encode_message(Pong(now, now)), now)
    rests = [session.tick(now + second * NS_PER_S) for second in range(1, 4)]
    assert not rests[0], "its welcome has just been sent"
    assert rests[-1] and session.bitrate() == 0
    session.outlet.send(b"x" * 1000)
    later = now + 100 * NS_PER_S
    assert not session.tick(later)
    assert session.bitrate() == 8_000, "not spread over all the time of its rest"
    probed = later + NS_PER_MS
    session.receive(encode_message(Pong(later, later)), probed)
    assert not session.tick(later + NS_PER_S)
    assert [session.tick(later + second * NS_PER_S) for second in (2, 3)][-1]
    # An outlet that fails, or whose queue is not empty, has something to do.
    session.outlet.fail(RuntimeError("no such socket"))
    assert not session.outlet.rests


class Machined(AttachedMachine):
    """A machine that is there for a moment."""

    kind = "test"

    async def _session(self) -> None:
        self._attached()
        raise PeerLost("it was switched off")

    def _gone(self) -> None:
        """See `AttachedMachine`."""

    def view(self) -> dict[str, Any]:
        """See `Machine`."""
        return {}


def test_machine_reports_its_states_and_its_end_once() -> None:
    async def main() -> None:
        house = House()
        machine = Machined(9, house.home, DoorSpec("p2p", "fd"))
        machine.start()
        assert machine._task is not None
        await machine._task
        await machine.stop("the test ends")
        assert house.machines == [("change", machine), ("change", machine), ("remove", machine)]
        (told,) = house.symptoms
        assert (told.stage, told.cause, told.guest, told.subject) == ("machine", "lost", "alice", "door/9")
        assert all(hasattr(machine, name) for name in members_of(Machine))

    asyncio.run(main())


class Staying(Machined):
    """A machine that is there until it is stopped."""

    async def _session(self) -> None:
        self._attached()
        await asyncio.Event().wait()

    def _gone(self) -> None:
        self.told = self.state, self.error


def test_machine_that_is_stopped_says_why_before_its_screens_go() -> None:
    async def main() -> None:
        house = House()
        machine = Staying(9, house.home, DoorSpec("x11", ":1"))
        machine.start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await machine.stop("it was detached")
        assert machine.told == ("detached", "it was detached") and house.machines[-1] == ("remove", machine)

    asyncio.run(main())


def test_incomplete_home_is_detected() -> None:
    with pytest.raises(AssertionError, match="Machine"):
        bare(Machine, id=1, key="door/1", view=dict)
    with pytest.raises(AttributeError):
        print(bare(Machine, id=1, key="door/1", view=dict, stop=None, failed=None).spec)


@pytest.mark.parametrize(
    ("ppm", "told"), [(300.4, "about 300 ppm fast"), (-300.4, "about 300 ppm slow"), (0.2, "as this machine's does")]
)
def test_clock_of_listener_is_told_once_its_estimate_has_settled(ppm: float, told: str) -> None:
    house = House()
    now = house.rig.now_ns
    session = ListenerSession(house.home, 7, "10.0.0.9", lambda messages: None, lambda: True, now, OWNER)
    session.receive(encode_message(Hello()), now)

    def said(after_s: int, ppm: float, locked: bool = True) -> str:
        report = Report(latency_ns=NS_PER_MS, drift_ppm=ppm, locked=locked)
        session.receive(encode_message(report), now + after_s * NS_PER_S)
        return heard(session).text

    for early in (said(1, ppm, locked=False), said(2, ppm + 90), said(3, ppm), said(12, ppm)):
        assert "the clocks are being measured" in early and "ppm" not in early
    assert f"its clock runs {told}, which" in said(13, ppm)
