"""The runner's timer: armed for the next deadline, whatever happened at the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from millrace.io import timer as timer_module
from millrace.io.clock import now_ns
from millrace.io.runner import UNSENT_MAX, StreamRunner
from millrace.io.timer import AFTER_FAILURE_S, TimerRunner
from millrace.units import NS_PER_S, HostNs


class Loop:
    """A loop whose timers are called by hand."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        self.due.append((delay_s, callback))
        return type("Handle", (), {"cancel": lambda _: None})()


class Core:
    """Always asks to be called in a second; fails as often as told."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, 0

    def next_timeout(self) -> HostNs | None:
        return now_ns() + NS_PER_S

    def handle_timeout(self, now_ns: HostNs) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise ValueError("a bug")


def test_failing_core_is_called_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    loop, core = Loop(), Core(failures=2)
    runner = TimerRunner(core, cast(asyncio.AbstractEventLoop, loop))
    runner.rearm()
    delays = []
    for _ in range(4):
        delay_s, callback = loop.due.pop()
        delays.append(delay_s)
        callback()
    assert core.calls == 4 and len(loop.due) == 1
    assert delays[1:3] == [AFTER_FAILURE_S] * 2 and delays[3] == pytest.approx(1.0, abs=0.01)
    assert len(caplog.records) == 2


class Silent:
    """Declares its peer lost after a second of silence."""

    def __init__(self, heard_ns: HostNs) -> None:
        self.heard_ns, self.gone = heard_ns, False

    def next_timeout(self) -> HostNs | None:
        return None if self.gone else self.heard_ns + NS_PER_S

    def handle_timeout(self, now_ns: HostNs) -> None:
        self.gone = now_ns >= self.heard_ns + NS_PER_S


def test_core_that_stops_its_timer_and_fails_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    class Ends:
        runs = 0

        def next_timeout(self) -> HostNs | None:
            return now_ns()

        def handle_timeout(self, now_ns: HostNs) -> None:
            self.runs += 1
            timer.stop()
            raise ValueError("a bug")

    async def test() -> None:
        timer.drive(core, asyncio.get_running_loop())
        await asyncio.sleep(2 * AFTER_FAILURE_S)

    core, timer = Ends(), TimerRunner()
    asyncio.run(test())
    assert core.runs == 1 and len(caplog.records) == 1


@pytest.mark.parametrize("said", [True, False])
def test_received_data_is_read_after_stall_before_peer_counts_as_silent(
    said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10 * NS_PER_S
    monkeypatch.setattr(timer_module, "now_ns", lambda: now)
    loop, core = Loop(), Silent(now)
    runner = TimerRunner(core, cast(asyncio.AbstractEventLoop, loop))
    runner.rearm()
    now += 20 * NS_PER_S
    loop.due.pop()[1]()
    assert not core.gone and len(loop.due) == 1
    if said:
        core.heard_ns = now
        runner.rearm()
    now += NS_PER_S // 2
    loop.due.pop()[1]()
    assert core.gone is not said


NO_ROOM = "the guest's memory budget has no room"


class Transport:
    """Holds so many bytes that its peer has not read."""

    def __init__(self, unread_bytes: int) -> None:
        self.unread_bytes, self.aborted = unread_bytes, False

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("unread_bytes", "why"),
    [
        (0, f"{NO_ROOM}: its client left 0 bytes unread, and 3 wait for their turn"),
        (UNSENT_MAX + 1, f"its client left {UNSENT_MAX + 1} bytes unread"),
    ],
)
def test_connection_without_room_for_what_waits_ends_for_that_reason(
    unread_bytes: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner, transport = StreamRunner.__new__(StreamRunner), Transport(unread_bytes)
    runner._whose, runner._rest = "guest alice", b"abc"
    runner._weigh(cast(Any, SimpleNamespace(may_wait=lambda waiting: False)), cast(Any, transport))
    assert transport.aborted and [record.getMessage() for record in caplog.records] == [
        f"guest alice: connection ended: {why}"
    ]


def test_connection_whose_core_cannot_be_made_is_closed() -> None:
    def make(transport: asyncio.Transport, runner: StreamRunner) -> Any:
        raise ValueError("a bug")

    aborted: list[bool] = []
    transport = SimpleNamespace(set_write_buffer_limits=lambda high: None, abort=lambda: aborted.append(True))
    with pytest.raises(ValueError, match="a bug"):
        StreamRunner(make).connection_made(cast(asyncio.Transport, transport))
    assert aborted
