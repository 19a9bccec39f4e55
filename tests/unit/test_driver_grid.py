"""When the driver wants to be called: exactly for short cycles, together for long ones."""

from __future__ import annotations

from typing import Any, cast

import pytest

from millrace.graph.driver import GRID_NS, LONG_NS, TimerDriver
from millrace.graph.graph import Graph
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

DUE_NS: HostNs = 7 * NS_PER_S + NS_PER_MS // 3


class Cycles:
    """A graph with cycles of that length, the next of which is due then."""

    share = None

    def __init__(self, quantum_ns: HostNs, due_ns: HostNs) -> None:
        self.quantum_ns, self._due_ns = quantum_ns, due_ns

    def clock_by(self, *clocks: Any) -> None:
        """The driver's share of the work."""

    def next_timeout(self) -> HostNs:
        return self._due_ns


def wanted(*cycles: tuple[HostNs, HostNs]) -> HostNs | None:
    driver = TimerDriver()
    for quantum_ns, due_ns in cycles:
        driver.attach(cast(Graph, Cycles(quantum_ns, due_ns)))
    return driver.next_timeout()


@pytest.mark.parametrize(
    ("quantum_ns", "due_ns"),
    [(LONG_NS, 7 * NS_PER_S + GRID_NS), (2 * LONG_NS, 7 * NS_PER_S + GRID_NS), (LONG_NS // 2, DUE_NS)],
)
def test_long_cycles_are_due_together_and_short_ones_exactly(quantum_ns: HostNs, due_ns: HostNs) -> None:
    assert wanted((quantum_ns, DUE_NS)) == due_ns
    assert wanted((quantum_ns, 7 * NS_PER_S)) == 7 * NS_PER_S


def test_short_cycle_does_not_wait_for_long_one_that_was_due_before() -> None:
    assert wanted((LONG_NS, DUE_NS), (LONG_NS // 8, DUE_NS + 1)) == DUE_NS + 1
