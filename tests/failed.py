"""A plugin for pytest, `-p tests.failed`: writes which tests failed to the file that MILLRACE_FAILED names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FILE = "MILLRACE_FAILED"


def without_group(nodeid: str) -> str:
    """A test's name as it can be asked for: pytest-xdist adds `@group` to those that have one."""
    head, at, group = nodeid.rpartition("@")
    return head if at and "]" not in group and ("[" not in nodeid or head.endswith("]")) else nodeid


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called for every phase of every test."""
    if report.failed and (name := os.environ.get(FILE)) and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(name).open("a") as file:
            file.write(without_group(report.nodeid) + "\n")
