"""Who gives up a place for a listener or viewer, or memory for a watcher (`guest/places.py`)."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from millrace.budget import CONNECTIONS, MIB, PROGRAMS, WATCHERS, Account, Budget
from millrace.errors import BudgetError
from millrace.guest.places import Held, Wanted, crowded, givers, in_budget, make_room
from millrace.rights.model import OWNER, Principal, Right, implied
from millrace.symptoms import Symptom


def token(number: int, right: Right = Right.WATCH) -> Principal:
    return Principal(f"token/{number}", implied(right), frozenset({"alice"}))


def held(*principals: Principal) -> list[Held]:
    """A place of each."""
    return [Held("viewer", principal, 1, lambda: None) for principal in principals]


def wanted(who: Principal, more: int = 1, kind: str = "viewer") -> Wanted:
    return Wanted(kind, who, "alice", more)


def giver(here: list[Held], who: Wanted) -> Held | None:
    """What is given up first."""
    return next(givers(here, who), None)


CROWD, OTHER, TYPIST = token(1), token(2), token(3, Right.TYPE)


def test_whoever_has_most_gives_up_its_newest() -> None:
    here = held(OTHER, CROWD, CROWD, CROWD, OTHER)
    assert giver(here, wanted(token(4))) is here[3]
    told = crowded(here, wanted(token(4)))
    assert told.evidence == {"who": "token/1", "its_viewers": 3, "of": 5, "for": "token/4"} and told.guest == "alice"
    assert crowded([], wanted(token(4))).evidence["who"] == ""


def test_nobody_takes_a_place_from_whom_it_would_have_to_give_it_back() -> None:
    here = held(CROWD, CROWD, CROWD, OTHER, OTHER)
    assert giver(here, wanted(OTHER)) is None and giver(here, wanted(CROWD)) is None
    assert giver(here[:-1], wanted(OTHER)) is here[2]


def test_who_may_type_and_the_owner_have_one_place_whatever_others_have() -> None:
    here = held(*(token(number) for number in range(10, 20)))
    assert giver(here, wanted(token(4))) is None
    assert giver(here, wanted(TYPIST)) is here[9]
    assert giver([*here, *held(TYPIST)], wanted(TYPIST)) is None
    typists = held(*(token(number, Right.ADMIN) for number in range(10, 20)))
    assert giver(typists, wanted(TYPIST)) is None and giver(typists, wanted(OWNER)) is typists[9]
    # One of each kind: whoever has a connection has no encoder yet.
    assert giver([*here, *held(TYPIST)], wanted(TYPIST, kind="encoder")) is here[9]


def test_who_may_type_and_the_owner_are_asked_last() -> None:
    here = held(OTHER, OTHER, TYPIST, TYPIST, TYPIST, OWNER, OWNER, OWNER, OWNER)
    assert giver(here, wanted(token(4))) is here[1]
    assert giver(here[1:], wanted(token(4))) is here[4]
    assert giver(here[5:], wanted(token(4))) is here[8]


def sized(*sizes: int) -> list[Held]:
    """What `CROWD` has of several kinds, the sizes but the last three, and `OTHER`'s microphones, those."""
    kinds = ("encoder", "listener", *("microphone",) * 3)
    owners = (CROWD, CROWD, OTHER, OTHER, OTHER)
    return [Held(kind, who, size, lambda: None) for kind, who, size in zip(kinds, owners, sizes, strict=True)]


def test_whoever_holds_most_of_all_kinds_gives_up_its_largest_if_it_holds_more_than_who_comes_would() -> None:
    here = sized(70, 20, 20, 20, 20)
    assert giver(here, wanted(token(4), 10, "microphone")) is here[0]
    assert giver(here, wanted(OTHER, 29)) is here[0] and giver(here, wanted(OTHER, 30)) is None
    assert giver(here, wanted(CROWD, 1)) is None
    told = crowded(sized(20, 20, 10, 10, 10), wanted(OTHER, kind="watcher")).evidence
    assert told == {
        "who": "token/1",
        "its_watchers": 0,
        "its_encoders": 1,
        "its_listeners": 1,
        "of": 5,
        "for": "token/2",
    }
    # Whoever has many small ones holds less than who has a few large ones.
    assert crowded(sized(20, 20, 20, 20, 20), wanted(OTHER)).evidence["who"] == "token/2"


class Full:
    """Something of `size`, all of which is held."""

    def __init__(self, size: int, *sizes: tuple[Principal, int]) -> None:
        self.size, self.told = size, list[Symptom]()
        self.here = [Held("watcher", who, one) for who, one in sizes]
        self.here = [one._replace(give_up=partial(self.give_up, number)) for number, one in enumerate(self.here)]
        self.given: list[int] = []

    def give_up(self, number: int) -> None:
        self.given.append(number)

    def take(self, who: Principal, more: int) -> None:
        def room(freed: int, always: bool) -> bool:
            gone = sum(self.here[number].size for number in self.given)
            return sum(one.size for one in self.here) - gone - freed + more <= self.size

        make_room(Wanted("watcher", who, "alice", more), room, lambda: self.here, self.told.append)


