"""What tests need from the machine: a small disk, and the choice to skip or to fail if something is missing."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE_ALL = os.environ.get("MILLRACE_REQUIRE") == "all"
SMALL_BYTES = 256 * 1024


def lack(what: str) -> NoReturn:
    """Skip because something is missing, or fail if everything is required."""
    (pytest.fail if REQUIRE_ALL else pytest.skip)(f"this machine lacks {what}")


@contextlib.contextmanager
def small_disk(place: Path, size: int = SMALL_BYTES) -> Iterator[bool]:
    """Limit `place` to `size` bytes. Yields whether it is a disk; if none can be mounted, each file is limited."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "millrace-test", str(place)]
    able = os.getuid() == 0 and shutil.which("mount") is not None
    if able and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield True
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
        return
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield False
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def fill(place: Path) -> None:
    """Fill the disk."""
    with contextlib.suppress(OSError), (place / "filler").open("ab", buffering=0) as file:
        while file.write(bytes(512)):
            pass
