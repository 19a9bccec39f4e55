"""How far picture and sound are apart where they come out: flashes against clicks, in a viewer beside a null output.

The floor is a picture that is shown when it comes, as by viewers that know nothing of the sound.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import numpy as np

from bench.common import Daemon, daemon
from millrace.backends.clocked import NullOutput
from millrace.client.listener import Listener, ListenerOptions
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.lab.sync import FlashFace, HeardOutput, skews

SETTLE_S = 3.0
GOAL_MS = 20


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


def main() -> None:
    """Print the figures."""
    seconds = float(os.environ.get("MILLRACE_BENCH_SECONDS", "20"))
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
