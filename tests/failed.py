"""A pytest plugin (`-p tests.failed`) that writes the names of failed tests to the file named by MILLRACE_FAILED."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FILE = "MILLRACE_FAILED"


def without_group(nodeid: str) -> str:
    """A test's name as pytest accepts it: pytest-xdist appends `@group` to tests that have one."""
    head, at, group = nodeid.rpartition("@")
    return head if at and "]" not in group and ("[" not in nodeid or head.endswith("]")) else nodeid


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called by pytest for every phase of every test."""
    if report.failed and (name := os.environ.get(FILE)) and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(name).open("a") as file:
            file.write(without_group(report.nodeid) + "\n")
