"""An event loop on virtual time, for tests that judge every sample: a machine that is busy disturbs nothing.

Time stands still while anything is left to do, also in other threads, and then jumps to the next deadline. So whatever
is tested has to be in this process.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from millrace.io import timer
from millrace.units import NS_PER_S, HostNs

T = TypeVar("T")
FAR_S, MOMENT_S = 0.5, 0.02


class _Selector(selectors.DefaultSelector):
    """Waits in virtual time for deadlines, and in real time for threads."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns: HostNs = time.monotonic_ns()
        self.threads = 0
        """Calls that are running in threads."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.threads:
            return super().select()
        # What was sent over TCP may take a moment, for which no test's time limit should run out.
        if timeout >= FAR_S and (ready := super().select(MOMENT_S)):
            return ready
        self.now_ns += max(1, round(timeout * NS_PER_S))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the selector's."""

    def __init__(self) -> None:
        self.waiting = _Selector()
        super().__init__(self.waiting)

    def time(self) -> float:
        return self.waiting.now_ns / NS_PER_S

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self.waiting.threads += 1
        future.add_done_callback(self._come)
        return future

    def _come(self, _: object) -> None:
        self.waiting.threads -= 1


@contextmanager
def _clock(now_ns: Callable[[], HostNs]) -> Iterator[None]:
    """The program reads this clock, whichever module has imported it."""

    def exchange(one: object, other: object) -> None:
        for module in [module for name, module in sys.modules.items() if name.startswith("millrace.")]:
            for name in [name for name, value in vars(module).items() if value is one]:
                setattr(module, name, other)

    exchange(time.monotonic_ns, now_ns)
    try:
        yield
    finally:
        exchange(now_ns, time.monotonic_ns)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`."""
    loop = VirtualLoop()

    def now_ns() -> HostNs:
        return loop.waiting.now_ns

    # The kernel's timers know nothing of this time.
    missing = patch.object(timer, "TimerFd", side_effect=OSError("time is virtual"))
    with missing, _clock(now_ns), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
