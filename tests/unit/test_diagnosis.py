"""Whom a run of the graphs that was late, or took long, is blamed on: one cause each time, and no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from millrace.observe.diagnosis import Diagnosis, Surroundings
from millrace.units import NS_PER_MS

TICK_MS = 10
BUSY = ("loop", "busy")


class Clinic:
    """A diagnosis, and what the system says of the daemon's thread."""

    def __init__(self, encoding_ms: float) -> None:
        self.now_ns, self.waited_ns, self.computed_ns = 1_000_000 * NS_PER_MS, 0, 0
        guest: Any = SimpleNamespace(outlets=SimpleNamespace(encoding_ns=lambda: round(encoding_ms * NS_PER_MS)))
        around = Surroundings(
            lambda: self.now_ns,
            lambda: self.now_ns,
            lambda: self.waited_ns,
            lambda: self.computed_ns,
            lambda pid: False,
        )
        self.diagnosis = Diagnosis(around, lambda: 1, lambda: [guest], lambda change, incident: None, lambda: None)

    def run(self, late_ms: int, spent_ms: int, waited_ms: int, computed_ms: int, gap_ms: int) -> list[tuple[str, str]]:
        """A run that was due `gap_ms` after the one before; since then the thread has waited and computed so long."""
        self.diagnosis.ran(self.now_ns)
        before = self.now_ns
        self.now_ns += (gap_ms + late_ms + spent_ms) * NS_PER_MS
        self.waited_ns += waited_ms * NS_PER_MS
        self.computed_ns += computed_ms * NS_PER_MS
        began = self.now_ns - spent_ms * NS_PER_MS
        self.diagnosis.ran(began)
        self.diagnosis.strain(late_ms * NS_PER_MS, spent_ms * NS_PER_MS, began, before)
        return [(one.stage, one.cause) for one in self.diagnosis.incidents]


@pytest.mark.parametrize(
    ("late", "spent", "waited", "computed", "encoding", "gap", "blamed"),
    [
        (150, 0, 0, 0, 0, TICK_MS, ("loop", "not run")),
        (150, 0, 140, 0, 0, TICK_MS, ("loop", "starved")),
        (150, 0, 0, 145, 0, TICK_MS, BUSY),
        # On a loaded machine everybody waits a little; but the daemon computed, just before it was due.
        (150, 0, 100, 145, 0, TICK_MS, BUSY),
        # What it computed long before that delayed nothing.
        (150, 0, 140, 145, 0, 500, ("loop", "starved")),
        (30, 60, 0, 60, 0, TICK_MS, ("cycle", "overran")),
        (0, 60, 0, 60, 10, TICK_MS, ("cycle", "overran")),
        (0, 60, 0, 60, 50, TICK_MS, ("encoder", "slow")),
        (0, 60, 50, 10, 0, TICK_MS, ("loop", "starved")),
        (0, 60, 0, 10, 0, TICK_MS, ("loop", "not run")),
    ],
)  # fmt: skip
def test_time_that_was_lost_is_blamed_on_who_used_it_and_on_nobody_else(
    late: int, spent: int, waited: int, computed: int, encoding: int, gap: int, blamed: tuple[str, str]
) -> None:
    assert Clinic(encoding).run(late, spent, waited, computed, gap) == [blamed]


def test_incident_tells_what_was_measured_and_when_it_began() -> None:
    clinic = Clinic(0)
    began = clinic.now_ns
    clinic.run(150, 0, 100, 145, TICK_MS)
    (incident,) = clinic.diagnosis.incidents
    assert incident.evidence == {
        "late_ms": 150.0, "took_ms": 0.0, "waited_for_processor_ms": 100.0, "computed_ms": 145.0,
    }  # fmt: skip
    assert began <= incident.at_ns <= began + TICK_MS * NS_PER_MS
