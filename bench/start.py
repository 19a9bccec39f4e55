"""How soon the daemon accepts, and how soon help is printed."""

from __future__ import annotations

import subprocess
import time

from bench.common import MILLRACE, daemon, median


def main() -> None:
    """Print medians of five."""
    ready, help_ = [], []
    for _ in range(5):
        with daemon() as bus:
            ready.append(bus.ready_s)
        began = time.monotonic()
        subprocess.run([*MILLRACE, "--help"], capture_output=True, check=True)
        help_.append(time.monotonic() - began)
    print(f"start: serve ready in {median(ready):.2f} s (goal ≤ 0.5), --help in {median(help_):.2f} s (goal ≤ 0.3)")
