"""`make test`: lint and all tests, in the least time that two processors need for them.

What drives real programs and running daemons mostly waits, and judges sound as it comes: as many tests at once as there
are processors to spare. What only computes (lint, unit tests, hours of virtual time) does so at idle priority
meanwhile, where it takes time from nobody. What judges time that others would spoil, or takes the whole machine,
follows alone. What failed is shown once more at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
SOURCES = ["src", "tests", "bench", "examples"]
COMPUTING = ["tests/unit", "tests/test_layers.py", "tests/scenario/test_time.py", "tests/scenario/test_machines.py"]
AT_ONCE = max(1, min(3, (os.cpu_count() or 1) - 1))
LINT = [
    [f"{BIN}/ruff", "check", *SOURCES],
    [f"{BIN}/ruff", "format", "--check", "-q", *SOURCES],
    [f"{BIN}/mypy"],
]


def pytest(*args: str) -> list[str]:
    """A run of tests that leaves other runs' files alone."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]


COMPUTE = [*LINT, pytest("-m", "not alone", *COMPUTING)]
WAIT = pytest(
    "-n", str(AT_ONCE), "--dist", "loadgroup", "-m", "not alone",
    *(f"--ignore={path}" for path in COMPUTING),
)  # fmt: skip
ALONE = pytest("-m", "alone")


def idly(command: list[str]) -> list[str]:
    """The same, run only when nobody else would be."""
    return [*(["chrt", "--idle", "0"] if shutil.which("chrt") else ["nice", "-n", "19"]), *command]


def compute(log: IO[bytes]) -> int:
    """All that only computes, one after another."""
    return max(abs(subprocess.run(idly(command), stdout=log, stderr=log).returncode) for command in COMPUTE)


def shown(command: list[str], log: IO[bytes]) -> int:
    """Run it; what it says is shown, and kept."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while data := process.stdout.read1():
            log.write(data)
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    return process.returncode


def failures(text: bytes) -> bytes:
    """What a run says of what failed; all that it says where it was no test."""
    found = [at for mark in (b"= ERRORS =", b"= FAILURES =") if (at := text.find(mark)) >= 0]
    return text[text.rfind(b"\n", 0, min(found)) + 1 :] if found else text


def main() -> int:
    """Run all; 0 if nothing failed."""
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        computing = stack.enter_context(ThreadPoolExecutor(1)).submit(compute, logs[0])
        waited = shown(WAIT, logs[1])
        computed = computing.result()
        logs[0].seek(0)
        print(logs[0].read().decode(errors="replace"), flush=True)
        codes = [computed, waited, shown(ALONE, logs[2])]
        for code, log in zip(codes, logs, strict=True):
            if code:
                log.seek(0)
                print(failures(log.read()).decode(errors="replace"), flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
