"""`make test`: lint and all tests, scheduled to finish as soon as possible on two processors.

Three runs go on in parallel, at priorities by how sensitive to timing they are:

- Tests that drive real programs and judge the sound as it arrives have the highest priority. As many run at a time as
  there are processors to spare: they mostly wait.
- Tests that drive programs but judge no times run beside them, at a lower priority. They mostly wait, too.
- Everything that only computes (lint, unit tests, hours of virtual time), and after that daemons in the tests' own
  process, runs when a processor would be idle.

Tests marked `alone`, whose timing others would disturb or which load the whole machine, follow the first two runs, one
at a time: what runs when a processor would be idle disturbs nobody. Tests that failed in parallel are named and run
again by themselves at the end, and that result counts. Failures are printed once more after that.
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

from tests.failed import FILE

BIN = Path(sys.executable).parent
PROCESSORS = os.cpu_count() or 1
SOURCES = ["src", "tests", "bench", "examples"]
COMPUTING = ["tests/unit", "tests/test_layers.py", "tests/scenario/test_time.py", "tests/scenario/test_machines.py"]
REAL = "tests/real"
"""All tests of other programs, and the only ones with the marks `real`, `beside` and `alone`."""
OTHERS = [f"--ignore={path}" for path in (*COMPUTING, REAL)]
SOUNDING, BESIDE, COMPUTING_AT_ONCE = max(1, min(3, PROCESSORS)), 3, max(2, min(4, PROCESSORS))
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
BESIDE_SOUND = [*GIVING_WAY, *several(BESIDE, "-m", "not alone and (beside or not real)", REAL)]
SOUND = several(SOUNDING, "-m", "real and not beside and not alone", REAL)
ALONE = pytest("-m", "alone", REAL)


def quietly(log: IO[bytes], *commands: list[str], failed: Path | None = None) -> int:
    """Run commands one after another; their output goes to `log`, and the names of failed tests to `failed`."""
    env = noting(failed)
    return max(abs(subprocess.run(command, stdout=log, stderr=log, env=env).returncode) for command in commands)


def noting(failed: Path | None) -> dict[str, str]:
    """The environment of a run that writes the names of failed tests to `failed`."""
    return os.environ | ({FILE: str(failed)} if failed else {})


def again(code: int, failed: Path) -> int:
    """Run the tests that failed in parallel again by themselves; returns the exit code that counts."""
    if code != 1 or not failed.exists():
        return code
    names = list(dict.fromkeys(failed.read_text().splitlines()))
    if not 0 < len(names) <= AGAIN_MAX:
        return code
    print(f"\nfailed beside others, and run again alone: {', '.join(names)}", flush=True)
    return subprocess.run(pytest(*names)).returncode


def shown(command: list[str], log: IO[bytes], failed: Path | None = None) -> int:
    """Run a command; its output is both printed and logged."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=noting(failed)) as process:
        assert process.stdout is not None
        while data := process.stdout.read1():
            log.write(data)
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    return process.returncode


def failures(text: bytes) -> bytes:
    """The part of a run's output about failures; all of it if no test failed."""
    found = [at for mark in (b"= ERRORS =", b"= FAILURES =") if (at := text.find(mark)) >= 0]
    return text[text.rfind(b"\n", 0, min(found)) + 1 :] if found else text


def main() -> int:
    """Run all; 0 if nothing failed."""
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(6)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        unit, own, beside, sound = (folder / name for name in ("unit", "own", "beside", "sound"))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        idly = pool.submit(lambda: (
            quietly(logs[0], *([*IDLY, *command] for command in LINT)), quietly(logs[1], COMPUTE, failed=unit),
            quietly(logs[2], IN_PROCESS, failed=own),
        ))  # fmt: skip
        besides = pool.submit(quietly, logs[3], BESIDE_SOUND, failed=beside)
        sounded = shown(SOUND, logs[4], sound)
        besided = besides.result()
        alone = shown(ALONE, logs[5])
        linted, computed, processed = idly.result()
        for log in logs[:4]:
            log.seek(0)
            print(log.read().decode(errors="replace"), flush=True)
        codes = [
            linted, again(computed, unit), again(processed, own), again(besided, beside), again(sounded, sound), alone,
        ]  # fmt: skip
        for code, log in zip(codes, logs, strict=True):
            if code:
                log.seek(0)
                print(failures(log.read()).decode(errors="replace"), flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