def test_as_much_is_given_up_as_it_takes() -> None:
    full = Full(100, (CROWD, 30), (CROWD, 30), (CROWD, 30), (OTHER, 10))
    full.take(token(4), 35)
    assert full.given == [2, 1] and len(full.told) == 1
    full.take(token(4), 20)
    assert len(full.told) == 1, "there is room now"


def test_nothing_is_given_up_for_somebody_who_would_have_no_room_then_either_and_that_is_told() -> None:
    full = Full(100, (CROWD, 30), (CROWD, 30), (OTHER, 40))
    full.take(token(4), 45)
    assert not full.given and [dict(one.evidence)["who"] for one in full.told] == ["token/1"]
    none = Full(10)
    none.take(OTHER, 11)
    assert not none.told, "nobody holds anything"


def test_no_more_is_given_up_than_is_wanted() -> None:
    # Others than those who are asked hold too much.
    full = Full(30, *((CROWD, 10) for _ in range(6)))
    full.take(token(4), 10)
    assert not full.given
    full.take(TYPIST, 10)
    assert not full.given


class Guest:
    """One whose watchers hold all that they may, 24 KiB each, and whose programs all that they may then."""

    def __init__(self, tokens: int) -> None:
        self.budget, self.told = Budget("guest alice", 64 * MIB), list[Symptom]()
        self.places = dict[Account, Principal]()
        while self.budget.is_free(SIZE, WATCHERS):
            account = self.budget.open("watcher", {"itself": SIZE}, WATCHERS)
            self.places[account] = token(10 + len(self.places) % tokens, Right.SEE)
        self.number = len(self.places)

    def programs(self, reach: float) -> None:
        self.budget.open("stream", {"queue": int(self.budget.limit * reach) - self.budget.held}, 1.0)

    def held(self) -> list[Held]:
        return [Held("watcher", who, one.held, partial(self.end, one)) for one, who in self.places.items()]

    def end(self, account: Account) -> None:
        account.close()
        del self.places[account]

    def come(self, who: Principal) -> int:
        """How many were ended for one that comes; BudgetError if there is no room."""
        before, room = len(self.places), in_budget(self.budget, SIZE, WATCHERS)
        always = make_room(Wanted("watcher", who, "alice", SIZE), room, self.held, self.told.append)
        gone = before - len(self.places)
        self.places[self.budget.open("watcher", {"itself": SIZE}, WATCHERS, always=always)] = who
        return gone


SIZE = 24 * 1024


@pytest.mark.parametrize("tokens", [1, 60, 2000])
def test_first_one_of_who_may_type_ends_one_other_at_most_in_a_guest_that_its_programs_have_filled(tokens: int) -> None:
    guest = Guest(tokens)
    guest.programs(PROGRAMS)
    # All that the class may hold is held by it: one goes for one.
    assert guest.number > 600 and guest.come(TYPIST) == 1 and guest.come(OWNER) == 1
    with pytest.raises(BudgetError):
        guest.come(token(4))
    with pytest.raises(BudgetError):
        guest.come(TYPIST)
    assert len(guest.places) == guest.number
    guest.end(next(iter(guest.places)))
    assert guest.come(token(7, Right.TYPE)) == 0, "there is room as far as the class reaches"


def test_nobody_is_ended_for_who_may_type_where_others_have_filled_all_that_the_class_reaches() -> None:
    guest = Guest(1)
    guest.programs(CONNECTIONS)
    with pytest.raises(BudgetError):
        guest.come(TYPIST)
    assert len(guest.places) == guest.number


def test_who_gives_up_for_one_is_found_in_a_few_looks_at_each() -> None:
    here, looks = [Held("watcher", token(number % 50), 10, lambda: None) for number in range(1000)], list[int]()

    def room(freed: int, always: bool) -> bool:
        looks.append(freed)
        return freed >= 5000

    ended, calls = list[int](), 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    here = [one._replace(give_up=partial(ended.append, number)) for number, one in enumerate(here)]
    sys.setprofile(count)
    try:
        make_room(Wanted("watcher", OWNER, "alice", 5000), room, lambda: here, lambda symptom: None)
    finally:
        sys.setprofile(None)
    assert len(ended) == 500 and calls < 20 * len(here)


def test_nothing_is_given_up_once_there_is_room() -> None:
    full = Full(60, *((CROWD, 10) for _ in range(6)))
    full.give_up = lambda number: full.given.extend((number, 0))  # type: ignore[method-assign]
    full.here = [one._replace(give_up=partial(full.give_up, number)) for number, one in enumerate(full.here)]
    full.take(OTHER, 20)
    assert full.given == [5, 0], "the first took another with it"


def test_what_can_not_be_given_up_counts() -> None:
    here = held(CROWD, CROWD, OTHER)
    here[1] = here[1]._replace(give_up=None)
    assert giver(here, wanted(token(4))) is here[0] and giver(here[1:], wanted(token(4))) is None
