"""Settings for all tests."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# Hundreds of processes load the same modules. If none may write bytecode, each of them compiles numpy and all of
# Millrace again, and a daemon takes twice as long to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Other work may load the machine, so the time that an example takes means nothing.
settings.register_profile("millrace", deadline=None)
settings.load_profile("millrace")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where the mark xdist_group has no effect: tests that disturb each other would run side by side."""
    grouped = getattr(item.config.option, "loadgroup", False) and item.get_closest_marker("xdist_group")
    if grouped and "@" not in item.nodeid:
        pytest.fail(f"under pytest {pytest.__version__} this pytest-xdist does not keep the tests of a group together")
