"""How soon the daemon accepts connections, and how soon help is printed."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from bench.common import MILLRACE, Daemon, daemon, median, processes


def reconnect_s() -> float:
    """Seconds from when the restarted daemon is ready, after kill -9, until its listener is connected again."""
    with tempfile.TemporaryDirectory(prefix="mr") as name, processes() as start:
        first = Daemon(Path(name))
        start(*MILLRACE, "listen", first.url(), "--to", "null:", "-q", env=first.env)
        while not first.state()["guests"][0]["listeners"]:
            time.sleep(0.05)
        first.process.kill()
        first.process.wait()
        time.sleep(2)
        second = Daemon(Path(name), listen=first.listen)
        began = time.monotonic()
        while not second.state()["guests"][0]["listeners"]:
            time.sleep(0.01)
        took = time.monotonic() - began
        second.stop()
        return took


def main() -> None:
    """Print medians of five runs, with bytecode present as in an installed package."""
    with daemon():
        pass
    ready, help_ = [], []
    for _ in range(5):
        with daemon() as bus:
            ready.append(bus.ready_s)
        began = time.monotonic()
        subprocess.run([*MILLRACE, "--help"], capture_output=True, check=True)
        help_.append(time.monotonic() - began)
    back = median([reconnect_s() for _ in range(5)])
    print(f"start: a listener is back {back:.2f} s after the daemon's return (goal ≤ 1)")
    print(f"start: serve ready in {median(ready):.2f} s (goal ≤ 0.5), --help in {median(help_):.2f} s (goal ≤ 0.3)")
