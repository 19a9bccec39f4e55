"""`make test`: lint and all tests, in the least time that two processors need for them.

Three runs go on side by side, and who judges less gives way. What drives real programs and judges the sound as it comes
has the machine first, as many tests at once as there are processors to spare: it mostly waits. What drives programs
and daemons but judges no time goes on beside it, with less priority. What only computes (lint, unit tests, hours of
virtual time) does so when nobody else would.

What judges time that others would spoil, or takes the whole machine, follows alone. What failed is shown once more at
the end.
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
PROCESSORS = os.cpu_count() or 1
SOURCES = ["src", "tests", "bench", "examples"]
COMPUTING = ["tests/unit", "tests/test_layers.py", "tests/scenario/test_time.py", "tests/scenario/test_machines.py"]
OTHERS = [f"--ignore={path}" for path in COMPUTING]
SOUNDING, BESIDE = max(1, min(3, PROCESSORS - 1)), max(1, min(3, PROCESSORS // 4))
"""How many tests at once."""
IDLY = ["chrt", "--idle", "0"] if shutil.which("chrt") else ["nice", "-n", "19"]
GIVING_WAY = ["nice", "-n", "10"]
LINT = [
    [f"{BIN}/ruff", "check", *SOURCES],
    [f"{BIN}/ruff", "format", "--check", "-q", *SOURCES],
    [f"{BIN}/mypy"],
]


def pytest(*args: str) -> list[str]:
    """A run of tests that leaves other runs' files alone."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]


def several(number: int, *args: str) -> list[str]:
    """So many at once; what has a group stays together."""
    return pytest(*(["-n", str(number), "--dist", "loadgroup"] if number > 1 else []), *args)


COMPUTE = [[*IDLY, *command] for command in (*LINT, pytest("-m", "not alone", *COMPUTING))]
BESIDE_SOUND = [*GIVING_WAY, *several(BESIDE, "-m", "not alone and (beside or not real)", *OTHERS)]
SOUND = several(SOUNDING, "-m", "real and not beside and not alone", *OTHERS)
ALONE = pytest("-m", "alone")


def quietly(log: IO[bytes], *commands: list[str]) -> int:
    """Run one after another; what they say is kept."""
    return max(abs(subprocess.run(command, stdout=log, stderr=log).returncode) for command in commands)


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
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(4)]
        pool = stack.enter_context(ThreadPoolExecutor(2))
        others = [pool.submit(quietly, logs[0], *COMPUTE), pool.submit(quietly, logs[1], BESIDE_SOUND)]
        sounded = shown(SOUND, logs[2])
        codes = [one.result() for one in others]
        for log in logs[:2]:
            log.seek(0)
            print(log.read().decode(errors="replace"), flush=True)
        codes += [sounded, shown(ALONE, logs[3])]
        for code, log in zip(codes, logs, strict=True):
            if code:
                log.seek(0)
                print(failures(log.read()).decode(errors="replace"), flush=True)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
