"""The kernel timer of cycles: one call at a time, not before its deadline, and nothing afterwards."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Awaitable, Callable

import pytest

from millrace.io import timer as timer_module
from millrace.io.clock import now_ns
from millrace.io.timer import TimerRunner
from millrace.io.timerfd import TimerFd
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

SOON_NS = 5 * NS_PER_MS
BOUND_S = 10


def with_timer(test: Callable[[TimerFd, asyncio.Event], Awaitable[None]]) -> None:
    async def run() -> None:
        timer = TimerFd(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(BOUND_S):
                await test(timer, asyncio.Event())
        finally:
            timer.close()

    asyncio.run(run())


def readable(timer: TimerFd) -> bool:
    return bool(select.select([timer._fd], [], [], 0)[0])


@pytest.mark.parametrize("ahead_ns", [SOON_NS, 0, -NS_PER_S])
def test_it_calls_at_the_deadline_or_at_once_if_that_has_passed(ahead_ns: HostNs) -> None:
    async def test(timer: TimerFd, called: asyncio.Event) -> None:
        deadline = now_ns() + ahead_ns
        timer.call_at(deadline, called.set)
        await called.wait()
        assert now_ns() >= deadline
        # A descriptor that stays readable would keep the loop from sleeping.
        assert not readable(timer)

    with_timer(test)


def test_the_last_deadline_counts() -> None:
    async def test(timer: TimerFd, called: asyncio.Event) -> None:
        calls = list[str]()
        timer.call_at(now_ns() + SOON_NS, lambda: calls.append("first"))
        timer.call_at(now_ns() + SOON_NS, lambda: (calls.append("second"), called.set())[1])
        await called.wait()
        assert calls == ["second"]

    with_timer(test)


def test_the_callback_may_set_it_again() -> None:
    async def test(timer: TimerFd, called: asyncio.Event) -> None:
        left = 3

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                timer.call_at(now_ns(), again)
            else:
                called.set()

        timer.call_at(now_ns(), again)
        await called.wait()
        assert left == 0

    with_timer(test)


def test_nothing_is_called_once_it_is_cancelled_or_closed() -> None:
    async def test(timer: TimerFd, called: asyncio.Event) -> None:
        timer.call_at(now_ns(), called.set)
        timer.cancel()
        assert not readable(timer)
        timer.call_at(now_ns(), called.set)
        fd = timer._fd
        timer.close()
        with pytest.raises(OSError):
            os.fstat(fd)
        timer.call_at(now_ns(), called.set)
        timer.close()
        await asyncio.sleep(0)
        assert not called.is_set()

    with_timer(test)


class Core:
    """Wants to be called three times."""

    def __init__(self) -> None:
        self.due: HostNs | None = now_ns()
        self.early, self.calls, self.done = False, 0, asyncio.Event()

    def next_timeout(self) -> HostNs | None:
        return self.due

    def handle_timeout(self, now_ns: HostNs) -> None:
        assert self.due is not None
        self.early |= now_ns < self.due
        self.calls += 1
        self.due = None if self.calls == 3 else now_ns + NS_PER_MS // 4
        if self.due is None:
            self.done.set()


def missing(loop: asyncio.AbstractEventLoop) -> TimerFd:
    raise OSError("no such timers")


@pytest.mark.parametrize("there", [True, False])
def test_runner_goes_by_the_loop_where_there_are_no_such_timers(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr(timer_module, "TimerFd", missing)

    async def run() -> None:
        core, runner = Core(), TimerRunner()
        runner.drive(core, asyncio.get_running_loop(), exact=True)
        assert (runner._exact is not None) == there
        async with asyncio.timeout(BOUND_S):
            await core.done.wait()
        assert core.calls == 3 and not core.early
        runner.stop()
        assert runner._exact is None

    asyncio.run(run())
