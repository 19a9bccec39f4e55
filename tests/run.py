"""`make test`: lint and all tests, scheduled to finish as soon as possible on two processors.

Three runs go on in parallel, at priorities by how sensitive to timing they are:

- Tests that drive real programs and judge the sound as it arrives have the highest priority. As many run at a time as
  there are processors to spare: they mostly wait.
- Tests that drive programs but judge no times run beside them, at a lower priority. They mostly wait, too. Some of
  these (`LATE`) follow the first run, which is the shorter one.
- Everything that only computes (lint, unit tests, hours of virtual time), and after that daemons in the tests' own
  process, runs when a processor would be idle.

Tests marked `alone`, whose timing others would disturb or which load the whole machine, follow the first two runs, one
at a time: what runs when a processor would be idle disturbs nobody. If they starve that, it is among the tests that
failed in parallel: these are named and run again by themselves at the end, and that result counts. Failures are printed
once more after that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from tests.failed import FILE

BIN = Path(sys.executable).parent
PROCESSORS = os.cpu_count() or 1
SOURCES = ["src", "tests", "bench", "examples"]
COMPUTING = ["tests/unit", "tests/test_layers.py", "tests/scenario/test_time.py", "tests/scenario/test_machines.py"]
REAL = "tests/real"
"""All tests of other programs, and the only ones with the marks `real`, `beside` and `alone`."""
LATE = [f"{REAL}/test_page_screen.py", f"{REAL}/test_page_screen_trouble.py", f"{REAL}/test_tablet.py"]
"""Tests of browsers, of which one at a time runs beside what sounds, and of a guest that shows a film in time."""
OTHERS = [f"--ignore={path}" for path in (*COMPUTING, REAL)]
SOUNDING, BESIDE, COMPUTING_AT_ONCE = max(1, min(3, PROCESSORS)), 4, max(3, min(4, PROCESSORS + 1))
"""How many tests of each kind run at a time."""
AGAIN_MAX = 40
"""More failures than this were not caused by the tests beside them, so they are not repeated."""
IDLY = ["chrt", "--idle", "0"] if shutil.which("chrt") else ["nice", "-n", "19"]
GIVING_WAY = ["nice", "-n", "10"]
LINT = [
    [f"{BIN}/ruff", "check", *SOURCES],
    [f"{BIN}/ruff", "format", "--check", "-q", *SOURCES],
    [f"{BIN}/mypy"],
]


def pytest(*args: str) -> list[str]:
    """A run of pytest that does not touch the files of other runs."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.failed", *args]


def several(number: int, *args: str) -> list[str]:
    """A run of so many tests at a time; the tests of one group stay in one process."""
    return pytest(*(["-n", str(number), "--dist", "loadgroup"] if number > 1 else []), *args)


COMPUTE = [*IDLY, *several(COMPUTING_AT_ONCE, *COMPUTING)]
IN_PROCESS = [*IDLY, *several(COMPUTING_AT_ONCE, *OTHERS)]
_BESIDE = ["-m", "not alone and (beside or not real)"]
BESIDE_SOUND = [*GIVING_WAY, *several(BESIDE, *_BESIDE, *(f"--ignore={path}" for path in LATE), REAL)]
AFTER_SOUND = [*GIVING_WAY, *several(2, *_BESIDE, *LATE)]
SOUND = several(SOUNDING, "-m", "real and not beside and not alone", REAL)
ALONE = pytest("-m", "alone", REAL)


class Run(Protocol):
    """Runs a command."""

    def __call__(self, command: list[str], log: IO[bytes], failed: Path | None = None, show: bool = False) -> int:
        """Run it to its end; returns its exit status.

        Its output goes to `log`, and is printed too if it is to `show`; the names of failed tests go to `failed`.
        """
        ...


def run(command: list[str], log: IO[bytes], failed: Path | None = None, show: bool = False) -> int:
    """See `Run`."""
    env = os.environ | ({FILE: str(failed)} if failed else {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) as process:
        assert process.stdout is not None
        while data := process.stdout.read1():
            log.write(data)
            if show:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
    return process.returncode


def again(code: int, failed: Path, run: Run, log: IO[bytes]) -> int:
    """Run the tests that failed in parallel again by themselves; returns the exit code that counts."""
    if code != 1 or not failed.exists():
        return code
    names = list(dict.fromkeys(failed.read_text().splitlines()))
    if not 0 < len(names) <= AGAIN_MAX:
        return code
    print(f"\nfailed beside others, and run again alone: {', '.join(names)}", flush=True)
    return run(pytest(*names), log, show=True)


def failures(text: bytes) -> bytes:
    """The part of a run's output about failures; all of it if no test failed."""
    found = [at for mark in (b"= ERRORS =", b"= FAILURES =") if (at := text.find(mark)) >= 0]
    return text[text.rfind(b"\n", 0, min(found)) + 1 :] if found else text


def main(run: Run = run) -> int:
    """Run all; 0 if nothing failed."""
    # A shell starts what it runs in the background with this signal ignored, and so would each program be that a test
    # ends by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        *logs, last = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(8)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        unit, own, beside, late, sound = (folder / name for name in ("unit", "own", "beside", "late", "sound"))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        idly = pool.submit(lambda: (
            max(abs(run([*IDLY, *command], logs[0])) for command in LINT), run(COMPUTE, logs[1], unit),
            run(IN_PROCESS, logs[2], own),
        ))  # fmt: skip
        besides = pool.submit(run, BESIDE_SOUND, logs[3], beside)
        sounded = run(SOUND, logs[5], sound, show=True)
        lated = run(AFTER_SOUND, logs[4], late)
        besided = besides.result()
        alone = run(ALONE, logs[6], show=True)
        linted, computed, processed = idly.result()
        for log in logs[:5]:
            log.seek(0)
            print(log.read().decode(errors="replace"), flush=True)
        parallel = ((computed, unit), (processed, own), (besided, beside), (lated, late), (sounded, sound))
        codes = [linted, *(again(code, failed, run, last) for code, failed in parallel), alone]
        for code, log in zip(codes, logs, strict=True):
            if code:
                log.seek(0)
                print(failures(log.read()).decode(errors="replace"), flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
