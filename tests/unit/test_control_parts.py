"""What `control` keeps for connections: budgets, claimed names, ducked streams, visits; and typed arguments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from millrace.budget import Budget
from millrace.control import requests as r
from millrace.control.budgets import PRINCIPAL_BYTES_MAX, Budgets
from millrace.control.claims import NAMES_MAX, Claims
from millrace.control.ducking import Ducking
from millrace.control.livesessions import LiveSessions
from millrace.control.requests import parsed
from millrace.errors import BudgetError, ConfigError
from millrace.graph.model import Stream
from millrace.rights.grants import Subject
from millrace.rights.model import ALL_GUESTS, OWNER, Principal, Right
from millrace.sim.rig import Rig
from millrace.units import default_map

# -- budgets -------------------------------------------------------------------------------------


def of_guests(*names: str, key: str = "token/1") -> Principal:
    return Principal(key, Right.SEE, frozenset(names))


def test_guest_pays_for_its_own_tokens_and_others_pay_for_themselves() -> None:
    guests: Any = {name: SimpleNamespace(graph=SimpleNamespace(budget=Budget(name))) for name in ("bob", "alice")}
    budgets = Budgets(guests)
    assert budgets.of(of_guests("bob")) is guests["bob"].graph.budget
    several = budgets.of(of_guests("bob", "alice", key="token/2"))
    assert several.whose == "token/2" and several is budgets.of(of_guests("bob", "alice", key="token/2"))
    own = budgets.of(of_guests("gone"))
    assert own is budgets.of(of_guests("gone")) and own.whose == "token/1" and own.limit == PRINCIPAL_BYTES_MAX
    assert budgets.of(OWNER) is not own and budgets.of(OWNER).whose == "owner"
    assert budgets.of(of_guests(ALL_GUESTS)) is own, "a token for all guests belongs to none of them"
    with pytest.raises(BudgetError):
        own.open("watcher", {"queue": PRINCIPAL_BYTES_MAX})


def test_new_guest_pays_from_then_on_and_removed_token_starts_anew() -> None:
    guests: Any = {}
    budgets = Budgets(guests)
    before = budgets.of(of_guests("alice"))
    budgets.forget("token/2")
    assert budgets.of(of_guests("alice")) is before
    budgets.forget("token/1")
    budgets.forget("token/1")
    assert budgets.of(of_guests("alice")) is not before
    guests["alice"] = SimpleNamespace(graph=SimpleNamespace(budget=Budget("alice")))
    assert budgets.of(of_guests("alice")).whose == "alice"


# -- names ---------------------------------------------------------------------------------------


class Claimant:
    """A connection that is notified about its claims."""

    def __init__(self, name: str) -> None:
        self.name, self.subject = name, Subject()
        self.told: list[tuple[str, bool]] = []

    def claim_changed(self, name: str, have: bool) -> None:
        self.told.append((name, have))


def test_first_claimant_owns_name_and_next_in_queue_follows() -> None:
    claims, one, two, three = Claims(), Claimant("one"), Claimant("two"), Claimant("three")
    assert claims.holder("policy") is None
    assert claims.claim("policy", one, replace=False)
    assert not claims.claim("policy", two, replace=False) and not claims.claim("policy", three, replace=False)
    assert claims.claim("policy", one, replace=True) and one.told == [], "it already owns the name"
    assert claims.holder("policy") is one
    claims.release(two)
    assert one.told == two.told == three.told == []
    claims.release(one)
    assert claims.holder("policy") is three and three.told == [("policy", True)] and one.told == []
    claims.release(three)
    claims.release(three)
    assert claims.holder("policy") is None and three.told == [("policy", True)]


def test_replaced_owner_gets_name_back_before_queue() -> None:
    claims, old, waiting, new = Claims(), Claimant("old"), Claimant("waiting"), Claimant("new")
    claims.claim("policy", old, replace=False)
    claims.claim("policy", waiting, replace=False)
    assert claims.claim("policy", new, replace=True) and claims.holder("policy") is new
    assert old.told == [("policy", False)] and waiting.told == new.told == []
    claims.release(new)
    assert claims.holder("policy") is old and old.told == [("policy", False), ("policy", True)] and not waiting.told
    assert claims.claim("policy", waiting, replace=True), "a queued claimant may take it over, too"
    claims.release(waiting)
    assert claims.holder("policy") is old, "it is queued once"


def test_repeated_claim_keeps_its_place_in_queue() -> None:
    claims, one, two, three = Claims(), Claimant("one"), Claimant("two"), Claimant("three")
    for who in (one, two, three):
        claims.claim("policy", who, replace=False)
    assert claims.claim("policy", one, replace=False) and claims.holder("policy") is one, (
        "otherwise `two` owns it without knowing"
    )
    assert not claims.claim("policy", two, replace=False)
    assert one.told == two.told == three.told == []
    claims.release(one)
    assert claims.holder("policy") is two and two.told == [("policy", True)], "before later claimants"
    claims.release(two)
    claims.release(three)
    assert claims.holder("policy") is None, "nobody is queued twice"


def test_claims_of_a_connection_are_listed_by_name() -> None:
    claims, one, two = Claims(), Claimant("one"), Claimant("two")
    claims.claim("policy", one, replace=False)
    claims.claim("lights", two, replace=False)
    claims.claim("policy", two, replace=False)
    assert claims.of(one) == {"policy": True} and claims.of(two) == {"policy": False, "lights": True}
    claims.release(two)
    assert claims.of(two) == {}


def test_claims_are_bounded_and_released_names_make_room() -> None:
    claims, one, other = Claims(), Claimant("one"), Claimant("other")
    for n in range(NAMES_MAX):
        assert claims.claim(f"name {n}", one, replace=False)
    assert not claims.claim("one more", one, replace=True) and claims.holder("one more") is None
    assert not claims.claim("name 0", other, replace=False), "an existing name can still be claimed"
    claims.release(one)
    assert claims.holder("name 0") is other and claims.claim("one more", one, replace=False)


# -- ducking -------------------------------------------------------------------------------------


def played(rig: Rig, name: str) -> Stream:
    stream = Stream(rig.graph.ids.take(), name, default_map(2))
    rig.graph.add_stream(stream, rig.sink)
    return stream


def test_stream_has_lowest_of_requested_attenuations() -> None:
    rig = Rig()
    ducks = Ducking(lambda: [rig.graph])
    music, speech = played(rig, "music"), played(rig, "speech")
    ducks.duck("a", rig.graph, music, -20.0)
    assert music.trim == pytest.approx(0.1) and speech.trim == 1.0
    ducks.duck("b", rig.graph, music, -6.0)
    assert music.trim == pytest.approx(0.1)
    ducks.duck("b", rig.graph, music, -40.0)
    assert music.trim == pytest.approx(0.01), "a second request of a connection replaces the first"
    ducks.duck("b", rig.graph, music, 0.0)
    assert music.trim == pytest.approx(0.1), "0 removes only the connection's own ducking"
    ducks.duck("a", rig.graph, music, 0.0)
    assert music.trim == 1.0


def test_ducking_ends_with_connection() -> None:
    rig, other = Rig(), Rig()
    ducks = Ducking(lambda: (rig.graph, other.graph))
    other.graph.ids = rig.graph.ids
    music, gone, far = played(rig, "music"), played(rig, "gone"), played(other, "far")
    for stream, graph in ((music, rig.graph), (gone, rig.graph), (far, other.graph)):
        ducks.duck("a", graph, stream, -20.0)
    ducks.duck("b", rig.graph, music, -6.0)
    rig.graph.remove_stream(gone)
    ducks.release("nobody")
    assert music.trim == far.trim == pytest.approx(0.1)
    ducks.release("a")
    assert music.trim == pytest.approx(10 ** (-6 / 20)) and far.trim == 1.0
    ducks.release("b")
    assert music.trim == 1.0


def test_continued_connection_keeps_ducking_of_existing_streams() -> None:
    rig = Rig()
    ducks, there = Ducking(lambda: [rig.graph]), Ducking(lambda: [rig.graph])
    music, speech = played(rig, "music"), played(rig, "speech")
    ducks.duck("a", rig.graph, music, -20.0)
    ducks.duck("a", rig.graph, speech, -6.0)
    held = ducks.of("a")
    assert held == {music.id: pytest.approx(0.1), speech.id: pytest.approx(10 ** (-6 / 20))} and ducks.of("b") == {}
    ducks.release("a")
    rig.graph.remove_stream(speech)
    there.resume("again", held)
    assert music.trim == pytest.approx(0.1) and there.of("again") == {music.id: pytest.approx(0.1)}
    held.clear()
    there.release("again")
    assert music.trim == 1.0


def test_ended_streams_leave_no_ducking() -> None:
    rig = Rig()
    ducks = Ducking(lambda: [rig.graph])
    for n in range(10):
        stream = played(rig, f"call {n}")
        ducks.duck("policy", rig.graph, stream, -20.0)
        rig.graph.remove_stream(stream)
    assert ducks.of("policy") == {}


# -- visits --------------------------------------------------------------------------------------


class Visit:
    """A visit that stores what it is told."""

    def __init__(self, visits: LiveSessions, *keys: str) -> None:
        self.ended: list[str] = []
        self.lost: list[str] = []
        self.leave = visits.enter(keys, self.ended.append, self.lost.append)


def test_visit_ends_once_when_rights_end() -> None:
    visits = LiveSessions()
    one, two, other = Visit(visits, "token/1"), Visit(visits, "token/1", "session/5"), Visit(visits, "token/2")
    visits.lose("token/1", "alice")
    assert one.lost == two.lost == ["alice"] and other.lost == []
    visits.end("session/5", "signed out")
    assert two.ended == ["signed out"] and one.ended == [] and sorted(visits) == ["token/1", "token/2"]
    visits.end("token/1", "revoked")
    assert one.ended == ["revoked"] and two.ended == ["signed out"], "an ended visit is not ended again"
    visits.end("token/1", "revoked")
    visits.lose("token/1", "alice")
    assert one.ended == ["revoked"] and one.lost == ["alice"]
    assert list(visits) == ["token/2"] and other.ended == []


def test_visit_that_ended_itself_leaves_nothing() -> None:
    visits = LiveSessions()
    one, two = Visit(visits, "token/1", "session/5"), Visit(visits, "token/1")
    one.leave()
    one.leave()
    assert list(visits) == ["token/1"]
    visits.end("session/5", "signed out")
    visits.end("token/1", "revoked")
    assert one.ended == [] and two.ended == ["revoked"] and list(visits) == []


def test_visit_that_ends_another_while_ending_is_safe() -> None:
    visits, ended = LiveSessions(), list[str]()
    visits.enter(["token/1"], lambda why: (ended.append("first"), last(), None)[-1], lambda guest: None)
    visits.enter(["token/1"], lambda why: ended.append("second"), lambda guest: None)
    last = visits.enter(["token/1"], lambda why: ended.append("third"), lambda guest: None)
    visits.end("token/1", "revoked")
    assert ended[:2] == ["first", "second"] and list(visits) == []


# -- arguments -----------------------------------------------------------------------------------


def test_arguments_are_validated_alike_from_any_transport() -> None:
    given = {"target": "sink/1", "settings": {"volume": "50%", "mute": True}, "guest": None}
    assert parsed(r.Set, given) == parsed(r.Set, msgspec.Raw(msgspec.msgpack.encode(given)))
    assert parsed(r.Set, given) == r.Set("sink/1", {"volume": "50%", "mute": True})
    assert parsed(r.TokenNew, {"may": "hear"}).guests == [] and parsed(r.Recall, {}).prefix == ""
    assert parsed(r.Nothing, {}) == r.Nothing()
    assert not parsed(r.Decide, {"request": "1", "allow": True}).always, "once, unless requested otherwise"
    with pytest.raises(ConfigError, match="arguments not understood: "):
        parsed(r.Nothing, msgspec.Raw(b""))
    matrix = parsed(r.LinkTo, {"source": "stream/1", "to": "sink/2", "matrix": [[1, 0.5]]}).matrix
    assert matrix == [[1.0, 0.5]]


@pytest.mark.parametrize(("kind", "given", "why"), [
    (r.OfGuest, {}, "required field `guest`; this takes guest"),
    (r.OfGuest, {"guest": 5}, "at `$.guest`; this takes guest"),
    (r.TokenNew, {"may": "hear", "guest": "alice"}, "`guest`; this takes may, guests, expires, name"),
    (r.Nothing, {"x": 1}, "`x`; this takes nothing"),
    (r.Decide, {"request": "1", "allow": "yes"}, "`bool`"),
    (r.OfGuest, [1], "Expected `object`, got `array`"),
    (r.Set, {"target": "x", "settings": {"volume": [1]}}, "settings"),
])  # fmt: skip
def test_invalid_arguments_are_named_with_valid_ones(kind: type[Any], given: Any, why: str) -> None:
    for args in (given, msgspec.Raw(msgspec.msgpack.encode(given))):
        with pytest.raises(ConfigError) as refused:
            parsed(kind, args)
        assert why in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"\x81", b"\xc1", b"\x91" * 100_000, b"\x81\xa5guest\xa1\xff", b"\x80\x80"])
def test_undecodable_arguments_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(r.OfGuest, msgspec.Raw(data))
    assert str(refused.value).isprintable()
