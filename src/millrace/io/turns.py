"""Turns: the connections of one guest share a time slice in each round of the event loop.

A connection works in small steps: a command, a piece of sound, an object of a list. When its guest's slice is used up,
it waits and continues in a later round; waiting connections are served in order. Unread bytes stay in the kernel, so
backpressure slows a client that sends too much. Between two rounds everything else has run, graph cycles first of all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Protocol, TypeVar

from millrace.graph.share import Clock, Slice
from millrace.io.clock import now_ns
from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.io")
T = TypeVar("T")
STEPS_PER_PAUSE = 25
"""Number of small steps between two pauses."""
REPORTED_AFTER_NS: HostNs = NS_PER_S // 2
"""A guest whose connections have been waiting without a break for this long is reported."""


STRETCH_NS = NS_PER_S // 2000
"""What is done for many things at once, such as the work of a second for each guest, gives way after this long."""


class Worker(Protocol):
    """Something that works in steps. A worker that is `first` goes to the head of the queue."""

    @property
    def first(self) -> bool:
        """Whether it goes before others that wait."""
        ...

    def work(self) -> bool:
        """Work until `Turns.over`. Returns False if it has to continue in another round."""
        ...


class ChunkSize:
    """How many bytes a connection processes before it checks whether its turn is over.

    The same number of bytes may be a few milliseconds of sound, which take microseconds, or fifty requests for new
    streams, which take several turns. So the size is halved whenever a chunk has used up a turn by itself, and doubled
    whenever one has not.
    """

    def __init__(self, least: int, most: int) -> None:
        self.bytes = self._least = least
        self._most = most

    def processed(self, over: bool) -> None:
        """A chunk was processed, in a turn or the rest of one; `over` says whether it used that up."""
        self.bytes = max(self._least, self.bytes // 2) if over else min(self._most, self.bytes * 2)


class Stretch:
    """A stretch of work in the loop, since anything else could run there. One that is over gives way for a moment."""

    def __init__(self, clock: Clock = now_ns) -> None:
        self._clock = clock
        self._until_ns = clock() + STRETCH_NS

    def over(self) -> bool:
        """Whether it has lasted long enough; then the next one begins."""
        now = self._clock()
        if now < self._until_ns:
            return False
        self._until_ns = now + STRETCH_NS
        return True


async def with_pauses(steps: Iterator[None] | Generator[None, None, T]) -> T:
    """Run `steps` and return their result, pausing regularly so that sound and other tasks can run."""
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as made:
            return made.value  # type: ignore[no-any-return]
        number += 1
        if number % STEPS_PER_PAUSE == 0:
            await asyncio.sleep(0)


def _untold(waited_ns: HostNs, waiting: int) -> None:
    """Waiting is not reported."""


# The laws of turns:
#
# - All work for the guest is done inside `with turns`, or in `work`, which a round calls inside it. The time is charged
#   when the outermost block ends, so `left_ns` is out of date until then, and `over` is the question to ask.
# - In a round, each worker that waited when it began works at most once, in order. One that queues itself again waits
#   for the next round, so no worker can keep the others out.
# - Rounds are separate callbacks of the event loop. Between two of them all other timers and sockets are served; that,
#   and not the order within a guest, is what keeps the other guests' cycles on time.
# - A slice that was overdrawn is not owed: the next round renews it whole. A step is short, so what it can overdraw is
#   too.
class Turns(Slice):
    """One guest's turns and its time slice. It must be created and used in a single event loop."""

    def __init__(self, clock: Clock = now_ns, kept_waiting: Callable[[HostNs, int], None] = _untold) -> None:
        """`kept_waiting` is called with how long connections have been waiting without a break, and how many wait."""
        # Measured in elapsed time, not CPU time: reading the thread's CPU time takes a system call, and a guest
        # whose work is preempted loses at most the rest of one turn.
        super().__init__(clock)
        self._kept_waiting = kept_waiting
        self._waiting: deque[Worker] = deque()
        self._queued: set[Worker] = set()
        self._due = False
        self._depth = 0
        self._since_ns: HostNs = 0

    @property
    def waiting(self) -> int:
        """How many connections wait for a turn."""
        return len(self._waiting)

    def ready(self) -> bool:
        """Whether new work may begin: some of the slice is left."""
        return self.left_ns > 0

    def free(self) -> bool:
        """Like `ready`, and nothing is waiting."""
        return self.left_ns > 0 and not self._waiting

    def enter(self) -> None:
        """Begin work for the guest. Nested uses count once."""
        if self._depth == 0:
            self._entered = self.clock()
        self._depth += 1

    def leave(self) -> HostNs:
        """End work for the guest, for now; return how long it took, if it ends here."""
        self._depth -= 1
        if self._depth:
            return 0
        used = super().leave()
        # A round renews the slice, even if nothing waits.
        if self.left_ns < self.slice_ns // 2:
            self._schedule()
        return used

    def __enter__(self) -> None:
        """See `enter`."""
        self.enter()

    def __exit__(self, *_: object) -> None:
        """See `leave`."""
        self.leave()

    def wait(self, worker: Worker) -> None:
        """Queue `worker` for a later round."""
        if worker not in self._queued:
            self._queued.add(worker)
            if worker.first:
                self._waiting.appendleft(worker)
            else:
                self._waiting.append(worker)
            self._schedule()

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        self._due = False
        self.renew()
        with self:
            for _ in range(len(self._waiting)):
                worker = self._waiting.popleft()
                self._queued.discard(worker)
                if not self._worked(worker):
                    self.wait(worker)
                # A task that was given its turn runs only after this round, so its cost is not known yet.
                if self.over() or (isinstance(worker, _Turn) and not worker.come.cancelled()):
                    break
        if self._waiting:
            self._schedule()
        self._note()

    @staticmethod
    def _worked(worker: Worker) -> bool:
        try:
            return worker.work()
        except Exception:
            # A bug must not leave the others waiting.
            log.exception("internal error in a connection's turn")
            return True

    def _note(self) -> None:
        """Report a guest that has been asking for more than its slice for `REPORTED_AFTER_NS`."""
        if not self._waiting:
            self._since_ns = 0
        elif not self._since_ns:
            self._since_ns = now_ns()
        elif (waited := now_ns() - self._since_ns) > REPORTED_AFTER_NS:
            self._since_ns += waited
            self._kept_waiting(waited, self.waiting)

    # Inside `with turns` the slice does not shrink before the block ends, so there `over` has to be asked as well.
    async def turn(self) -> None:
        """To be awaited between two steps: wait until some of the slice is left."""
        while not self.ready() or (self._depth > 0 and self.over()):
            await self._turn().come

    def _turn(self) -> _Turn:
        turn = _Turn()
        self.wait(turn)
        return turn

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` when it has its turn, charged to the guest. The time it spends awaiting is free."""
        try:
            await self.turn()
        except BaseException:
            work.close()
            raise
        return await _Charged(self, work)

    async def charged(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` at once, charged to the guest: for work that others wait for, once its own turn has come."""
        return await _Charged(self, work, waits=False)

    def task(self, make: Callable[[], Coroutine[Any, Any, T]], name: str | None = None) -> asyncio.Task[T]:
        """Run what `make` returns in a task, as `do` does. It is not made if the task is cancelled before it begins."""

        async def begun() -> T:
            return await self.do(make())

        return asyncio.get_running_loop().create_task(begun(), name=name)


# A task can't be run from a round: setting the future only makes the event loop resume it after the round. Its cost is
# unknown until then, so a round ends after it has given a turn to a task.
class _Turn:
    """A task that waits for its turn."""

    first = False

    def __init__(self) -> None:
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def work(self) -> bool:
        """See `Worker`."""
        if not self.come.done():
            self.come.set_result(None)
        return True


class _Charged(Awaitable[T]):
    """A coroutine whose steps each wait for a turn, and are charged to the guest."""

    def __init__(self, turns: Turns, work: Coroutine[Any, Any, T], waits: bool = True) -> None:
        self._turns, self._work, self._waits = turns, work, waits

    # The coroutine is driven by hand, so that each stretch between two awaits is charged and none of the awaited time
    # is. When what it awaited is there, it waits for a turn before it goes on, since a task wakes whether or not its
    # guest has any time left. Exceptions, cancellation among them, are thrown into the coroutine at the point where it
    # waits.
    def __await__(self) -> Generator[Any, Any, T]:
        send: Callable[[Any], Any] = self._work.send
        # What is sent in next. Taken out when it is: a frame that held the exception it raises would be a cycle, which
        # only a full collection frees (daemon/collector.py).
        given: list[Any] = [None]
        while True:
            try:
                with self._turns:
                    awaited = send(given.pop())
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                given, send = [(yield awaited)], self._work.send
                while self._waits and not self._turns.ready():
                    yield from self._turns._turn().come
            except BaseException as error:
                given, send = [error], self._work.throw
