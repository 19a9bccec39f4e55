"""Shared by the benchmarks: a daemon to measure, CPU time of processes, a signal that resembles music."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MILLRACE = [sys.executable, "-m", "millrace.cli.main"]


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process in ns, as the scheduler counts it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def memory_kib(pid: int) -> int:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def cpu_share(pid: int, seconds: float) -> float:
    """CPU of one core used over `seconds`: 1.0 is a whole core."""
    before, began = cpu_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_ns(pid) - before) / 1e9 / (time.monotonic() - began)


def music(seconds: float, rate: int = 48_000, seed: int = 1) -> np.ndarray:
    """A stereo signal that costs an encoder as much as music: chords with harmonics, a beat of noise, stereo width."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    out = np.zeros((len(t), 2))
    for k, root in enumerate((110.0, 138.6, 164.8, 220.0)):
        for harmonic in range(1, 9):
            pan = random.uniform(0.2, 0.8)
            wave = np.sin(2 * np.pi * root * harmonic * t + random.uniform(0, 6.28)) / harmonic
            wave *= 0.5 + 0.5 * np.sin(2 * np.pi * (0.2 + 0.1 * k) * t)
            out += 0.08 * wave[:, None] * (pan, 1 - pan)
    beat = np.exp(-((t * 2) % 1.0) * 12)
    out += 0.15 * (random.standard_normal((len(t), 2)) * beat[:, None])
    return np.clip(out, -1, 1).astype(np.float32)


class Daemon:
    """A daemon under measurement."""

    def __init__(
        self, runtime: Path, *args: str, listen: str = "127.0.0.1:0", ppm: float = 0.0, log: int | None = None,
        painted: str = "", stamps: Path | None = None, module: str = "",
    ) -> None:  # fmt: skip
        """With `painted`, its guest has a screen that paints itself, with `stamps` noted: see bench/painted.py.

        `module` is what runs instead of `millrace`.
        """
        self.runtime = runtime
        module = module or ("bench.skewed" if ppm else "bench.painted" if painted else "")
        command = [sys.executable, "-m", module] if module else MILLRACE
        self.env = (
            os.environ
            | {"PAINTED": painted, "STAMPS": str(stamps or "")}
            | {name: str(runtime) for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        )
        for name in ("PULSE_SERVER", "PYTHONDONTWRITEBYTECODE", "MILLRACE_TOKEN"):
            self.env.pop(name, None)
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "serve", "--listen", listen, *args], env=self.env | {"PPM": f"{ppm}"},
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        assert self.process.stdout is not None
        while b"ready;" not in self.process.stdout.readline():
            assert self.process.poll() is None, "the daemon ended"
        self.ready_s = time.monotonic() - began
        self.pid = self.process.pid
        self.listen = self.state()["listen"]
        # Benchmarks connect over TCP, as remote listeners do.
        self.env["MILLRACE_TOKEN"] = os.environ["MILLRACE_TOKEN"] = (runtime / "millrace" / "key").read_text().strip()

    def state(self) -> dict[str, Any]:
        done = subprocess.run([*MILLRACE, "ls", "--json"], env=self.env, capture_output=True, text=True, check=True)
        state: dict[str, Any] = json.loads(done.stdout)
        return state

    def pulse(self, guest: str = "default") -> str:
        return f"unix:{self.runtime}/millrace/{guest}/pulse"

    def url(self, guest: str = "default") -> str:
        return f"ws://{self.listen}/{guest}"

    def link(self) -> str:
        """A link to the page, valid for one browser."""
        done = subprocess.run([*MILLRACE, "page"], env=self.env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def daemon(*args: str, **options: Any) -> Iterator[Daemon]:
    """A daemon in its own directory; for the options see `Daemon`."""
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        one = Daemon(Path(name), *args, **options)
        try:
            yield one
        finally:
            one.stop()


@contextmanager
def processes() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that are killed when the block ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, **options)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def option(name: str, default: float) -> float:
    """The number after --NAME in the command line."""
    words = sys.argv
    if f"--{name}" not in words:
        return default
    try:
        return float(words[words.index(f"--{name}") + 1])
    except (IndexError, ValueError):
        sys.exit(f"--{name} needs a number")


def median(values: list[float]) -> float:
    """The median."""
    return float(np.median(values))
