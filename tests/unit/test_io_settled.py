"""What waits until a peer has paused."""

from __future__ import annotations

import asyncio

import pytest

from millrace.io import settled
from millrace.io.settled import MOST_NS, Settled


def test_it_waits_for_a_pass_without_news_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 5
    monkeypatch.setattr(settled, "now_ns", lambda: now_ns)

    async def main() -> None:
        nonlocal now_ns
        told: list[int] = []
        one = Settled(lambda: told.append(now_ns))
        for _ in range(3):
            one.came()
            await asyncio.sleep(0)
        assert not told
        for _ in range(3):
            await asyncio.sleep(0)
        assert told == [5], "once"
        while now_ns < 5 + 2 * MOST_NS:
            now_ns += MOST_NS // 4
            one.came()
            await asyncio.sleep(0)
        assert told[1:2] == [5 + MOST_NS // 4 + MOST_NS], "what never pauses is told all the same"
        await asyncio.sleep(0)
        told.clear()
        one.came()
        one.close()
        one.came()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not told

    asyncio.run(main())
