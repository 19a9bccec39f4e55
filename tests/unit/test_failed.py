from __future__ import annotations

import pytest

from tests.failed import without_group


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/a.py::test_b", "tests/a.py::test_b"),
        ("tests/a.py::test_b@heavy", "tests/a.py::test_b"),
        ("tests/a.py::test_b[c-d]@plain scene 0", "tests/a.py::test_b[c-d]"),
        ("tests/a.py::test_b[user@host]", "tests/a.py::test_b[user@host]"),
        ("tests/a.py::test_b[user@host]@heavy", "tests/a.py::test_b[user@host]"),
    ],
)
def test_failed_test_can_be_selected_by_name(nodeid: str, name: str) -> None:
    assert without_group(nodeid) == name
