"""The native protocol: CPU of a stream by shared memory against the PulseAudio socket, and the registry's speed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Daemon, cpu_share, daemon, median, music, processes
from millrace.client.bus import Bus, connect
from millrace.dsp.convert import SampleFormat, encode

STREAMS, ROUNDS, SECONDS = 60, 3, 8.0
GUESTS, SINKS = 50, 198
OBJECTS = GUESTS * (SINKS + 3)
"""A guest is one object, and has a sink and a source from the start."""
WATCHERS = 100
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")


def pulse_share(bus: Daemon, raw: Path, latency_ms: int) -> float:
    """CPU of the daemon with so many pacat clients."""
    with processes() as start:
        for _ in range(STREAMS):
            env = bus.env | {"PULSE_SERVER": bus.pulse()}
            start("pacat", *FORMAT, f"--latency-msec={latency_ms}", str(raw), env=env, stderr=subprocess.DEVNULL)
            time.sleep(0.02)
        time.sleep(3)
        assert len(bus.state()["guests"][0]["streams"]) == STREAMS
        return cpu_share(bus.pid, SECONDS)


def native_share(bus: Daemon, latency_ms: int) -> float:
    """CPU of the daemon with the same number of native streams."""
    with processes() as start:
        path = f"{bus.runtime}/millrace/native.sock"
        start(sys.executable, "-m", "bench.native_load", "play", path, str(STREAMS), str(latency_ms), env=bus.env)
        time.sleep(4)
        assert len(bus.state()["guests"][0]["streams"]) == STREAMS
        return cpu_share(bus.pid, SECONDS)


def streams(bus: Daemon, raw: Path) -> None:
    """Print the ratios."""
    for latency_ms in (2000, 200, 50):
        rounds = [(pulse_share(bus, raw, latency_ms), native_share(bus, latency_ms)) for _ in range(ROUNDS)]
        pulse, native = (median([r[k] for r in rounds]) for k in (0, 1))
        print(f"native: {STREAMS} streams with {latency_ms} ms, nobody listening; CPU of the daemon")
        print(f"  PulseAudio socket {pulse * 100:5.2f} % of a core")
        print(f"  native, memfd     {native * 100:5.2f} % of a core")
        print(f"  ratio             {native / pulse:5.2f} x   (goal ≤ 0.7)")


async def filled(bus: Bus) -> None:
    """Fill the registry."""
    for guest in range(GUESTS):
        if guest:
            await bus.call("guest.add", name=f"g{guest}")
        name = f"g{guest}" if guest else "default"
        await asyncio.gather(*(bus.call("sink.add", guest=name, name=f"s{n}") for n in range(SINKS)))


async def synced(path: str) -> tuple[float, int]:
    """Seconds until a new client has every object, and how many those are."""
    began = time.monotonic()
    async with connect(path, name="bench") as bus:
        async for change in bus.watch():
            if change.what == "synced":
                break
        return time.monotonic() - began, len(bus.objects)


async def registry(bus: Daemon) -> None:
    """Print how long a new client takes to get everything, and an event to reach many watchers."""
    path = f"{bus.runtime}/millrace/native.sock"
    async with connect(path, name="bench") as owner:
        await filled(owner)
        found = [await synced(path) for _ in range(7)]
        seconds = median([s for s, _ in found])
        print(f"registry: {found[0][1]} objects, a new client has them in {seconds:.3f} s (goal ≤ 0.5)")
    with daemon() as small, processes() as start:
        path = f"{small.runtime}/millrace/native.sock"
        command = (sys.executable, "-m", "bench.native_load", "watch", path, str(WATCHERS))
        watchers: Any = start(*command, stdout=subprocess.PIPE, env=small.env)
        for _ in range(WATCHERS):
            assert watchers.stdout.readline().startswith(b"synced")
        async with connect(path, name="bench") as owner:
            spans = []
            for n in range(50):
                began = time.monotonic_ns()
                await owner.set("sink/default", volume=f"{n + 1}%")
                last = 0
                for _ in range(WATCHERS):
                    last = max(last, int(watchers.stdout.readline().split()[1]))
                spans.append((last - began) / 1e6)
        worst = float(np.percentile(spans, 99))
        print(f"registry: a change reaches the last of {WATCHERS} watchers in {median(spans):.1f} ms median,"
              f" {worst:.1f} p99 (goal ≤ 20; it is on disk first)")  # fmt: skip


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory() as name, daemon() as bus:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (4, 1))))
        streams(bus, raw)
    with daemon() as bus:
        asyncio.run(registry(bus))


if __name__ == "__main__":
    main()
