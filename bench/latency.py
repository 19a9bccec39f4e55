"""Latency from pacat to a listener's output, on loopback, with `--latency-msec=10`.

This process writes clicks to pacat's stdin and reads them from `millrace listen --to raw:-`, so that both times are of
one clock. A click's latency is the time of reading it minus the time of writing it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

import numpy as np

from bench.common import MILLRACE, daemon, processes
from millrace.backends.clocked import PERIOD_LOW_NS, PERIOD_NS

RATE, BLOCK = 48_000, 240
CLICKS, EVERY_BLOCKS = 60, 50


def run(profile: str) -> np.ndarray:
    """Latencies in ms."""
    with daemon() as bus, processes() as start:
        listen = start(*MILLRACE, "listen", bus.url(), "--to", "raw:-", "-q", "--latency", profile,
                       env=bus.env, stdout=subprocess.PIPE, bufsize=0)  # fmt: skip
        pacat = start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", "--latency-msec=10",
                      env=bus.env | {"PULSE_SERVER": bus.pulse()}, stdin=subprocess.PIPE, bufsize=0)  # fmt: skip
        assert pacat.stdin is not None and listen.stdout is not None
        _small_pipe(pacat.stdin.fileno())
        written: list[float] = []
        stop = threading.Event()
        writer = threading.Thread(target=_write, args=(pacat.stdin, written, stop), daemon=True)
        writer.start()
        period_s = (PERIOD_LOW_NS if profile == "low" else PERIOD_NS) / 1e9
        heard = _read(listen.stdout.fileno(), period_s, CLICKS * EVERY_BLOCKS * BLOCK / RATE)
        stop.set()
        return _matched(written, heard)


def _small_pipe(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, 1031, 4096)  # F_SETPIPE_SZ


def _write(pipe, written: list[float], stop: threading.Event) -> None:  # type: ignore[no-untyped-def]
    """Write blocks of 5 ms in real time; every EVERY_BLOCKS-th begins with a click of 1 ms."""
    quiet = np.full((BLOCK, 2), 1, "<i2").tobytes()
    click = np.full((BLOCK, 2), 1, "<i2")
    click[:48] = 20_000
    began, count = time.monotonic(), 0
    while not stop.is_set():
        wait = began + count * BLOCK / RATE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        is_click = count % EVERY_BLOCKS == EVERY_BLOCKS - 1
        if is_click:
            written.append(time.monotonic())
        try:
            pipe.write(click.tobytes() if is_click else quiet)
        except OSError:
            return
        count += 1


def _read(fd: int, period_s: float, seconds: float) -> list[float]:
    """When each click is heard: a period counts as playing from the moment it is written, as on a card."""
    heard: list[float] = []
    end = time.monotonic() + seconds
    armed = True
    while time.monotonic() < end:
        data = os.read(fd, 65536)
        now = time.monotonic()
        samples = np.frombuffer(data[: len(data) // 4 * 4], "<i2").reshape(-1, 2)[:, 0]
        loud = np.flatnonzero(samples > 6000)
        if len(loud) and armed:
            heard.append(now - (len(samples) - loud[0]) / RATE + period_s)
            armed = False
        elif not len(loud):
            armed = True
    return heard


def _matched(written: list[float], heard: list[float]) -> np.ndarray:
    """Match each heard click to the last one written before it, ignoring the first second."""
    out = []
    for at in heard:
        before = [w for w in written if w <= at]
        if before and at - heard[0] > 1.0:
            out.append((at - before[-1]) * 1000)
    return np.array(out)


def main() -> None:
    """Print the latencies of both profiles."""
    print("latency: pacat --latency-msec=10 to the listener's output, Opus on loopback")
    for profile, goal in (("normal", 40), ("low", 20)):
        values = run(profile)
        print(
            f"  --latency {profile:<7} median {np.median(values):5.1f} ms, p99 {np.percentile(values, 99):5.1f} ms,"
            f" {len(values)} clicks   (goal: median ≤ {goal})"
        )
