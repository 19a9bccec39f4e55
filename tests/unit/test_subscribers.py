"""Which listeners share an encoder of sound, and who gives one up (`outlets/subscribers.py`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.budget import LISTENERS, SHARES
from millrace.codec.settings import CodecSettings, changed, distance
from millrace.errors import BudgetError, GraphError
from millrace.graph import accounts
from millrace.graph.model import Sink
from millrace.guest.hearing import Hearing
from millrace.outlets.peer import Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.rights.model import Principal, Right, implied
from millrace.sim.rig import Rig
from millrace.symptoms import Symptom
from millrace.wire.peer.messages import Fault, FormatChanged, decode_from_daemon


def token(number: int) -> Principal:
    return Principal(f"token/{number}", implied(Right.HEAR), frozenset({"alice"}))


CROWD, OTHER = token(1), token(2)


class Hall:
    """A guest's listeners, of whom whoever has most encoders gives one up."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.symptoms: list[Symptom] = []
        self.changes: list[tuple[Subscriber, str, str]] = []
        hearing = Hearing(self.rig.graph, [], self.symptoms.append)
        changed = lambda *change: self.changes.append(change)  # noqa: E731
        self.outlets = hearing.outlets = Subscribers(self.rig.graph, changed=changed, make_room=hearing.encoder)
        self.told: dict[Subscriber, list[str | bytes]] = {}

    def listener(self, who: Principal, sink: Sink | None = None, **settings: str) -> Subscriber:
        """One that has joined; GraphError if it is refused."""
        told: list[str | bytes] = []
        one = Subscriber(self.rig.graph.ids.take(), "x", told.extend, lambda: True)
        one.principal, one.settings, one.codecs = who, changed(CodecSettings(), settings), ("opus", "s16", "s24", "f32")
        self.told[one] = told
        self.outlets.join(one, sink or self.rig.sink)
        return one

    def texts(self, one: Subscriber) -> list[object]:
        return [decode_from_daemon(message) for message in self.told[one] if isinstance(message, str)]


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Hall:
    monkeypatch.setattr(accounts, "TAPS_MAX", 4)
    return Hall()


def test_one_principals_listeners_leave_others_an_encoder_and_share_the_nearest(hall: Hall) -> None:
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64, 96, 100)]
    other = hall.listener(OTHER, bitrate="200k")
    assert other.group is not None and other.group.outlets == [other]
    assert crowd[3].group is crowd[2].group and crowd[3].shares.bitrate == 96_000
    assert isinstance(hall.texts(crowd[3])[-1], FormatChanged)
    second = hall.listener(OTHER, bitrate="201k")
    assert second.group is not None and len(hall.rig.graph.taps) == 4 == len(hall.outlets.groups)
    # Now both have two, and nobody takes one from whom it would have to give it back.
    for who in (OTHER, CROWD):
        with pytest.raises(GraphError, match="already has 4 encoders of sound, the maximum"):
            hall.listener(who, bitrate="32k")
    assert hall.listener(CROWD, bitrate="16k").group is crowd[0].group, "whoever shares one needs none"


def test_a_listener_changes_the_encoder_that_is_its_alone_in_a_full_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "TAPS_MAX", 3)
    hall = Hall()
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64)]
    other = hall.listener(OTHER)
    for settings in ({"codec": "s16"}, {"channels": "mono"}, {"codec": "opus"}):
        hall.outlets.configure(other, changed(other.settings, settings))
        assert other.shares == other.settings and len(hall.outlets.groups) == len(hall.rig.graph.taps) == 3
    sink = hall.rig.graph.add_sink("music")
    hall.outlets.move(other, sink)
    assert other.group is not None and other.group.sink is sink and len(hall.rig.graph.taps) == 3
    assert crowd[1].group is not crowd[0].group and not hall.symptoms, "nobody is asked to make room"


@pytest.mark.parametrize("free", [0, 64 * 1024, 200 * 1024])
def test_a_listener_changes_the_encoder_that_is_its_alone_without_memory_for_both(free: int) -> None:
    hall = Hall()
    one, budget = hall.listener(CROWD), hall.rig.graph.budget
    group, was, whole = one.group, one.settings, budget.held
    budget.limit = int((budget.held + free) / SHARES[LISTENERS])
    budget.open("listener", {"": budget.limit * SHARES[LISTENERS] - budget._shared[LISTENERS] - free}, LISTENERS)
    hall.outlets.configure(one, changed(was, {"application": "voip"}))
    assert one.group is not group and one.shares.application == "voip" and len(hall.outlets.groups) == 1
    assert not hall.symptoms, "nobody is asked to make room"
    budget.limit = whole // 2
    with pytest.raises(BudgetError):
        hall.outlets.configure(one, changed(was, {"codec": "s16"}))
    assert one.shares.application == one.settings.application == "voip" and len(hall.rig.graph.taps) == 1


