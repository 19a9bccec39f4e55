"""Native load from another process: `python -m bench.native_load play SOCKET COUNT LATENCY_MS`, or `watch`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import uvloop

from bench.common import music
from millrace.client.bus import connect
from millrace.dsp.convert import SampleFormat, encode

PER_CONNECTION = 20


async def _feed(bus: Any, sound: bytes, latency_ms: float) -> None:
    async with bus.play(format="s16le", latency_ms=latency_ms) as stream:
        while True:
            await stream.write(sound)


async def play(path: str, count: int, latency_ms: float) -> None:
    """Play so many streams of music, for ever."""
    sound = encode(SampleFormat.S16LE, music(20) * 0.1)
    buses = [await connect(path, name="load").__aenter__() for _ in range(-(-count // PER_CONNECTION))]
    await asyncio.gather(*(_feed(buses[n // PER_CONNECTION], sound, latency_ms) for n in range(count)))


async def watch(path: str, count: int) -> None:
    """Run so many watchers; each prints when it has every object, then when it sees each change (monotonic ns)."""

    async def one() -> None:
        async with connect(path, name="watcher") as bus:
            async for change in bus.watch():
                if change.what in ("synced", "changed"):
                    print(change.what, time.monotonic_ns(), flush=True)

    await asyncio.gather(*(one() for _ in range(count)))


if __name__ == "__main__":
    what, path, count, *rest = sys.argv[1:]
    uvloop.run(play(path, int(count), float(rest[0])) if what == "play" else watch(path, int(count)))
