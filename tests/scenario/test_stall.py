"""A stall of the daemon is blamed on nobody else, whatever ran first after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from millrace.doors.pushed import PushedStream, new_stream
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Stream
from millrace.media.format import AudioFormat
from millrace.symptoms import Symptom
from millrace.units import NS_PER_MS, HostNs, default_map
from tests.scenario.test_ingress import House

STALL_NS = 150 * NS_PER_MS
TICK_NS = 10 * NS_PER_MS
BLOCK = np.full((480, 2), 0.3, np.float32)


class Stalled(House):
    """A house whose driver is run as `io/runner.py` runs it."""

    ended_ns: HostNs = 0

    def fire(self, now_ns: HostNs) -> None:
        """Run the graph if it is due, then judge what that turn found."""
        armed, self.now_ns = self.now_ns, now_ns
        due = self.driver.next_timeout()
        if due is not None and due <= now_ns:
            self.driver.handle_timeout(now_ns)
            before, self.ended_ns = self.ended_ns, now_ns
            self.diagnosis.ran(now_ns)
            late = now_ns - max(due, armed)
            if late > self.diagnosis.strain_ns:
                self.diagnosis.strain(late, 0, now_ns, before)
        self.diagnose()

    def until(self, now_ns: HostNs) -> None:
        while (due := self.driver.next_timeout()) is not None and due < now_ns:
            self.fire(max(due, self.now_ns))
        self.fire(now_ns)

    def blamed(self) -> list[tuple[str, str]]:
        return [(incident.stage, incident.cause) for incident in self.diagnosis.incidents]


@pytest.fixture
def house(tmp_path: Path) -> Stalled:
    async def made() -> Stalled:
        return Stalled(tmp_path)

    return asyncio.run(made())


def test_machine_is_not_blamed_for_daemon_stall(house: Stalled) -> None:
    fmt = AudioFormat(SampleFormat.S16LE, 48_000, default_map(2))
    node = new_stream(house.graph, house.sink, "vm", fmt, {"application.name": "vm"})
    machine = PushedStream(house.graph, node, fmt)

    def plays(ticks: int) -> None:
        for _ in range(ticks):
            now = house.now_ns + TICK_NS
            house.until(now)
            machine.write(BLOCK, now)

    plays(300)
    assert not house.blamed()
    # Timers run before what arrived meanwhile is read, as with libuv.
    house.fire(house.now_ns + STALL_NS)
    for _ in range(STALL_NS // TICK_NS):
        machine.write(BLOCK, house.now_ns)
    plays(50)
    assert machine.tally.underruns
    assert set(house.blamed()) == {("loop", "not run")}
    assert {incident.subject for incident in house.diagnosis.incidents} == {"", node.key}


@pytest.mark.parametrize("what", ["late", "microphone", "unread", "overrun"])
def test_symptom_before_late_run_is_judged_after_it(house: Stalled, what: str) -> None:
    node = _node(house)
    _stall(house, lambda: house.guest.report_node(node, what, house.now_ns))
    assert house.blamed() == [("loop", "not run")] * 2


def test_listener_report_before_late_run_is_judged_after_it(house: Stalled) -> None:
    at = house.now_ns + STALL_NS // 2
    told = Symptom("network", "late", "alice", "listener/9", at_ns=at, inferred=True)
    _stall(house, lambda: house.guest.report(told))
    assert house.blamed() == [("loop", "not run")] * 2


@pytest.mark.parametrize(("after_ms", "explained"), [(0, True), (400, True), (700, False), (5_000, False)])
def test_stall_explains_what_is_heard_soon_after_it(after_ms: int, explained: bool, house: Stalled) -> None:
    """Longer than that, no buffer takes to run dry: what comes later has another cause."""
    node = _node(house)
    _stall(house, lambda: None)
    house.now_ns += after_ms * NS_PER_MS
    house.guest.report_node(node, "late", house.now_ns)
    house.diagnose()
    assert house.blamed() == [("loop", "not run"), ("loop", "not run") if explained else ("machine", "late")]


def test_corrupted_ring_is_blamed_on_its_client(house: Stalled) -> None:
    node = _node(house)
    _stall(house, lambda: None)
    house.guest.report_node(node, "ring_corrupted", 0)
    assert house.blamed() == [("loop", "not run"), ("client", "ring corrupted")]


def test_symptoms_without_stall_are_recorded_with_their_times(house: Stalled) -> None:
    node, heard = _node(house), house.now_ns
    house.guest.report_node(node, "late", heard - 30 * NS_PER_MS)
    house.now_ns += NS_PER_MS
    house.diagnose()
    (incident,) = house.diagnosis.incidents
    assert (incident.stage, incident.cause, incident.subject) == ("machine", "late", node.key)
    assert incident.at_ns == heard - 30 * NS_PER_MS and incident.evidence["heard_after_ms"] == 30.0


def _node(house: Stalled) -> Stream:
    fmt = AudioFormat(SampleFormat.S16LE, 48_000, default_map(2))
    return new_stream(house.graph, house.sink, "vm", fmt, {"application.name": "vm"})


def _stall(house: Stalled, meanwhile: Callable[[], None]) -> None:
    """The daemon does not run for `STALL_NS`; `meanwhile` is what it reads first after that."""
    due = house.now_ns
    house.now_ns += STALL_NS
    meanwhile()
    house.diagnosis.ran(house.now_ns)
    house.diagnosis.strain(STALL_NS, 0, house.now_ns, due - TICK_NS)
    house.diagnose()
