"""The budget: its total is the sum of its accounts, whatever is done with them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.budget import (
    CONNECTIONS,
    ENCODERS,
    ENDED,
    GUEST_BYTES_MIN,
    LISTENERS,
    MACHINES,
    MIB,
    NAMES,
    PROGRAMS,
    REQUESTS,
    SHARES,
    UNREAD,
    VIEWERS,
    WATCHERS,
    Budget,
    Lack,
    size_of,
)
from millrace.control.budgets import Budgets
from millrace.errors import BudgetError
from millrace.guest.viewer import VIEWER_BYTES
from millrace.rights.model import Principal, Right
from millrace.server.http.api import BODY_COPIES, REQUEST_BYTES

UNIT = 64 * 1024


def test_total_equals_sum_of_accounts_after_any_operations() -> None:
    draw = random.Random(5)
    budget = Budget("the guest", 10_000)
    accounts = [budget.open("stream") for _ in range(8)]
    for _ in range(4000):
        account = draw.choice(accounts)
        before = account.held, budget.held
        try:
            account.hold(draw.choice("abc"), draw.randrange(2_000))
        except BudgetError:
            assert (account.held, budget.held) == before
        if draw.random() < 0.02:
            account.close()
            accounts[accounts.index(account)] = budget.open("stream")
        assert budget.held == sum(a.held for a in accounts) <= budget.limit * PROGRAMS
    for account in accounts:
        account.close()
        account.close()
    assert budget.held == 0 and budget.shares() == {} and budget.refusals


def test_closed_account_holds_nothing_and_stays_closed() -> None:
    budget = Budget("the guest", 100)
    account = budget.open("stream", {"node": 60}, 1.0)
    account.close()
    account.hold("queue", 0)
    assert not account.fits("queue", 1) and not ENDED.fits("queue", 1)
    with pytest.raises(BudgetError, match="stream has ended"):
        account.hold("queue", 1)
    assert budget.held == 0


def test_account_opens_with_all_parts_or_not_at_all() -> None:
    told: list[tuple[str, Lack]] = []
    budget = Budget("guest alice", 1000, lambda what, lack: told.append((what, lack)))
    budget.open("sample", {"data": 900})
    with pytest.raises(BudgetError, match=r"guest alice holds .* no room for this stream"):
        budget.open("stream", {"node": 40, "queue": 40})
    assert budget.held == 900 and budget.shares() == {"sample": 900} and told == [("stream", Lack("", 900, 1000))]


def test_failed_fits_check_is_not_counted_as_refusal() -> None:
    budget = Budget("the guest", 100)
    account = budget.open("stream", {"node": 60}, 1.0)
    assert not account.fits("lane", 34) and budget.refusals == 0
    assert account.fits("lane", 33) and account.fits("lane", 10) and budget.held == 70


def test_properties_are_charged_with_their_overhead() -> None:
    assert size_of({"a": b"\0" * 1000}) > 1000
    assert size_of({f"k{n}": b"" for n in range(100)}) > 100 * 100


def test_connections_and_listeners_have_reserve_beyond_streams() -> None:
    budget = Budget("the guest", 1000 * UNIT)
    budget.open("stream", {"node": 937 * UNIT})
    for reach, room in ((VIEWERS, 15), (LISTENERS, 15), (WATCHERS, 15), (REQUESTS, 3), (CONNECTIONS, 7), (MACHINES, 8)):
        account = budget.open("connection", {"itself": room * UNIT}, reach)
        with pytest.raises(BudgetError):
            account.hold("itself", (room + 1) * UNIT, reach)
    assert budget.held == 1000 * UNIT


def test_those_who_hear_and_see_leave_room_for_programs_and_for_the_machine() -> None:
    """However much they take, in whatever order, and also where a part of theirs is asked for by another reach."""
    budget = Budget("the guest", 1000 * UNIT)
    machine = budget.open("connection", {"itself": 100 * UNIT}, MACHINES)
    for reach, share in (item for item in SHARES.items() if item[0] != UNREAD):
        while budget.has_room(UNIT, reach):
            account = budget.open("of theirs", {"itself": UNIT}, reach)
            while account.fits("more", account.part("more") + 10 * UNIT, MACHINES):
                pass
        assert budget._shared[reach] <= share * 1000 * UNIT
    assert budget.held <= 906 * UNIT
    assert budget.open("stream").fits("node", 31 * UNIT) and machine.fits("partial", 62 * UNIT, MACHINES)


def test_refusal_for_a_classs_share_names_the_share_and_not_all_of_the_memory() -> None:
    told: list[tuple[str, Lack]] = []
    budget = Budget("guest alice", 256 * MIB, lambda what, lack: told.append((what, lack)))
    budget.open("viewer", {"sending": 27 * MIB}, VIEWERS)
    with pytest.raises(BudgetError) as refused:
        budget.open("viewer", {"sending": 8 * MIB}, VIEWERS)
    said = "the viewers of guest alice hold 27 of the 32 MiB that they may hold: no room for this viewer; end some of"
    assert str(refused.value) == f"{said} them, or raise its `memory`"
    assert told == [("viewer", Lack("viewers", 27 * MIB, 32 * MIB))] and set(NAMES) == set(SHARES)
    budget.open("stream", {"node": 213 * MIB})
    with pytest.raises(BudgetError, match="guest alice holds 240 of the 256 MiB that it may hold"):
        budget.open("viewer", {"sending": 5 * MIB}, VIEWERS)


def test_share_is_given_back_when_an_account_shrinks_or_ends() -> None:
    budget = Budget("the guest", 1000)
    encoder = budget.open("picture encoder", {"itself": 600}, ENCODERS)
    assert not budget.has_room(26, ENCODERS) and budget.has_room(26, PROGRAMS)
    encoder.hold("itself", 300, ENCODERS)
    assert budget.has_room(325, ENCODERS) and not budget.has_room(13, ENCODERS, 0.5)
    encoder.close()
    assert budget.has_room(625, ENCODERS) and set(budget._shared.values()) == {0}


def test_token_for_several_guests_is_charged_to_none_of_them() -> None:
    guests: dict[str, Any] = {
        name: SimpleNamespace(graph=SimpleNamespace(budget=Budget(name))) for name in ("alice", "bob")
    }
    budgets = Budgets(guests)

    def of(*names: str) -> Budget:
        return budgets.of(Principal("token/1", Right.SEE, frozenset(names)))

    assert of("alice").whose == "alice" and of("bob").whose == "bob"
    assert of("alice", "bob") is of("alice", "nobody") is of("nobody") and of("alice", "bob").whose == "token/1"


def test_what_can_be_spared_is_given_back_before_anybody_is_refused_and_not_without_need() -> None:
    refused, asked = list[str](), list[int]()
    budget = Budget("the guest", 1000, lambda what, lack: refused.append(what))
    film, other = budget.open("film", {"video": 600}, 1.0), budget.open("stream")

    def spare() -> None:
        asked.append(film.held)
        film.hold("video", 100)

    film.may_spare(spare)
    other.hold("queue", 300)
    assert not budget.is_free(401, PROGRAMS) and other.is_free("queue", 30) and not other.is_free("queue", 401)
    assert not ENDED.is_free("queue", 1)
    assert not asked and film.held == 600, "a question is no demand"
    other.hold("queue", 700)
    assert asked == [600] and film.held == 100 and other.held == 700
    assert not other.fits("queue", 900) and asked == [600, 100], "it has given all that it can spare"
    with pytest.raises(BudgetError):
        other.hold("queue", 900)
    film.hold("video", 230)
    assert budget.has_room(60, PROGRAMS) and film.held == 100 and refused == ["stream"]
    film.close()
    assert not budget.has_room(400, PROGRAMS) and len(asked) == 4, "what has ended is asked for nothing"
    film.may_spare(spare)
    assert not budget.has_room(400, PROGRAMS) and len(asked) == 4


def fill(budget: Budget, who: str, size: int, reach: float = REQUESTS) -> int:
    """Somebody opens as many as there is room for."""
    number = 0
    while budget.has_room(size, reach, who=who):
        budget.open("request", {"body": size}, reach, who)
        number += 1
    return number


def test_requests_of_one_leave_others_and_programs_and_the_machine_their_room() -> None:
    budget = Budget("the guest", 256 * MIB)
    took = [fill(budget, f"token/{n}", MIB // 8) / 8 for n in range(4)]
    assert took == [32, 16, 8, 4] and budget.held == budget._shared[REQUESTS]
    for reach in (PROGRAMS, VIEWERS, LISTENERS, WATCHERS, CONNECTIONS, MACHINES):
        assert budget.has_room(100 * MIB if reach in (PROGRAMS, CONNECTIONS, MACHINES) else 4 * MIB, reach)


def test_few_requests_are_answered_in_a_full_guest_whoever_holds_them_and_visitors_come_in() -> None:
    budget = Budget("the guest", 256 * MIB)
    budget.open("sample", {"data": 240 * MIB})
    fill(budget, "token/1", 1024)
    fill(budget, "guest/alice", 1024, UNREAD)
    assert budget.has_room(256 * 1024, REQUESTS, who="token/2") and not budget.has_room(MIB, REQUESTS, who="token/2")
    for reach in (VIEWERS, LISTENERS, WATCHERS, CONNECTIONS, MACHINES):
        assert budget.has_room(MIB, reach), reach


def test_request_is_read_in_a_small_guest_that_its_programs_have_filled() -> None:
    budget = Budget("the guest", GUEST_BYTES_MIN)
    budget.open("sample", {"data": int(budget.limit * PROGRAMS)})
    body = REQUEST_BYTES + BODY_COPIES * 40_000
    assert fill(budget, "token/1", body) == 1 and budget.has_room(body // 4, REQUESTS, who="token/2")
    assert budget.has_room(VIEWER_BYTES, VIEWERS)


def test_refused_request_names_whose_the_others_are() -> None:
    told = list[Lack]()
    budget = Budget("guest alice", 256 * MIB, lambda what, lack: told.append(lack))
    fill(budget, "token/1", MIB)
    with pytest.raises(BudgetError, match=r"requests of guest alice hold 32 of the 64 MiB .* left for others: no room"):
        budget.open("request", {"body": MIB}, REQUESTS, "token/1")
    assert told == [Lack("requests", 32 * MIB, 64 * MIB, "token/1", "requests")]


def test_viewers_of_one_are_told_that_they_leave_others_something() -> None:
    told = list[Lack]()
    budget = Budget("guest alice", 256 * MIB, lambda what, lack: told.append(lack))
    assert fill(budget, "token/1", MIB, VIEWERS) in (21, 22)
    said = r"viewers of guest alice hold 2. of the 32 MiB .* more than twice what is left for others: no room"
    with pytest.raises(BudgetError, match=said):
        budget.open("viewer", {"itself": MIB}, VIEWERS, "token/1")
    budget.open("viewer", {"itself": 5 * MIB}, VIEWERS, "token/2")
    budget.open("viewer", {"itself": 4 * MIB}, VIEWERS)
    with pytest.raises(BudgetError, match=r"viewers of guest alice hold 3. of the 32 MiB that they may hold: no room"):
        budget.open("viewer", {"itself": 3 * MIB}, VIEWERS)


def test_request_that_a_full_guest_refuses_accuses_nobody_of_requests() -> None:
    told = list[Lack]()
    budget = Budget("guest alice", 16 * MIB, lambda what, lack: told.append(lack))
    budget.open("sample", {"data": 15 * MIB})
    with pytest.raises(BudgetError):
        budget.open("request", {"body": MIB}, REQUESTS, "token/1")
    assert [one.who for one in told] == [""]


def test_request_is_told_that_it_leaves_others_something_where_all_the_memory_is_short_too() -> None:
    told = list[Lack]()
    budget = Budget("guest alice", 256 * MIB, lambda what, lack: told.append(lack))
    budget.open("sample", {"data": 192 * MIB})
    budget.open("request", {"body": 18 * MIB}, REQUESTS, "token/1")
    said = (
        "guest alice holds 210 of the 256 MiB that it may hold, and nobody's requests may hold more than is left for "
        "others: no room for this request; end some of those requests, or raise its `memory`"
    )
    with pytest.raises(BudgetError) as refused:
        budget.open("request", {"body": 8 * MIB}, REQUESTS, "token/1")
    assert str(refused.value) == said and told == [Lack("", 210 * MIB, 256 * MIB, "token/1", "requests")]
    budget.open("request", {"body": 8 * MIB}, REQUESTS, "token/2")


def test_part_that_holds_something_counts_among_no_other_class() -> None:
    budget = Budget("the guest", 1_000_000)
    account = budget.open("connection", {"itself": 100}, CONNECTIONS)
    account.hold("message", 100, REQUESTS)
    for name, reach in (("itself", REQUESTS), ("message", PROGRAMS), ("message", UNREAD)):
        with pytest.raises(ValueError, match="another class"):
            account.hold(name, 150, reach)
        with pytest.raises(ValueError, match="another class"):
            account.fits(name, 150, reach)
    assert budget.held == account.held == 200 and budget._shared[REQUESTS] == 100
    account.hold("message", 0)
    account.hold("message", 70, UNREAD)
    account.close()
    assert not budget.held and set(budget._shared.values()) == {0}


def test_all_of_an_account_that_somebody_has_in_any_case_is_weighed_against_what_its_class_reaches() -> None:
    budget = Budget("the guest", 1000 * UNIT)
    budget.open("watcher", {"itself": 100 * UNIT}, WATCHERS)
    budget.open("sample", {"data": 830 * UNIT})
    with pytest.raises(BudgetError):
        budget.open("watcher", {"itself": UNIT}, WATCHERS)
    always = budget.open("watcher", {"itself": UNIT}, WATCHERS, always=True)
    assert always.is_free("waiting", 53 * UNIT) and not always.fits("waiting", 54 * UNIT)
    always.hold("waiting", 53 * UNIT)
    with pytest.raises(BudgetError):
        always.hold("waiting", 54 * UNIT)


def test_own_budget_of_a_principal_is_not_divided() -> None:
    budget = Budget("owner", 64 * MIB)
    assert fill(budget, "owner", MIB) == 63


def test_part_that_counts_among_requests_does_so_until_it_or_its_account_ends_whosever_it_is() -> None:
    budget = Budget("the guest", 1_000_000)
    account = budget.open("connection", {"itself": 1000}, CONNECTIONS, "guest/alice")
    account.hold("message", 5000, REQUESTS)
    account.hold("call", 700)
    assert budget._shared[REQUESTS] == 5000 and budget._whose[REQUESTS] == {"guest/alice": 5000}
    account.belong("token/1")
    assert budget._whose[REQUESTS] == {"token/1": 5000}
    account.hold("message", 0)
    assert budget._shared[REQUESTS] == 0 and not budget._whose[REQUESTS] and budget.held == 1700
    account.hold("message", 5000, REQUESTS)
    account.close()
    account.belong("token/2")
    assert budget.held == budget._shared[REQUESTS] == 0 and not budget._whose[REQUESTS]


def test_part_of_an_account_counts_among_its_class_whatever_reach_it_is_held_up_to() -> None:
    viewer = Budget("the guest", 1000).open("viewer", {}, VIEWERS)
    viewer.hold("sending", 125)
    with pytest.raises(BudgetError, match="viewers"):
        viewer.hold("sending", 126)
