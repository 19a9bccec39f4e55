"""Work in other threads: its results come back on the loop, once, and nothing runs after the end."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from millrace.errors import Busy
from millrace.io import offload
from millrace.io.buckets import SMALL_NS_MAX, SMALL_SHARE
from millrace.io.fairqueue import Customer
from millrace.io.offload import Item, Lane, Offload


def run(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main(), 20))


async def result_of(lane: Lane, work: Any) -> Any:
    come: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    lane(work, come.set_result)
    return await come


def test_results_and_errors_come_back_on_the_loop() -> None:
    async def main() -> None:
        pool = Offload(2)
        lane, here = pool.lane(Customer()), threading.get_ident()
        assert await result_of(lane, lambda: threading.get_ident()) != here
        error = await result_of(lane, lambda: 1 // 0)
        assert isinstance(error, ZeroDivisionError)
        told: list[int] = []
        lane(lambda: 1, lambda _: told.append(threading.get_ident()))
        while not told:
            await asyncio.sleep(0.001)
        assert told == [here] and not lane.busy
        pool.close()
        pool.close()

    run(main)


def test_its_threads_have_the_priority_of_the_loop() -> None:
    """One of a lower would be preempted while it holds the GIL, which the loop waits for."""

    async def main() -> None:
        pool = Offload(1)
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        found = await result_of(
            pool.lane(Customer()), lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        )
        assert found == own
        pool.close()

    run(main)


def test_small_work_is_done_at_once_while_it_takes_little_of_the_loops_time() -> None:
    now = [0]

    async def main() -> None:
        pool, told = Offload(1, clock=lambda: now[0]), []
        lane, here = pool.lane(Customer()), threading.get_native_id()

        def work() -> int:
            now[0] += SMALL_NS_MAX
            return threading.get_native_id()

        lane(work, told.append, small=True)
        assert told == [here] and not lane.busy
        # All that it may take for now is taken, until time has passed.
        lane(work, told.append, small=True)
        assert told == [here] and lane.busy
        while len(told) < 2:
            await asyncio.sleep(0.001)
        assert told[1] != here
        now[0] += round(2 * SMALL_NS_MAX / SMALL_SHARE)
        lane(work, told.append, small=True)
        assert told[2] == here
        pool.close()

    run(main)


def test_an_exception_of_small_work_is_told() -> None:
    async def main() -> None:
        pool, told = Offload(1), []
        pool.lane(Customer())(lambda: 1 // 0, told.append, small=True)
        assert isinstance(told[0], ZeroDivisionError)
        pool.close()

    run(main)


def test_lanes_wait_for_each_other_but_threads_do_not_multiply() -> None:
    async def main() -> None:
        pool, going = Offload(2), threading.Event()
        lanes = [pool.lane(Customer()) for _ in range(6)]
        results = [asyncio.ensure_future(result_of(lane, lambda: (going.wait(5), threading.get_ident())[1]))
                   for lane in lanes]  # fmt: skip
        await asyncio.sleep(0)
        assert all(lane.busy for lane in lanes)
        with pytest.raises(AssertionError, match="one piece of work"):
            lanes[0](int, print)
        going.set()
        assert len(set(await asyncio.gather(*results))) <= 2
        pool.close()

    run(main)


def test_pool_is_crowded_while_all_its_threads_work() -> None:
    async def test() -> None:
        pool, going, started = Offload(1), threading.Event(), threading.Event()
        one, other = pool.lane(Customer()), pool.lane(Customer())
        assert not one.crowded, "it has no thread yet"

        def work() -> None:
            started.set()
            going.wait(10)

        done = asyncio.Event()
        one(work, lambda result: done.set())
        await asyncio.to_thread(started.wait, 10)
        assert one.crowded and other.crowded
        going.set()
        await done.wait()
        async with asyncio.timeout(10):
            while other.crowded:
                await asyncio.sleep(0.001)
        pool.close()

    asyncio.run(test())


def test_end_waits_for_what_runs_and_discards_the_rest() -> None:
    async def main() -> None:
        pool, started, ended, told = Offload(1), threading.Event(), threading.Event(), []

        def work() -> None:
            started.set()
            ended.wait(0.05)
            ended.set()

        first, second = pool.lane(Customer()), pool.lane(Customer())
        first(work, told.append)
        second(lambda: told.append("ran"), told.append)
        started.wait(5)
        pool.close()
        assert ended.is_set()
        await asyncio.sleep(0.01)
        assert told == [] and not [t for t in threading.enumerate() if t.name.startswith("millrace-offload")]
        with pytest.raises(Busy, match="shutting down"):
            first(int, print)

    run(main)


def test_withdrawn_work_never_runs_and_its_place_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "QUEUE_MAX", 2)

    async def main() -> None:
        pool, going, started, told = Offload(1), threading.Event(), threading.Event(), list[Any]()
        customer = Customer[Item]()
        first, other, gone = (pool.lane(customer) for _ in range(3))
        first(lambda: (started.set(), going.wait(5)), told.append)
        started.wait(5)
        other(lambda: told.append("other ran"), told.append)
        for _ in range(200):
            gone(lambda: told.append("gone ran"), told.append)
            assert len(customer.waiting) == 2 and gone.busy
            assert gone.withdraw() and gone.withdraw() and not gone.busy and len(customer.waiting) == 1
        assert other.withdraw() and not customer.waiting and customer not in pool._work._customers
        # What has begun goes on, and is told.
        assert not first.withdraw() and first.busy
        going.set()
        assert await result_of(gone, lambda: 5) == 5 and told == [(None, True)]
        assert first.withdraw()
        pool.close()

    run(main)


def test_too_much_work_of_one_customer_is_refused_and_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "QUEUE_MAX", 2)

    async def main() -> None:
        pool, going, started, greedy = Offload(1), threading.Event(), threading.Event(), Customer[Item]()
        pool.lane(greedy)(lambda: (started.set(), going.wait(5)), lambda _: None)
        started.wait(5)
        for _ in range(2):
            pool.lane(greedy)(int, lambda _: None)
        with pytest.raises(Busy, match="too many pictures"):
            pool.lane(greedy)(int, lambda _: None)
        other = asyncio.ensure_future(result_of(pool.lane(Customer()), lambda: 5))
        await asyncio.sleep(0)
        going.set()
        assert await other == 5
        pool.close()

    run(main)


def test_work_of_one_customer_does_not_wait_for_what_another_has_waiting() -> None:
    async def main() -> None:
        pool, going, started, order = Offload(1), threading.Event(), threading.Event(), list[str]()
        greedy, other = Customer[Item](), Customer[Item]()
        pool.lane(greedy)(lambda: (started.set(), going.wait(5)), lambda _: None)
        started.wait(5)
        for _ in range(8):
            pool.lane(greedy)(lambda: order.append("greedy"), lambda _: None)
        last = asyncio.ensure_future(result_of(pool.lane(greedy), lambda: order.append("greedy")))
        await asyncio.sleep(0)
        pool.lane(other)(lambda: order.append("other"), lambda _: None)
        going.set()
        await last
        assert order == ["other"] + ["greedy"] * 9
        pool.close()

    run(main)


def test_work_that_outlives_the_loop_is_harmless() -> None:
    pools: list[Offload] = []
    going = threading.Event()

    async def main() -> None:
        pools.append(Offload(1))
        pools[0].lane(Customer())(lambda: going.wait(5), lambda _: None)

    run(main)
    going.set()
    pools[0].close()
