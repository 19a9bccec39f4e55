"""Small work on the event loop: all of it takes little of the time, and each customer has a share of that."""

from __future__ import annotations

import pytest

from millrace.io.fairqueue import Customer
from millrace.io.purses import OWN_NS_MAX, SMALL_NS_MAX, SMALL_SHARE, Purses
from millrace.units import NS_PER_MS, NS_PER_S

PIECE_NS = 300_000


@pytest.mark.parametrize("greedy", [1, 5])
def test_however_much_some_ask_for_another_is_served_at_once(greedy: int) -> None:
    purses, others, typist = Purses(0), [Customer[int]() for _ in range(greedy)], Customer[int]()
    spent = dict.fromkeys(others, 0)
    served: list[bool] = []
    for now_ns in range(0, 10 * NS_PER_S, NS_PER_MS):
        for one in others:
            if purses.allow(one, now_ns):
                purses.spend(one, PIECE_NS)
                spent[one] += PIECE_NS
        # A letter every 100 ms, and what it echoes.
        if now_ns >= NS_PER_S and now_ns % (100 * NS_PER_MS) == 0:
            served.append(purses.allow(typist, now_ns))
            purses.spend(typist, PIECE_NS if served[-1] else 0)
    assert len(served) == 90 and all(served)
    assert sum(spent.values()) <= 10 * NS_PER_S * SMALL_SHARE + SMALL_NS_MAX
    assert min(spent.values()) > 0.8 * max(spent.values()) > 0.8 * 10 * NS_PER_S * SMALL_SHARE / (greedy + 2)


def test_one_takes_half_of_what_there_is_at_once_and_gets_it_back_with_time() -> None:
    purses, one, other = Purses(0), Customer[int](), Customer[int]()
    pieces = 0
    while purses.allow(one, 0):
        purses.spend(one, PIECE_NS)
        pieces += 1
    assert pieces == -(-OWN_NS_MAX // PIECE_NS) and purses.allow(other, 0)
    assert purses.allow(one, NS_PER_S) and not purses._own_ns, "whoever has rested is forgotten"
    purses.spend(one, SMALL_NS_MAX)
    assert not purses.allow(other, NS_PER_S), "all together spend no more"
