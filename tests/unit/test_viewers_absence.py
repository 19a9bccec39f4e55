"""Why a guest has no screen."""

from __future__ import annotations

from millrace.guest.home import MachineView
from millrace.guest.viewers import ABSENCE_MAX, absence_of


def machine(state: str, error: str = "", hint: str = "") -> MachineView:
    return MachineView("door/1", "vnc:h:1", state, error, "", 1, False, hint)


def test_reason_is_what_each_machine_waits_for_or_that_it_shows_none() -> None:
    assert absence_of([]) == ""
    assert absence_of([machine("waiting")]) == "vnc:h:1: waiting"
    assert absence_of([machine("waiting", "refused"), machine("attached")]) == (
        "vnc:h:1: refused; vnc:h:1: attached, but shows no screen"
    )
    assert absence_of([machine("attached", hint="its screen is 0 × 0")]) == (
        "vnc:h:1: attached, but shows no screen (its screen is 0 × 0)"
    )
    assert len(absence_of([machine("waiting", "x" * ABSENCE_MAX)])) <= ABSENCE_MAX
