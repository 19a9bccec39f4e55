"""Deadlines while pictures move: what is noticed by them, and that there are none while nothing moves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.daemon.stallwatch import INTERVAL_NS, MOVING, StallWatch, moving
from millrace.io import clock
from millrace.outlets.picturecounts import PictureCounts
from millrace.units import NS_PER_MS
from tests import virtual


def test_stall_is_told_once_with_when_and_what_was_computed() -> None:
    told: list[tuple[int, ...]] = []
    spent, waited = iter(range(0, 1_000_000, 7)), iter(range(0, 1_000_000, 3))

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        watch = StallWatch(lambda *late: told.append(late), lambda: (next(spent), next(waited)), loop)
        watch.second(True, clock.now_ns())
        await asyncio.sleep(0.32)
        assert not told
        began_ns = clock.now_ns()
        loop.waiting.now_ns += 800 * NS_PER_MS
        await asyncio.sleep(0.2)
        watch.second(False, clock.now_ns())
        assert watch.next_timeout() is None
        loop.waiting.now_ns += 800 * NS_PER_MS
        await asyncio.sleep(0.2)
        watch.stop()
        return began_ns

    began_ns = virtual.run(main())
    ((late_ns, found_ns, before_ns, *spent_ns),) = told
    due_ns = found_ns - late_ns
    assert began_ns <= due_ns <= began_ns + INTERVAL_NS and 0 <= due_ns - before_ns <= INTERVAL_NS + NS_PER_MS
    assert 800 * NS_PER_MS - INTERVAL_NS <= late_ns <= 800 * NS_PER_MS and spent_ns == [7, 3]


@pytest.mark.parametrize(("made", "moves"), [(0, False), (MOVING - 1, False), (MOVING, True)])
def test_only_pictures_that_follow_each_other_move(made: int, moves: bool) -> None:
    counts = PictureCounts()
    group: Any = SimpleNamespace(pictures=SimpleNamespace(counts=counts))
    guests: Any = [SimpleNamespace(viewers=SimpleNamespace(groups=groups)) for groups in ([], [group])]
    assert not moving(guests)
    counts.second()
    for _ in range(made):
        counts.encoded(1, key=False)
    counts.second()
    assert moving(guests) == moves
