"""How far picture and sound are apart where they come out: flashes against clicks, in a viewer beside a null output.

The floor is a picture that is shown when it comes, as by viewers that know nothing of the sound. Takes 2.5 minutes.

`--minutes N` measures for so long instead, with 3 ms of jitter on the line and cards 300 ppm fast and slow, both at
the same time. `--virtual-hours N` does so in virtual time (bench/syncday.py), with clocks that wander and a line that
stalls once an hour; a day takes four minutes on two cores.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from bench import syncday
from bench.common import MILLRACE, Daemon, daemon, option, processes
from bench.realtime import free_port
from millrace.backends.clocked import NullOutput
from millrace.client.listener import Listener, ListenerOptions
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.dsp.convert import Samples
from millrace.dsp.measure import tone_onsets
from millrace.lab.sync import FlashFace, HeardOutput, skews
from millrace.sim.painted import CLICK_HZ, CLICK_S
from millrace.units import NS_PER_S

SETTLE_S = 3.0
GOAL_MS = 20
PPM, RATE = 300.0, 48_000
LOOK_S, OVERLAP_S, APART_NS = 5.0, 0.1, NS_PER_S // 2
MEDIAN_GOAL_MS, P99_GOAL_MS = 5, 15
HEAD = (
    "| | flashes | median | p99 of the distance | goal | first and last tenth: median | most, within 1 s of a stall |\n"
    "|---|---|---|---|---|---|---|"
)


async def measured(bus: Daemon, seconds: float, latency: str, in_sync: bool) -> dict[str, Any]:
    """Skews in ms, with a listener of that latency."""
    token, output = bus.env["MILLRACE_TOKEN"], HeardOutput(NullOutput(), time.monotonic_ns)
    listener = Listener(bus.url(), output, ListenerOptions(token=token, latency=latency))
    face = FlashFace(time.monotonic_ns)
    viewer = Viewer(bus.url(), face, ViewerOptions(token=token), listener if in_sync else None)
    tasks = [asyncio.create_task(one.run()) for one in (listener, viewer)]
    await asyncio.sleep(SETTLE_S)
    face.flashes.clear()
    await asyncio.sleep(seconds)
    found = skews(face.flashes, output.clicks())
    for one in (viewer, listener):
        one.stop()
    await asyncio.gather(*tasks)
    return {"skews": [ns / 1e6 for ns in found], "told": viewer.figures.as_dict()["skew_ms"]}


class ClickedOutput(NullOutput):
    """A card that is off by `ppm`, and notes when it plays each click, by the times at which its pulls are due."""

    def __init__(self, ppm: float) -> None:
        super().__init__(ppm=ppm)
        self.clicks: list[int] = []
        self._blocks: list[tuple[int, Samples]] = []

    def take(self, block: Samples) -> bool:
        """Look for clicks in a few seconds at a time."""
        self._blocks.append((self.due_ns, block[:, 0].copy()))
        if len(self._blocks) * len(block) >= LOOK_S * RATE:
            self._look(len(block))
        return super().take(block)

    def _look(self, frames: int) -> None:
        sound = np.concatenate([block for _, block in self._blocks])
        for frame in tone_onsets(sound, RATE, CLICK_HZ, round(CLICK_S * RATE)):
            block, within = divmod(int(frame), frames)
            heard = self._blocks[block][0] + (frames + within) * NS_PER_S // RATE
            if not self.clicks or heard - self.clicks[-1] > APART_NS:
                self.clicks.append(heard)
        # A click may lie across the end.
        del self._blocks[: -round(OVERLAP_S * RATE / frames)]


async def steady(url: str, token: str, ppm: float, seconds: float) -> list[float]:
    """Skews in ms with a card that is off by `ppm`, in order."""
    output, face = ClickedOutput(ppm), FlashFace(time.monotonic_ns)
    listener = Listener(url, output, ListenerOptions(token=token))
    viewer = Viewer(url, face, ViewerOptions(token=token), listener)
    tasks = [asyncio.create_task(one.run()) for one in (listener, viewer)]
    await asyncio.sleep(SETTLE_S)
    face.flashes.clear()
    await asyncio.sleep(seconds)
    for one in (viewer, listener):
        one.stop()
    await asyncio.gather(*tasks)
    return [ns / 1e6 for ns in skews(face.flashes, output.clicks)]


async def both(url: str, token: str, seconds: float) -> list[list[float]]:
    """With a fast card and a slow one, at the same time."""
    return await asyncio.gather(*(steady(url, token, ppm, seconds) for ppm in (PPM, -PPM)))


def minutes(count: float) -> None:
    """Measure for so many minutes on a line with jitter."""
    print(f"sync: picture later than its sound, ms, {count:g} minutes, 3 ms of jitter\n{HEAD}")
    port = free_port()
    with daemon(painted="typing:1280x720") as bus, processes() as start:
        words = ("--listen", f"127.0.0.1:{port}", "--jitter", "3ms")
        proxy = start(*MILLRACE, "lab", "impair", f"ws://{bus.listen}", *words, stdout=subprocess.PIPE)
        assert proxy.stdout is not None and proxy.stdout.readline()
        found = asyncio.run(both(f"ws://127.0.0.1:{port}/default", bus.env["MILLRACE_TOKEN"], count * 60))
    for ppm, values in zip((PPM, -PPM), found, strict=True):
        print(_row(f"card {ppm:+g} ppm", np.array(values), "–"))


def virtual(hours: float) -> None:
    """Measure so many hours of virtual time."""
    print(f"sync: picture later than its sound, ms, {hours:g} h of virtual time, 3 ms of jitter\n{HEAD}", flush=True)
    with ProcessPoolExecutor() as pool:
        days = pool.map(syncday.day, (hours, hours), (PPM, -PPM))
    for ppm, (at, found) in zip((PPM, -PPM), days, strict=True):
        near = syncday.stalled(at)
        after = f"{np.abs(found[near]).max():.1f}, of {near.sum()}" if near.any() else "–"
        print(_row(f"daemon {ppm:+g} ppm", found[~near], after), flush=True)


def _row(name: str, values: np.ndarray, after: str) -> str:
    tenth = max(1, len(values) // 10)
    ends: Sequence[float] = [float(np.median(values[:tenth])), float(np.median(values[-tenth:]))]
    return (
        f"| {name} | {len(values)} | {np.median(values):+.2f} | {np.percentile(np.abs(values), 99):.2f}"
        f" | ≤ {MEDIAN_GOAL_MS}, ≤ {P99_GOAL_MS} | {ends[0]:+.2f}, {ends[1]:+.2f} | {after} |"
    )


def main() -> None:
    """Print the figures."""
    if "--virtual-hours" in sys.argv:
        virtual(option("virtual-hours", 0))
    elif "--minutes" in sys.argv:
        minutes(option("minutes", 0))
    else:
        _profiles(float(os.environ.get("MILLRACE_BENCH_SECONDS", "20")))


def _profiles(seconds: float) -> None:
    print(f"sync: picture later than its sound, ms (goal: all within ±{GOAL_MS})")
    with daemon(painted="typing:1280x720") as bus:
        for latency in ("low", "normal", "robust"):
            for in_sync in (True, False):
                found = asyncio.run(measured(bus, seconds, latency, in_sync))
                _tell(latency, in_sync, found)


def _tell(latency: str, in_sync: bool, found: dict[str, Any]) -> None:
    values = found["skews"]
    name = f"--latency {latency}" if in_sync else "  floor: shown when it comes"
    if not values:
        print(f"  {name}: no flash was seen with its click")
        return
    low, middle, high = np.percentile(values, (0, 50, 100))
    told = f"; the viewer says {found['told']['p50']:+.1f}" if found["told"] else ""
    print(f"  {name}: {middle:+.1f} ({low:+.1f} to {high:+.1f}), {len(values)} flashes{told}")
