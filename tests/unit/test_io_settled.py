"""What is done once a peer that sends in bursts has paused, or has sent for long."""

from __future__ import annotations

import asyncio

import pytest

from millrace.io import settled
from millrace.io.settled import MOST_NS, Settled


def test_it_is_done_once_nothing_has_come_for_a_pass_or_after_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0], list[int]()
    monkeypatch.setattr(settled, "now_ns", lambda: now[0])

    async def test() -> None:
        waits = Settled(lambda: done.append(now[0]))
        waits.came()
        for _ in range(3):
            await asyncio.sleep(0)
            waits.came()
        assert not done
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == [0]
        waits.came()
        now[0] = MOST_NS
        await asyncio.sleep(0)
        assert done == [0, MOST_NS]

    asyncio.run(test())


def test_nothing_is_done_after_the_end() -> None:
    done: list[int] = []

    async def test() -> None:
        waits = Settled(lambda: done.append(1))
        waits.came()
        waits.close()
        for _ in range(5):
            await asyncio.sleep(0)
        # What still comes is looked at, and nothing is done.
        waits.came()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not done and waits._handle is None
        ended = Settled(lambda: done.append(2))
        ended._look = lambda: done.append(3)  # type: ignore[method-assign]
        ended.came()
        ended.close()
        ended.close()
        await asyncio.sleep(0)
        assert ended._handle is None

    asyncio.run(test())
    assert not done
