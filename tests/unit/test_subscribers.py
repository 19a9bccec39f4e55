"""Which listeners share an encoder of sound, and who gives one up (`outlets/subscribers.py`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.codec.settings import CodecSettings, changed, distance
from millrace.errors import BudgetError, GraphError
from millrace.graph import accounts
from millrace.graph.model import Sink
from millrace.guest.places import giver
from millrace.outlets.peer import Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.rights.model import Principal, Right, implied
from millrace.sim.rig import Rig
from millrace.wire.peer.messages import Fault, FormatChanged, decode_from_daemon


def token(number: int) -> Principal:
    return Principal(f"token/{number}", implied(Right.HEAR), frozenset({"alice"}))


CROWD, OTHER = token(1), token(2)


class Hall:
    """A guest's listeners, of whom whoever has most encoders gives one up."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.outlets = Subscribers(self.rig.graph, gives=lambda groups, who: giver(groups, who, "alice"))
        self.told: dict[Subscriber, list[str | bytes]] = {}

    def listener(self, who: Principal, sink: Sink | None = None, **settings: str) -> Subscriber:
        """One that has joined; GraphError if it is refused."""
        told: list[str | bytes] = []
        one = Subscriber(self.rig.graph.ids.take(), "x", told.extend, lambda: True)
        one.principal, one.settings, one.codecs = who, changed(CodecSettings(), settings), ("opus", "s16")
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
    assert crowd[3].group is crowd[2].group and crowd[3].settings.bitrate == 96_000
    assert isinstance(hall.texts(crowd[3])[-1], FormatChanged)
    second = hall.listener(OTHER, bitrate="201k")
    assert second.group is not None and len(hall.rig.graph.taps) == 4 == len(hall.outlets._groups)
    # Now both have two, and nobody takes one from whom it would have to give it back.
    for who in (OTHER, CROWD):
        with pytest.raises(GraphError, match="already has 4 encoders of sound, the maximum"):
            hall.listener(who, bitrate="32k")
    assert hall.listener(CROWD, bitrate="16k").group is crowd[0].group, "whoever shares one needs none"


def test_a_listener_that_changes_its_settings_counts_without_the_encoder_that_it_leaves(hall: Hall) -> None:
    crowd = [hall.listener(CROWD, bitrate=f"{rate}k") for rate in (16, 64, 96)]
    other = hall.listener(OTHER)
    hall.outlets.configure(other, changed(other.settings, {"codec": "s16"}))
    assert other.group is not None and other.group.settings.codec == "s16"
    assert crowd[2].group is crowd[1].group and len(hall.outlets._groups) == 3


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
    assert crowd[1].group is None and not hall.outlets._left and len(hall.outlets._groups) == 2


def test_memory_is_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Hall()
    crowd: list[Subscriber] = []
    hall.rig.graph.budget.limit = 16_000_000
    with pytest.raises(BudgetError, match="no room for this tap"):
        while True:
            crowd.append(hall.listener(CROWD, bitrate=str(6000 + len(crowd))))
    assert 10 < len(crowd) < accounts.TAPS_MAX
    other = hall.listener(OTHER)
    assert other.group is not None and crowd[-1].settings.bitrate == crowd[-2].settings.bitrate


def test_encoders_and_recorders_take_no_places_from_each_other(hall: Hall) -> None:
    for rate in range(4):
        hall.listener(CROWD, bitrate=str(16_000 + rate))
    for _ in range(4):
        hall.rig.capture()
    with pytest.raises(GraphError, match="already has 4 recorders, the maximum"):
        hall.rig.capture()
    assert len(hall.outlets._groups) == 4, "a recorder makes no listener give anything up"


def test_codec_channels_and_application_count_more_than_the_bitrate() -> None:
    base = CodecSettings()
    near = [{"bitrate": "16k"}, {"application": "voip"}, {"channels": "mono"}, {"codec": "s16"}]
    distances = [distance(changed(base, changes), base) for changes in near]
    assert distance(base, base) < distances[0] and distances == sorted(distances)
