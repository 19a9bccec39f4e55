"""How often one viewer, and all viewers of a principal, may have whole pictures."""

from __future__ import annotations

from millrace.guest.ratelimits import PACE_NS, WHOLE_NS, RateLimit, ViewerLimits, WholePictures
from millrace.units import NS_PER_S


def test_first_comes_at_once_and_the_next_when_it_is_due() -> None:
    limit = RateLimit()
    assert limit.allowed(5) and limit.due_ns is None
    for now_ns in (6, NS_PER_S + 4):
        assert not limit.allowed(now_ns) and limit.due_ns == NS_PER_S + 5
    assert limit.allowed(NS_PER_S + 5) and limit.due_ns is None


def test_what_the_principal_may_not_have_is_asked_for_once_a_second() -> None:
    asked: list[int] = []
    limit = RateLimit(take=lambda now_ns: asked.append(now_ns) or len(asked) > 2)  # type: ignore[func-returns-value]
    served = [now_ns for now_ns in range(0, 3 * NS_PER_S, NS_PER_S // 10) if limit.allowed(now_ns)]
    assert asked == [0, NS_PER_S, 2 * NS_PER_S] and served == [2 * NS_PER_S]


def test_what_is_not_the_viewers_doing_takes_nothing_of_its_principals() -> None:
    limit = RateLimit(take=lambda now_ns: False)
    assert not limit.allowed(5)
    limit.renew()
    assert limit.allowed(6) and limit.due_ns is None and not limit.allowed(6 + NS_PER_S)


def test_all_viewers_of_a_principal_may_come_at_once_and_then_four_a_second() -> None:
    wholes = WholePictures(256)
    assert sum(ViewerLimits(wholes.of("token/1")).moves.allowed(5) for _ in range(400)) == 256
    # A new connection is given no more.
    served = 0
    for now_ns in range(NS_PER_S, 11 * NS_PER_S, NS_PER_S // 100):
        limits = ViewerLimits(wholes.of("token/1"))
        served += limits.moves.allowed(now_ns) + limits.refreshes.allowed(now_ns)
    assert 10 * NS_PER_S / WHOLE_NS <= served <= 11.5 * NS_PER_S / WHOLE_NS
    assert ViewerLimits(wholes.of("token/2")).moves.allowed(5)


def test_those_of_a_principal_are_four_a_second_and_no_more() -> None:
    take = WholePictures(3).of("token/1")
    assert sum(take(0) for _ in range(10)) == 3
    taken = [take(round(step * WHOLE_NS / 10)) for step in range(1, 4_001)]
    assert sum(taken) == 400 and sum(taken[:400]) == 40


def test_whoever_waits_for_both_waits_for_neither_once_both_are_due() -> None:
    limits = ViewerLimits(lambda now_ns: True)
    for limit in (limits.moves, limits.paces):
        limit.allowed(0)
        limit.allowed(0)
    assert limits.due_ns == PACE_NS and not limits.came_due(PACE_NS - 1)
    assert limits.came_due(NS_PER_S) and limits.due_ns is None and not limits.came_due(NS_PER_S)


def test_principals_that_rest_are_forgotten() -> None:
    wholes = WholePictures(256)
    for number in range(100):
        assert wholes.of(f"token/{number}")(number * NS_PER_S)
    assert len(wholes) == 1


def test_viewer_waits_for_whatever_comes_first() -> None:
    limits = ViewerLimits(lambda now_ns: True)
    for _ in range(2):
        limits.moves.allowed(0)
    assert limits.due_ns == NS_PER_S
    for _ in range(2):
        limits.paces.allowed(0)
    assert limits.due_ns == PACE_NS and not limits.came_due(PACE_NS - 1)
    assert limits.came_due(PACE_NS) and limits.due_ns == NS_PER_S
    assert limits.came_due(NS_PER_S) and limits.due_ns is None
