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
from millrace.daemon.allocator import pin_malloc

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256

pin_malloc()
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


AGAIN = """
import resource, threading
from millrace.daemon.allocator import pin_malloc

def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def pictures():
    # As for a picture: several blocks, none of them large, and all freed before the next.
    def one():
        return [bytearray(50 << 10) for _ in range(40)]
    one()
    before = faults()
    for _ in range(10):
        one()
    print(faults() - before)

pin_malloc()
thread = threading.Thread(target=pictures)
thread.start()
thread.join()
"""


def test_what_a_thread_needs_again_and_again_is_not_fetched_from_the_system_each_time() -> None:
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "2 MB are 500 pages, ten times"


def test_library_is_told_both_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def library(name: str | None) -> Any:
        asked.append(name)
        return SimpleNamespace(mallopt=lambda *setting: asked.append(setting))

    monkeypatch.setattr(allocator.ctypes, "CDLL", library)
    allocator.pin_malloc()
    assert asked == [None, (-3, 65_536), (-1, 4_194_304)], "M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3)"
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace())
    allocator.pin_malloc()


def test_threads_let_others_run_after_as_long_as_a_step_may_take() -> None:
    before = sys.getswitchinterval()
    try:
        threads.set_switch_interval()
        assert sys.getswitchinterval() == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)
