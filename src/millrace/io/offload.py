"""Work for other threads: a few of them, which guests use in turn (io/fairqueue.py).

Compression and colour conversion release the GIL, so they may run beside the event loop. Their threads have the loop's
own priority: one of a lower is preempted while it holds the GIL, and the loop waits for it (on a core that another
program wanted too, a timer of 2.5 ms was late by 47 ms at the 99th percentile with niceness 10, by 8 with none).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from millrace.errors import Busy
from millrace.io.buckets import Buckets
from millrace.io.clock import now_ns
from millrace.io.fairqueue import Customer, FairQueue, Taken
from millrace.units import HostNs

T = TypeVar("T")
log = logging.getLogger("millrace.io")
THREADS_MAX = 4
QUEUE_MAX = 64
"""Work of one customer that waits. Each lane has one piece under way, so this limits the lanes."""
Item: TypeAlias = tuple["Lane", Callable[[], Any]]


# The laws of the pool:
#
# - A lane has one piece of work at a time, which is why the owners of lanes need no locks.
# - Customers (guests) are served in turn, by the time that their work takes: however many lanes one has, the work of
#   another that uses less waits only until a thread is done with what it has begun.
# - `done` is called on the event loop, exactly once for each piece of work that was accepted, unless the pool was
#   closed first: then it is not called at all, and the work may or may not have run.
# - Work that has not begun can be withdrawn: it never runs, nothing is told, and its place in the queue is free.
# - Small work is done at once, on the loop, and its `done` called before the call returns, as long as all of it takes
#   little of the loop's time, and its customer's a part of that (io/buckets.py): two changes of thread take longer than
#   the work, and on a busy machine much longer.
# - `close` returns when no thread runs anymore, so nothing that work refers to is in use afterwards.
class Offload:
    """The pool of one worker. It must be created and used on a single event loop."""

    def __init__(self, threads: int = 0, clock: Callable[[], HostNs] = now_ns) -> None:
        """`threads` 0: one fewer than there are cores, 4 at most."""
        self._limit = threads or max(1, min(THREADS_MAX, len(os.sched_getaffinity(0)) - 1))
        self._clock = clock
        self._buckets = Buckets(clock())
        self._loop = asyncio.get_running_loop()
        self._work: FairQueue[Item] = FairQueue()
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def lane(self, customer: Customer[Item]) -> Lane:
        """For one user, whose work is a customer's."""
        return Lane(self, customer)

    @property
    def crowded(self) -> bool:
        """Whether all threads are busy, so that work would have to wait."""
        with self._wake:
            return not self._idle and len(self._threads) == self._limit

    # Threads are started when they are needed: a daemon without pictures has none.
    def submit(self, lane: Lane, work: Callable[[], Any]) -> None:
        """For lanes: queue work; Busy if too much of its customer waits, or the pool is closed."""
        with self._wake:
            if self._closed or len(lane.customer.waiting) >= QUEUE_MAX:
                raise Busy("the daemon is shutting down" if self._closed else "too many pictures wait to be encoded")
            self._work.put(lane.customer, (lane, work))
            if not self._idle and len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=f"millrace-offload-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._wake.notify()

    def withdraw(self, lane: Lane) -> bool:
        """For lanes: take out of the queue what waits there; False if it has begun."""
        with self._wake:
            item = next((item for item in lane.customer.waiting if item[0] is lane), None)
            if item is None:
                return False
            self._work.remove(lane.customer, item)
            return True

    def at_once(self, lane: Lane, work: Callable[[], Any]) -> tuple[Any] | None:
        """For lanes: the result or exception of small work; None, and nothing done, if too much of it was done."""
        began = self._clock()
        if self._closed or not self._buckets.allow(lane.customer, began):
            return None
        result = _result(work)
        self._buckets.spend(lane.customer, self._clock() - began)
        return (result,)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            lane, work = taken.item
            began_ns = self._clock()
            result = _result(work)
            with self._wake:
                self._work.done(taken, self._clock() - began_ns)
            self._tell(lane, result)
            # Otherwise this frame would keep a picture until the next one.
            del taken, lane, work, result

    def _next(self) -> Taken[Item] | None:
        with self._wake:
            self._idle += 1
            while not self._closed and (taken := self._work.take()) is None:
                self._wake.wait()
            self._idle -= 1
            return None if self._closed else taken

    def _tell(self, lane: Lane, result: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(lane.finished, result)
        except RuntimeError:
            # The loop has ended: nobody is left to be told.
            log.debug("work finished after the event loop had ended")

    def close(self) -> None:
        """Discard what waits, and return when what runs has finished. A second call does nothing."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._work.clear()
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed


class Lane:
    """One user's way into the pool: calling it runs `work` in a thread, and `done` with its result or exception."""

    def __init__(self, pool: Offload, customer: Customer[Item]) -> None:
        self._pool, self.customer = pool, customer
        self._done: Callable[[Any], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._done is not None

    @property
    def crowded(self) -> bool:
        """Whether all threads of the pool are busy."""
        return self._pool.crowded

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None], small: bool = False) -> None:
        """Start work; Busy if the pool is full or closed. `small`: it takes well under a millisecond."""
        assert self._done is None, "one piece of work at a time"
        if small and (made := self._pool.at_once(self, work)) is not None:
            done(made[0])
            return
        self._pool.submit(self, work)
        self._done = done

    def finished(self, result: Any) -> None:
        """For the pool: the work is done."""
        done, self._done = self._done, None
        if done is not None and not self._pool.closed:
            done(result)

    def withdraw(self) -> bool:
        """Take back what has not begun. Returns whether nothing is under way now; otherwise `done` will be called."""
        if self._done is not None and self._pool.withdraw(self):
            self._done = None
        return self._done is None


def _result(work: Callable[[], Any]) -> Any:
    """What it returns, or the exception that it raises."""
    try:
        return work()
    except Exception as error:
        return error
