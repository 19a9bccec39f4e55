"""Small work on the event loop: all of it takes little of the time, and each customer has a share of that."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.io.buckets import SMALL_NS_MAX, SMALL_SHARE, Buckets
from millrace.io.fairqueue import Customer
from millrace.units import NS_PER_MS, NS_PER_S

PIECE_NS = 300_000
RUN_NS = 10 * NS_PER_S
GREEDY = [1, 2, 5, 20, 100]


def spent_by(greedy: int, typist_ns: int, every_ns: int, piece_ns: int) -> tuple[list[int], list[bool]]:
    """What so many take in `RUN_NS` that ask all the time, and whether one is served that asks now and then."""
    buckets, typist = Buckets(0), Customer[Any]()
    spent = {Customer[Any](): 0 for _ in range(greedy)}
    served: list[bool] = []
    for now_ns in range(0, RUN_NS, 2 * NS_PER_MS):
        for one in spent:
            if buckets.allow(one, now_ns):
                buckets.spend(one, piece_ns)
                spent[one] += piece_ns
        if now_ns >= NS_PER_S and now_ns % every_ns == 0:
            served.append(buckets.allow(typist, now_ns))
            buckets.spend(typist, typist_ns if served[-1] else 0)
    return list(spent.values()), served


@pytest.mark.parametrize("greedy", GREEDY)
@pytest.mark.parametrize("piece_ns", [PIECE_NS, 3 * PIECE_NS])
def test_whoever_asks_for_less_than_an_equal_part_is_never_refused(greedy: int, piece_ns: int) -> None:
    every_ns = 100 * NS_PER_MS
    less_ns = min(PIECE_NS, int(0.9 * every_ns * SMALL_SHARE / (greedy + 2)))
    spent, served = spent_by(greedy, less_ns, every_ns, piece_ns)
    assert len(served) == 90 and all(served)
    # Nor are those left with nothing that ask for more than that, and one has about as much as another.
    assert max(spent) - min(spent) <= 2 * piece_ns
    assert min(spent) >= RUN_NS * SMALL_SHARE / (greedy + 2) - 2 * piece_ns
    assert sum(spent) <= RUN_NS * SMALL_SHARE + 2 * SMALL_NS_MAX + greedy * piece_ns


def test_whoever_asks_for_more_than_an_equal_part_is_served_as_much_as_the_others() -> None:
    spent, served = spent_by(20, PIECE_NS, 34 * NS_PER_MS, 3 * PIECE_NS)
    assert sum(served) * PIECE_NS > 0.8 * max(spent) * 9 / 10


def test_one_takes_half_of_what_there_is_at_once_and_gets_it_back_with_time() -> None:
    buckets, one, other = Buckets(0), Customer[int](), Customer[int]()
    pieces = 0
    while buckets.allow(one, 0):
        buckets.spend(one, PIECE_NS)
        pieces += 1
    assert pieces == -(-SMALL_NS_MAX // 2 // PIECE_NS) and buckets.allow(other, 0)
    assert buckets.allow(one, NS_PER_S) and not buckets._left_ns, "whoever has rested is forgotten"


@pytest.mark.parametrize("customers", [2, 30, 300])
def test_many_that_come_at_once_get_little_each(customers: int) -> None:
    buckets, spent = Buckets(0), []
    for one in [Customer[int]() for _ in range(customers)]:
        spent.append(0)
        while buckets.allow(one, 0):
            buckets.spend(one, 10_000)
            spent[-1] += 10_000
    most = sum(SMALL_NS_MAX / (number + 2) for number in range(customers))
    assert most <= sum(spent) <= most + customers * 10_000 and sum(spent) < 6 * SMALL_NS_MAX
