"""The order in which changes are saved: a requester with many of them does not delay everybody else's."""

from __future__ import annotations

import asyncio
import gc
from functools import partial

import pytest

from millrace.control.store import Store
from millrace.control.storefile import IN_MEMORY
from millrace.control.writer import StoreWriter

MANY = 50


def test_changes_of_different_requesters_are_interleaved() -> None:
    async def main() -> list[str]:
        writer, order = StoreWriter(Store(IN_MEMORY)), []

        async def change(who: str) -> None:
            await asyncio.sleep(0)
            order.append(who)

        async with asyncio.TaskGroup() as tasks:
            for who in ("many",) * MANY + ("other", "third"):
                tasks.create_task(writer.change(who, partial(change, who)))
        gc.collect()
        assert not writer._own, "nothing is stored for cancelled requests"
        writer.close()
        return order

    order = asyncio.run(main())
    assert order.count("many") == MANY and order.index("other") <= 2 and order.index("third") <= 3, order


def test_one_change_runs_at_a_time_and_failure_or_cancellation_starts_next() -> None:
    async def main() -> None:
        writer, inside = StoreWriter(Store(IN_MEMORY)), 0

        async def make(fails: bool) -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1
            if fails:
                raise ValueError

        async def change(who: str, fails: bool = False) -> None:
            await writer.change(who, lambda: make(fails))

        made = [asyncio.create_task(change(who, fails)) for who in ("a", "b") for fails in (False, True, False)]
        given_up = asyncio.create_task(change("a"))
        await asyncio.sleep(0)
        given_up.cancel()
        results = await asyncio.gather(*made, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ValueError, type(None)] * 2
        with pytest.raises(asyncio.CancelledError):
            await given_up
        async with asyncio.timeout(5):
            await change("a")
        writer.close()

    asyncio.run(main())


def test_change_holds_the_turn_until_its_end_whatever_blocks_it_enters() -> None:
    async def main() -> None:
        writer, order = StoreWriter(Store(IN_MEMORY)), list[str]()

        async def first() -> None:
            async with writer.turn:
                order.append("block")
            await asyncio.sleep(0.001)
            order.append("end")

        async def second() -> None:
            order.append("next")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.change("a", first))
            tasks.create_task(writer.change("b", second))
        assert order == ["block", "end", "next"]
        writer.close()

    asyncio.run(asyncio.wait_for(main(), 10))
