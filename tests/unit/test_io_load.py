"""What the operating system reports about this thread and other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from millrace.io import load
from millrace.io.clock import worked_ns

NAMED = "open('/proc/self/comm', 'w').write('a) T (b'); print(flush=True); import time; time.sleep(60)"
"""A name may hold what the fields of /proc/PID/stat are told apart by."""


def test_process_is_stopped_from_stop_until_continue() -> None:
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", NAMED], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            assert not load.is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            assert load.is_stopped(process.pid)
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
            assert not load.is_stopped(process.pid)
        finally:
            process.kill()
    assert not load.is_stopped(process.pid), "the process has exited"


def test_thread_time_counts_only_that_thread() -> None:
    took: list[int] = []

    def compute() -> None:
        before_ns = worked_ns()
        sum(range(1_000_000))
        took.append(worked_ns() - before_ns)

    before_ns = worked_ns()
    compute()
    assert worked_ns() - before_ns >= took[0] > 0
    before_ns = worked_ns()
    other = threading.Thread(target=compute)
    other.start()
    other.join()
    assert worked_ns() - before_ns < took[1]


def test_run_delay_is_second_figure_of_schedstat_or_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def read(path: Path, *args: object) -> str:
        assert str(path) == "/proc/thread-self/schedstat"
        return told[0]

    monkeypatch.setattr(Path, "read_text", read)
    for text, delay_ns in (("1200 34 5\n", 34), ("", 0), ("1200\n", 0), ("1200 many 5\n", 0)):
        told[:] = [text]
        assert load.run_delay_ns() == delay_ns

    def absent(path: Path, *args: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert load.run_delay_ns() == 0
