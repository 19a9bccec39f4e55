"""What the daemon sets in its process: freed memory is returned to the system, and threads let each other run."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.daemon import allocator, threads

PROGRAM = """
import numpy as np
from millrace.daemon.allocator import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256

give_back()
# From here on glibc would take blocks of up to 8 MiB from its heap.
del [np.ones(8 << 20, np.uint8)][0]
before = resident()
blocks = [(np.ones(100 << 10, np.uint8), np.ones(4 << 10, np.uint8)) for _ in range(1000)]
kept = [small for _, small in blocks]
del blocks
print(resident() - before)
"""


def test_large_blocks_are_returned_to_system_immediately() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20


def test_library_is_told_mmap_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def library(name: str | None) -> Any:
        asked.append(name)
        return SimpleNamespace(mallopt=lambda *setting: asked.append(setting))

    monkeypatch.setattr(allocator.ctypes, "CDLL", library)
    allocator.give_back()
    assert asked == [None, (-3, 65_536)], "M_MMAP_THRESHOLD, of mallopt(3)"
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace())
    allocator.give_back()


def test_threads_let_others_run_after_as_long_as_a_step_may_take() -> None:
    before = sys.getswitchinterval()
    try:
        threads.take_turns()
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)