def test_a_listener_that_changes_its_settings_counts_without_the_encoder_that_it_leaves(hall: Hall) -> None:
    """With it, both had two, and nobody would make room for another sink's."""
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64)]
    here = [hall.listener(OTHER, bitrate=f"{rate}k") for rate in (16, 96, 128)]
    assert here[0].group is crowd[0].group and len(hall.outlets.groups) == 4
    with pytest.raises(GraphError, match="already has 4 encoders"):
        hall.outlets.configure(here[0], changed(here[0].settings, {"codec": "s16"}))
    assert here[0].group is crowd[0].group and here[0].settings.codec == "opus"
    hall.outlets.configure(here[1], changed(here[1].settings, {"codec": "s16"}))
    assert len(hall.outlets.groups) == 4 and here[1].shares.codec == "s16"


def test_a_listener_whose_encoder_made_room_has_it_again_once_there_is_room(hall: Hall) -> None:
    crowd = [hall.listener(CROWD, **one) for one in ({"bitrate": "16k"}, {"bitrate": "64k"}, {"codec": "s16"})]
    crowd.append(hall.listener(CROWD, codec="f32"))
    hall.outlets.configure(crowd[3], changed(crowd[3].settings, {"bitrate": "33k"}))
    others = [hall.listener(OTHER, bitrate=f"{rate}k") for rate in (200, 201)]
    assert [one.shares.codec for one in crowd] == ["opus", "opus", "opus", "opus"]
    assert crowd[3].settings.codec == "f32" and crowd[3].settings.bitrate == 33_000, "what it wants is kept"
    assert len(hall.changes) == 2 and hall.changes[0][0] is crowd[3] and "opus" in hall.changes[0][2]
    hall.outlets.leave(others[0])
    hall.outlets.leave(others[1])
    assert [one.shares == one.settings for one in crowd] == [True] * 4 and len(hall.outlets.groups) == 4
    assert len(hall.changes) == 4 and "f32" in hall.changes[2][2] and not hall.outlets._moved


def test_a_listener_that_shares_an_encoder_may_ask_for_its_settings_and_keep_them(hall: Hall) -> None:
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64, 96, 100)]
    other = hall.listener(OTHER, bitrate="200k")
    assert crowd[3].shares == crowd[2].settings
    hall.outlets.configure(crowd[3], crowd[3].shares)
    hall.outlets.leave(other)
    assert crowd[3].group is crowd[2].group and crowd[3].shares == crowd[3].settings and not hall.outlets._moved
    hall.outlets.leave(crowd[2])
    assert crowd[3].group is not None and crowd[3].shares.bitrate == 96_000


def test_a_listener_goes_over_to_what_it_can_decode_and_to_no_broken_encoder(hall: Hall) -> None:
    near = [hall.listener(CROWD, **one) for one in ({"codec": "s16"}, {"bitrate": "100k"}, {"bitrate": "16k"})]
    last = hall.listener(CROWD, codec="s24")
    last.codecs = ("opus", "s24")
    assert near[1].group is not None
    near[1].group.broken = True
    hall.listener(OTHER, bitrate="200k")
    assert last.group is near[2].group is not None and last.take_error() is None


def test_listeners_without_another_encoder_of_their_sink_are_told_why_they_end(hall: Hall) -> None:
    sinks = [hall.rig.graph.add_sink(f"sink{number}") for number in range(4)]
    crowd = [hall.listener(CROWD, sink) for sink in sinks]
    other = hall.listener(OTHER)
    assert other.group is not None and crowd[3].group is None
    fault = hall.texts(crowd[3])[-1]
    assert isinstance(fault, Fault) and fault.fatal and "made room for another" in fault.message
    error = crowd[3].take_error()
    assert isinstance(error, GraphError) and str(error) == fault.message
    assert all(one.take_error() is None for one in (*crowd[:3], other))


def test_a_listener_that_left_before_its_turn_is_given_no_other_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "TAPS_MAX", 2)
    hall, later = Hall(), list[Callable[[], None]]()
    hall.outlets._settle = lambda: later.append(lambda: list(hall.outlets._find_others()).clear())
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64)]
    hall.listener(OTHER)
    assert crowd[1].group is None
    hall.outlets.leave(crowd[1])
    later.pop()()
    assert crowd[1].group is None and not hall.outlets._left and len(hall.outlets.groups) == 2


def test_memory_is_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Hall()
    crowd: list[Subscriber] = []
    hall.rig.graph.budget.limit = 16_000_000
    with pytest.raises(BudgetError, match="no room for this tap"):
        while True:
            crowd.append(hall.listener(CROWD, bitrate=str(6000 + len(crowd))))
    assert 10 < len(crowd) < accounts.TAPS_MAX
    other = hall.listener(OTHER)
    assert other.group is not None and crowd[-1].group is crowd[-2].group


def test_encoders_and_recorders_take_no_places_from_each_other(hall: Hall) -> None:
    for rate in range(4):
        hall.listener(CROWD, bitrate=str(16_000 + rate))
    for _ in range(4):
        hall.rig.capture()
    with pytest.raises(GraphError, match="already has 4 recorders, the maximum"):
        hall.rig.capture()
    assert len(hall.outlets.groups) == 4, "a recorder makes no listener give anything up"


def test_codec_channels_and_application_count_more_than_the_bitrate() -> None:
    base = CodecSettings()
    near = [{"bitrate": "16k"}, {"application": "voip"}, {"channels": "mono"}, {"codec": "s16"}]
    distances = [distance(changed(base, changes), base) for changes in near]
    assert distance(base, base) < distances[0] and distances == sorted(distances)
