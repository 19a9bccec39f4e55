"""A few seconds of fuzzing a separate daemon; `python -m bench fuzz` runs for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import live

pytestmark = [pytest.mark.real, pytest.mark.alone]


def test_daemon_and_neighbour_guest_survive_mutated_traffic(tmp_path: Path) -> None:
    outcome = live.run(10.0, 5, tmp_path)
    assert not outcome.findings, live.shown(outcome)
