"""Customers in turn: by virtual threads, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

import pytest

from millrace.io.fairqueue import Customer, FairQueue, Taken
from millrace.units import NS_PER_MS, NS_PER_S, HostNs


class Job(NamedTuple):
    """Work that takes so long, asked for at that time, and what to do when it is done."""

    whose: str
    takes_ns: HostNs
    asked_ns: HostNs


class Executor:
    """Threads in virtual time, and customers whose lanes ask again after each piece of work."""

    def __init__(self, threads: int) -> None:
        self.now_ns: HostNs = 0
        self.queue: FairQueue[Job] = FairQueue()
        self.customers: dict[str, Customer[Job]] = {}
        self.began: list[tuple[Job, HostNs]] = []
        self.worked: dict[str, HostNs] = {}
        self._free, self._number = threads, 0
        self._events: list[tuple[HostNs, int, Callable[[], None]]] = []

    def at(self, ns: HostNs, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (ns, self._number, what))

    def ask(self, whose: str, takes_ns: HostNs) -> None:
        customer = self.customers.setdefault(whose, Customer())
        self.queue.put(customer, Job(whose, takes_ns, self.now_ns))
        self._begin()

    def lane(self, whose: str, takes_ns: HostNs, pause_ns: HostNs = 0) -> None:
        """A lane that asks again so long after it asked, or when its work is done."""

        def again() -> None:
            self.ask(whose, takes_ns)
            self.at(self.now_ns + max(pause_ns, takes_ns), again)

        again()

    def _begin(self) -> None:
        while self._free and (taken := self.queue.take()) is not None:
            self._free -= 1
            self.began.append((taken.item, self.now_ns))
            self.at(self.now_ns + taken.item.takes_ns, lambda taken=taken: self._end(taken))  # type: ignore[misc]

    def _end(self, taken: Taken[Job]) -> None:
        job = taken.item
        self.queue.done(taken, job.takes_ns)
        self.worked[job.whose] = self.worked.get(job.whose, 0) + job.takes_ns
        self._free += 1
        self._begin()

    def run(self, until_ns: HostNs) -> None:
        while self._events and self._events[0][0] <= until_ns:
            self.now_ns, _, what = heapq.heappop(self._events)
            what()

    def waited(self, whose: str) -> list[HostNs]:
        return [began_ns - job.asked_ns for job, began_ns in self.began if job.whose == whose]


@pytest.mark.parametrize("threads", [1, 2])
def test_picture_of_one_guest_waits_for_one_job_of_another_at_most(threads: int) -> None:
    longest = 40 * NS_PER_MS
    executor = Executor(threads)
    for number in range(32):
        executor.lane("greedy", longest - number * NS_PER_MS // 2)
    executor.at(7 * NS_PER_MS, lambda: executor.lane("other", 5 * NS_PER_MS, 33 * NS_PER_MS))
    executor.run(3 * NS_PER_S)
    waits = executor.waited("other")
    assert len(waits) > 80 and max(waits) <= longest
    assert max(executor.waited("greedy")) > 20 * longest // threads, "there was a queue"


def test_two_that_always_have_work_share_the_time_and_not_the_number_of_jobs() -> None:
    executor = Executor(1)
    for _ in range(10):
        executor.lane("long", 30 * NS_PER_MS)
        executor.lane("short", 3 * NS_PER_MS)
    executor.run(3 * NS_PER_S)
    assert executor.worked["short"] == pytest.approx(executor.worked["long"], rel=0.05)


def test_one_that_rested_saves_nothing_up() -> None:
    executor = Executor(1)
    executor.lane("steady", 10 * NS_PER_MS, 30 * NS_PER_MS)
    executor.run(NS_PER_S)
    for _ in range(20):
        executor.lane("late", 10 * NS_PER_MS)
    executor.run(NS_PER_S + 400 * NS_PER_MS)
    assert max(executor.waited("steady")) <= 10 * NS_PER_MS
    assert executor.worked["late"] >= 240 * NS_PER_MS


def test_what_is_removed_is_never_next_and_costs_nothing() -> None:
    queue, one, other = FairQueue[int](), Customer[int](), Customer[int]()
    for item in (1, 2, 3):
        queue.put(one, item)
    queue.put(other, 9)
    queue.remove(one, 1)
    queue.remove(one, 3)
    queue.remove(other, 9)
    taken = queue.take()
    assert taken is not None and taken.item == 2 and queue.take() is None and not other.used_ns
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(one, 2)


def test_what_is_cleared_is_gone_and_a_customer_with_nothing_waiting_is_not_kept() -> None:
    queue, customer = FairQueue[int](), Customer[int]()
    queue.put(customer, 1)
    queue.put(customer, 2)
    queue.clear()
    assert queue.take() is None and not customer.waiting
    queue.put(customer, 3)
    taken = queue.take()
    assert taken is not None and taken.item == 3 and queue.take() is None
