"""What one more viewer of the same picture costs, and how much later sound begins its cycles beside full motion.

Viewers of a film with `picture=5M` share an encoder. Two watch all the time, and ten more now and then: the difference
of the daemon's CPU, divided by ten, beside what sending as many bytes alone takes. They acknowledge what arrives and
decode nothing, in processes of their own.

For the sound, pacat plays with a latency of 5 ms to a listener with `--latency low`, which makes cycles of 2.5 ms. The
film is painted by the daemon's own event loop, which a real machine would do elsewhere: so it is also measured while it
is painted and nobody watches. Takes 2.5 minutes; `--quick`, one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import MILLRACE, Daemon, cpu_share, daemon, median, processes

FEW, MORE, ROUNDS = 2, 10, 3
SETTINGS = "picture=5M"
FPS, BARE_S = 30, 4
FILM, STILL = "film:1920x1080", "still:1920x1080"
SETTLE_S, SHARE_S, SOUND_S = 3.0, 8.0, 20.0
QUICK_SHARE_S, QUICK_SOUND_S = 4.0, 8.0
SHARE_GOAL, LATER_GOAL_MS = 0.2, 2


@contextmanager
def viewers(bus: Daemon, count: int, *settings: str) -> Iterator[None]:
    """So many viewers, in one process."""
    with processes() as start:
        command = [sys.executable, "-m", "bench.viewload", bus.url(), str(count), *settings]
        load = start(*command, env=bus.env, stdout=subprocess.PIPE)
        assert load.stdout is not None and load.stdout.readline() == b"ready\n"
        time.sleep(SETTLE_S)
        yield


def further(seconds: float) -> tuple[list[float], list[float], float]:
    """CPU of a core with few viewers and with more, and the bit rate to one of them in Mb/s."""
    few, more = [], []
    with daemon(painted=FILM) as bus, viewers(bus, FEW, SETTINGS):
        for _ in range(ROUNDS):
            few.append(cpu_share(bus.pid, seconds))
            with viewers(bus, MORE, SETTINGS):
                more.append(cpu_share(bus.pid, seconds))
                listed = bus.state()["guests"][0]["viewers"]
                assert len(listed) == FEW + MORE, f"{len(listed)} viewers"
                rate = median([one["bitrate"] for one in listed]) / 1e6
            time.sleep(1)
    return few, more, rate


def bare(rate: float) -> float:
    """CPU of a core that it takes to send as much to a TCP connection on this machine, 30 times a second: the floor."""
    data = bytes(round(rate * 1e6 / 8 / FPS))
    with processes() as start, socket.create_server(("127.0.0.1", 0)) as server:
        sink = f"import socket; s = socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        start(sys.executable, "-c", f"{sink}\nwhile s.recv(1 << 18): pass")
        line, _ = server.accept()
        with line:
            began = time.thread_time_ns()
            for _ in range(FPS * BARE_S):
                line.sendall(data)
                time.sleep(1 / FPS)
            return (time.thread_time_ns() - began) / 1e9 / BARE_S


def xruns(bus: Daemon) -> int:
    """Cycles that began more than two cycles late, and gaps of the listener."""
    (guest,) = bus.state()["guests"]
    return int(guest["late_cycles"] + sum(one["underruns"] for one in guest["listeners"]))


def cycles(scene: str, seconds: float, always: bool, count: int) -> tuple[np.ndarray, float, int]:
    """How late cycles began in ms, how long a cycle is in ms, and the xruns, beside that scene with so many viewers."""
    os.environ |= {"ALWAYS": "1"} if always else {}
    with tempfile.TemporaryDirectory() as name:
        stamps = Path(name) / "stamps"
        with daemon("--no-policy", painted=scene, stamps=stamps, module="bench.cycles") as bus, processes() as start:
            os.environ.pop("ALWAYS", None)
            quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            start(*MILLRACE, "listen", bus.url(), "--to", "null:", "-q", "--latency", "low", env=bus.env, **quiet)
            sound = ("--raw", "--rate=48000", "--format=s16le", "--channels=2", "--latency-msec=5", "/dev/zero")
            start("pacat", *sound, env=bus.env | {"PULSE_SERVER": bus.pulse()}, **quiet)
            time.sleep(SETTLE_S)
            with viewers(bus, count):
                before, began = xruns(bus), time.monotonic_ns()
                time.sleep(seconds)
                ended, after = time.monotonic_ns(), xruns(bus)
        rows = np.array([row for row in json.loads(stamps.read_text()) if began <= row[0] <= ended])
    return rows[:, 1] / 1e6, float(np.median(rows[:, 2])) / 1e6, after - before


def main() -> None:
    """Print both tables."""
    quick = "--quick" in sys.argv
    few, more, rate = further(QUICK_SHARE_S if quick else SHARE_S)
    each = median([(b - a) / MORE for a, b in zip(few, more, strict=True)])
    print(f"viewers_more: a film of 640 × 360 on 1920 × 1080, 30 a second, {rate:.1f} Mb/s to each viewer")
    print(f"| {FEW} viewers | {FEW + MORE} viewers | one more | goal | sending alone |\n|---|---|---|---|---|")
    shares = f"{median(few) * 100:.1f} % of a core | {median(more) * 100:.1f} % | {each * 100:.2f} %"
    print(f"| {shares} | ≤ {SHARE_GOAL} % | {bare(rate) * 100:.2f} % |", flush=True)
    print("\n| sound | cycles | of, ms | late by, ms, median / p99 / most | p99 later | goal | xruns | goal |")
    print("|---|---|---|---|---|---|---|---|")
    seconds, quiet = QUICK_SOUND_S if quick else SOUND_S, None
    for what, scene, always, count in (
        ("no picture", STILL, False, 0), ("a film is painted, nobody watches", FILM, True, 0),
        ("one viewer watches it", FILM, True, 1),
    ):  # fmt: skip
        late, cycle, lost = cycles(scene, seconds, always, count)
        middle, p99 = np.percentile(late, (50, 99))
        quiet = p99 if quiet is None else quiet
        print(
            f"| {what} | {len(late)} | {cycle:.1f} | {middle:.2f} / {p99:.2f} / {late.max():.1f}"
            f" | {p99 - quiet:+.2f} ms | ≤ {LATER_GOAL_MS} | {lost} | 0 |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
