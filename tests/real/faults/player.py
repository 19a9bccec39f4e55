"""A native client that plays a tone for ever, and fails on command: python player.py SOCKET

On USR1 it writes nothing for half a second; on USR2 it writes impossible positions. It prints the time, in ns, at which
that began.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import numpy as np

import millrace

RATE, BLOCK = 48_000, 480
PAUSE_S = 0.5


async def main(socket: str) -> None:
    """Play."""
    asked: set[str] = set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, asked.add, "pause")
    loop.add_signal_handler(signal.SIGUSR2, asked.add, "corrupt")
    turn = 2 * np.pi * 500 * np.arange(BLOCK) / RATE
    block = np.repeat(0.2 * np.sin(turn)[:, None], 2, axis=1)
    async with millrace.connect(path=socket, name="faulty") as bus:
        async with bus.play(name="500 Hz", rate=RATE, channels=2, latency_ms=100) as stream:
            print("playing", flush=True)
            while True:
                await stream.write(block)
                if "pause" in asked:
                    asked.clear()
                    print(time.monotonic_ns(), flush=True)
                    await asyncio.sleep(PAUSE_S)
                elif "corrupt" in asked:
                    asked.clear()
                    print(time.monotonic_ns(), flush=True)
                    ring = stream._live()
                    ring.written = 1 << 60
                    await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
