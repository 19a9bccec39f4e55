"""Turns: the connections of one guest have one share of each round of the loop in common.

A connection works in small steps: a command, a piece of sound, an object of a list. When the share of its guest is used
up it waits, and goes on in a later round, in the order in which connections began to wait; bytes that have not
come yet stay in the kernel, so a client that sends too much is slowed by that. Between two rounds everybody else has
had a turn: cycles of graphs first of all.
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
"""Small steps between two pauses."""
TOLD_NS: HostNs = NS_PER_S // 2
"""A guest whose connections have waited so long without a break is told of."""


class Worker(Protocol):
    """Something that works in steps. What is `first` goes before others that wait."""

    @property
    def first(self) -> bool:
        """Whether it does."""
        ...

    def work(self) -> bool:
        """Go on until `Turns.over`; False where it has to go on in another round."""
        ...


class Steps:
    """A worker that goes through what `make` gives, and again when it is called for again."""

    def __init__(self, make: Callable[[], Iterator[None]], over: Callable[[], bool], first: bool = False) -> None:
        self._make, self._over, self.first = make, over, first
        self._steps: Iterator[None] | None = None

    def work(self) -> bool:
        """See `Worker`."""
        self._steps = self._steps or self._make()
        for _ in self._steps:
            if self._over():
                return False
        self._steps = None
        return True


async def with_pauses(steps: Iterator[None] | Generator[None, None, T]) -> T:
    """What `steps` make, with pauses: sound goes on in between, and others have their turn."""
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
    """Nobody asks who waits."""


class Turns(Slice):
    """One guest's turns, and its share of them. It must be made and used in one loop."""

    def __init__(self, clock: Clock = now_ns, kept_waiting: Callable[[HostNs, int], None] = _untold) -> None:
        """`kept_waiting` hears for how long somebody has had to wait, on and on, and how many do."""
        # By the clock on the wall: to ask what a thread has worked takes a system call, and whoever the machine
        # interrupts loses no more than the rest of one turn.
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
        """Whether something new may begin now: there is something left of the share."""
        return self.left_ns > 0

    def free(self) -> bool:
        """As `ready`, and nobody waits."""
        return self.left_ns > 0 and not self._waiting

    def __enter__(self) -> None:
        """Work for the guest begins."""
        if self._depth == 0:
            self._entered = self.clock()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        """Work for the guest ends, for now."""
        self._depth -= 1
        if self._depth == 0:
            self.leave()
            if self.left_ns < self.slice_ns // 2:
                self._schedule()

    def wait(self, worker: Worker) -> None:
        """Let `worker` go on in a later round."""
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
                # What a task does in its turn is not known before the next round.
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
            # A bug of ours must not leave the others waiting.
            log.exception("internal error in a connection's turn")
            return True

    def _note(self) -> None:
        """Whether the guest has been asking for more than its share for long."""
        if not self._waiting:
            self._since_ns = 0
        elif not self._since_ns:
            self._since_ns = now_ns()
        elif (waited := now_ns() - self._since_ns) > TOLD_NS:
            self._since_ns += waited
            self._kept_waiting(waited, self.waiting)

    async def turn(self) -> None:
        """Between two steps: wait until there is something left of the share."""
        while not self.ready() or (self._depth > 0 and self.over()):
            await self._turn().come

    def _turn(self) -> _Turn:
        turn = _Turn()
        self.wait(turn)
        return turn

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something when it has its turn, at the guest's expense: what it waits for costs nothing."""
        try:
            await self.turn()
        except BaseException:
            work.close()
            raise
        return await _Charged(self, work)


class _Turn:
    """A task that waits."""

    first = False

    def __init__(self) -> None:
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def work(self) -> bool:
        """See `Worker`."""
        if not self.come.done():
            self.come.set_result(None)
        return True


class _Charged(Awaitable[T]):
    """A coroutine whose steps count as its guest's work, and each of which waits for its turn."""

    def __init__(self, turns: Turns, work: Coroutine[Any, Any, T]) -> None:
        self._turns, self._work = turns, work

    def __await__(self) -> Generator[Any, Any, T]:
        send: Callable[[Any], Any] = self._work.send
        value: Any = None
        while True:
            try:
                with self._turns:
                    awaited = send(value)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                value, send = (yield awaited), self._work.send
                while not self._turns.ready():
                    yield from self._turns._turn().come
            except BaseException as error:
                value, send = error, self._work.throw
