"""Play a numpy array: python examples/play.py [GUEST]"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import numpy as np

import millrace

RATE = 48_000


async def main(guest: str) -> None:
    seconds = np.arange(2 * RATE) / RATE
    tone = 0.25 * np.sin(2 * np.pi * 440 * seconds)
    async with millrace.connect(guest=guest, name="example") as bus:
        async with bus.play(guest=guest, name="440 Hz", rate=RATE, channels=2, latency_ms=100) as stream:
            await stream.write(np.stack((tone, tone), axis=1))
            print(f"{stream.key}: {stream.latency_ns / 1e6:.0f} ms to the slowest listener's ear")
            await stream.drain()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "default"))
        except millrace.MillraceError as error:
            raise SystemExit(str(error)) from None
