"""The runs of `make test`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.run import REAL

ROOT = Path(__file__).parents[2]
MARKED = re.compile(r"pytest\.mark\.(?:real|beside|alone)\b")


def test_marks_that_choose_a_run_are_only_where_runs_are_chosen_by_them() -> None:
    """Elsewhere such a mark would have no effect: the test would run beside those that it disturbs."""
    marked = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if MARKED.search(path.read_text())}
    assert marked
    assert not {path for path in marked if not path.is_relative_to(REAL)}
