"""When pictures are shown, on virtual time: not before their sound, and without sound at once."""

from __future__ import annotations

import random

import pytest

from millrace.clock.heard import PAUSE_NS, HeardClock
from millrace.playout.presentation import HOLD_MAX_NS, WAITING_BYTES_MAX, Presentation
from millrace.units import NS_PER_MS, NS_PER_S

START, SKEWED = 400 * 86_400 * NS_PER_S, 12_345 * NS_PER_S
"""Our clock, and how much less the daemon's shows."""
MS = NS_PER_MS


def shown(one: Presentation[int], now: int, heard: int | None) -> list[int]:
    return [waiting.picture for waiting in one.due(now, heard)]


def test_without_sound_a_picture_is_due_when_it_arrives() -> None:
    one: Presentation[int] = Presentation()
    assert one.next_timeout(START, None) is None and shown(one, START, None) == []
    one.push(1, START - SKEWED, START)
    assert one.next_timeout(START, None) == START and shown(one, START, None) == [1] and len(one) == 0


def test_a_picture_waits_for_its_sound_and_late_ones_are_taken_together() -> None:
    one: Presentation[int] = Presentation(lead_ns=5 * MS)
    for number in range(3):
        one.push(number, number * 33 * MS, START)
    # 100 ms of playout delay: what is heard now was captured 100 ms ago.
    assert shown(one, START, -100 * MS) == [] and one.next_timeout(START, -100 * MS) == START + 95 * MS
    assert shown(one, START + 94 * MS, -6 * MS) == []
    assert shown(one, START + 95 * MS, -5 * MS) == [0]
    assert shown(one, START + 200 * MS, 100 * MS) == [1, 2]


def test_no_picture_waits_for_ever_and_sound_that_ends_frees_them() -> None:
    one: Presentation[int] = Presentation()
    one.push(1, 10 * NS_PER_S, START)
    assert one.next_timeout(START, 0) == START + HOLD_MAX_NS
    assert shown(one, START + HOLD_MAX_NS - 1, 0) == [] and shown(one, START + HOLD_MAX_NS, 0) == [1]
    one.push(2, 10 * NS_PER_S, START)
    assert shown(one, START, 0) == [] and shown(one, START, None) == [2]
    one.push(3, 0, START)
    one.clear()
    assert len(one) == 0 and one.next_timeout(START, None) is None


def test_what_waits_is_bounded() -> None:
    one: Presentation[int] = Presentation()
    for number in range(5):
        one.push(number, NS_PER_S, START, WAITING_BYTES_MAX // 2)
    assert shown(one, START, 0) == [0, 1, 2] and len(one) == 2
    one.clear()
    one.push(6, NS_PER_S, START, WAITING_BYTES_MAX)
    assert shown(one, START, 0) == []


def pulls(clock: HeardClock, since: int, seconds: float, delay_ns: int, late: random.Random) -> int:
    """Pull every 5 ms, up to 20 ms late; returns the time of the last one."""
    now = since
    for step in range(round(seconds * 200)):
        due = since + step * 5 * MS
        now = due + round(late.expovariate(1 / (2 * MS))) % (20 * MS)
        clock.pulled(now, due - SKEWED - delay_ns, 10 * MS)
    return now


def test_what_is_heard_is_known_within_a_millisecond_though_pulls_are_late() -> None:
    clock, late = HeardClock(), random.Random(1)
    assert clock.at(START) is None
    now = pulls(clock, START, 3, 60 * MS, late)
    heard = clock.at(now)
    assert heard is not None and abs(heard - (now - SKEWED - 70 * MS)) < MS
    later = clock.at(now + PAUSE_NS)
    assert later is not None and later - heard == PAUSE_NS and clock.at(now + PAUSE_NS + 1) is None
    clock.forget()
    assert clock.at(now) is None


@pytest.mark.parametrize("delay_ms", [20, 160])
def test_another_delay_is_followed_soon(delay_ms: int) -> None:
    clock, late = HeardClock(), random.Random(2)
    now = pulls(clock, START, 3, 60 * MS, late)
    now = pulls(clock, now + 5 * MS, 0.5, delay_ms * MS, late)
    heard = clock.at(now)
    assert heard is not None and abs(heard - (now - SKEWED - (delay_ms + 10) * MS)) < 2 * MS


def test_a_delay_that_grows_slowly_is_followed_within_the_window() -> None:
    clock = HeardClock()
    for step in range(4_000):
        now = START + step * 5 * MS
        clock.pulled(now, now - SKEWED - 60 * MS - step * MS // 200, 10 * MS)
    heard = clock.at(now)
    assert heard is not None and abs(heard - (now - SKEWED - 90 * MS)) < 3 * MS
