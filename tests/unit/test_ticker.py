"""The work of each second for listeners and viewers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from millrace.server.http import ticker
from millrace.server.http.ticker import Ticker
from millrace.units import HostNs

Wait = Callable[[], Awaitable[None]]


class Session:
    """One that rests after so many ticks, or fails at each."""

    def __init__(self, rests_after: int = 1_000, error: Exception | None = None) -> None:
        self.ticks, self.rests_after, self.error = 0, rests_after, error

    def tick(self, now_ns: HostNs) -> bool:
        self.ticks += 1
        if self.error is not None:
            raise self.error
        return self.ticks >= self.rests_after


def run(monkeypatch: pytest.MonkeyPatch, test: Callable[[Wait], Awaitable[None]]) -> None:
    """Run `test` with seconds that pass whenever it waits for one."""
    sleep, seconds = asyncio.sleep, list[asyncio.Event]()

    async def second(delay: float) -> None:
        if not delay:
            await sleep(0)
            return
        seconds.append(asyncio.Event())
        await seconds[-1].wait()

    async def wait() -> None:
        await sleep(0)
        if seconds:
            seconds.pop().set()
        for _ in range(3):
            await sleep(0)

    monkeypatch.setattr(ticker.asyncio, "sleep", second)
    asyncio.run(test(wait))  # type: ignore[arg-type]


def test_session_that_rests_is_left_alone_until_something_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wait: Wait) -> None:
        ticks = Ticker[Session](lambda session, error: None)
        busy, idle = Session(), Session(rests_after=2)
        wake = ticks.waker(2)
        ticks.enter(1, busy)
        ticks.enter(2, idle)
        for _ in range(5):
            await wait()
        assert (busy.ticks, idle.ticks) == (5, 2)
        wake()
        await wait()
        await wait()
        assert (busy.ticks, idle.ticks) == (7, 3)

    run(monkeypatch, test)


def test_failure_ends_one_session_and_those_that_left_are_not_ticked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wait: Wait) -> None:
        error, told = RuntimeError("a bug"), list[tuple[Session, Exception]]()

        def failed(session: Session, error: Exception) -> None:
            told.append((session, error))
            ticks.leave(1)

        ticks = Ticker[Session](failed)
        bad, good, gone = Session(error=error), Session(), Session()
        for number, session in enumerate((bad, good, gone), 1):
            ticks.enter(number, session)
        ticks.leave(3)
        await wait()
        await wait()
        assert told == [(bad, error)] and good.ticks == 2 and not gone.ticks

    run(monkeypatch, test)


def test_it_goes_on_for_a_session_that_comes_after_all_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(wait: Wait) -> None:
        ticks = Ticker[Session](lambda session, error: None)
        ticks.enter(1, Session())
        await wait()
        ticks.leave(1)
        await wait()
        assert len(asyncio.all_tasks()) == 1
        # It may also come before the last second is over.
        for number in (2, 3):
            late = Session()
            ticks.enter(number, late)
            await wait()
            assert late.ticks == 1
            ticks.leave(number)

    run(monkeypatch, test)


def test_failure_at_the_end_of_one_session_does_not_end_the_ticks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(wait: Wait) -> None:
        def failed(session: Session, error: Exception) -> None:
            raise KeyError("another bug")

        ticks = Ticker[Session](failed)
        good = Session()
        ticks.enter(1, Session(error=RuntimeError("a bug")))
        ticks.enter(2, good)
        await wait()
        await wait()
        assert good.ticks == 2

    run(monkeypatch, test)
    assert {str(record.exc_info[1]) for record in caplog.records if record.exc_info} == {"'another bug'"}


def test_who_never_enters_or_has_left_is_not_kept() -> None:
    ticks = Ticker[Session](lambda session, error: None)

    async def test() -> None:
        ticks.waker(1)()
        ticks.enter(2, Session())
        ticks.leave(2)
        ticks.waker(2)()
        assert not ticks._awake

    asyncio.run(test())
