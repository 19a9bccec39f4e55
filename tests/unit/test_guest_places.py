"""Who gives up a place for a listener or viewer, or memory for a watcher (`guest/places.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.guest.places import crowded, giver
from millrace.rights.model import OWNER, Principal, Right, implied


@dataclass(eq=False)
class Visitor:
    principal: Principal


def token(number: int, right: Right = Right.WATCH) -> Principal:
    return Principal(f"token/{number}", implied(right), frozenset({"alice"}))


def visitors(*principals: Principal) -> list[Visitor]:
    return [Visitor(principal) for principal in principals]


CROWD, OTHER, TYPIST = token(1), token(2), token(3, Right.TYPE)


def test_whoever_has_most_gives_up_its_newest() -> None:
    here = visitors(CROWD, OTHER, CROWD, CROWD, OTHER)
    assert giver(here, token(4), "alice") is here[3]
    told = crowded(here, token(4), "alice", "viewer")
    assert told.evidence == {"who": "token/1", "its_viewers": 3, "of": 5, "for": "token/4"} and told.guest == "alice"
    assert crowded([], token(4), "alice", "viewer").evidence["who"] == ""


def test_nobody_takes_a_place_from_whom_it_would_have_to_give_it_back() -> None:
    here = visitors(CROWD, CROWD, CROWD, OTHER, OTHER)
    assert giver(here, OTHER, "alice") is None and giver(here, CROWD, "alice") is None
    assert giver(here[:-1], OTHER, "alice") is here[2]


def test_who_may_type_and_the_owner_have_one_place_whatever_others_have() -> None:
    here = visitors(*(token(number) for number in range(10, 20)))
    assert giver(here, token(4), "alice") is None
    assert giver(here, TYPIST, "alice") is here[9]
    assert giver([*here, Visitor(TYPIST)], TYPIST, "alice") is None
    typists = visitors(*(token(number, Right.ADMIN) for number in range(10, 20)))
    assert giver(typists, TYPIST, "alice") is None and giver(typists, OWNER, "alice") is typists[9]


def test_who_may_type_and_the_owner_are_asked_last() -> None:
    here = visitors(OTHER, OTHER, TYPIST, TYPIST, TYPIST, OWNER, OWNER, OWNER, OWNER)
    assert giver(here, token(4), "alice") is here[1]
    assert giver(here[1:], token(4), "alice") is here[4]
    assert giver(here[5:], token(4), "alice") is here[8]


def test_whoever_holds_most_gives_up_its_largest_if_it_holds_more_than_who_comes_would() -> None:
    here = visitors(CROWD, CROWD, OTHER, OTHER, OTHER)
    sizes = dict(zip(here, (70, 20, 20, 20, 20), strict=True))
    size = sizes.__getitem__
    assert giver(here, token(4), "alice", size, 10) is here[0]
    assert giver(here, OTHER, "alice", size, 29) is here[0] and giver(here, OTHER, "alice", size, 30) is None
    assert giver(here, CROWD, "alice", size, 1) is None
    evidence = crowded(here, OTHER, "alice", "watcher", size).evidence
    assert evidence == {"who": "token/1", "its_watchers": 2, "of": 5, "for": "token/2"}
