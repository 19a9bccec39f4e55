"""The cost of watching: the daemon's CPU with 100 guests that play to listeners, with and without a page open."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import cpu_share, daemon, median, music, processes
from millrace.dsp.convert import SampleFormat, encode

GUESTS, ROUNDS, SECONDS = 100, 5, 8.0
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")
PAGE = """
import asyncio, sys
from pathlib import Path
from tests.real.browser import own_page

async def main():
    async with own_page(Path(sys.argv[2])) as page:
        await page.open(sys.argv[1])
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def main() -> None:
    """Print the ratio."""
    names = [f"g{n}" for n in range(GUESTS)]
    with tempfile.TemporaryDirectory() as folder, daemon(*(w for n in names for w in ("--guest", n))) as bus:
        raw = Path(folder) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (60, 1))))
        with processes() as start:
            for name in names:
                env = bus.env | {"PULSE_SERVER": bus.pulse(name)}
                start("pacat", *FORMAT, str(raw), env=env, stderr=subprocess.DEVNULL)
            urls = "\n".join(bus.url(name) for name in names)
            load = start(
                sys.executable, "-m", "bench.load", "codec=opus,bitrate=64k,complexity=5", stdin=subprocess.PIPE
            )
            assert load.stdin is not None
            load.stdin.write(urls.encode())
            load.stdin.close()
            time.sleep(8)
            shares: dict[bool, list[float]] = {False: [], True: []}
            for number in range(ROUNDS):
                shares[False].append(cpu_share(bus.pid, SECONDS))
                profile = f"{folder}/profile{number}"
                page = start(sys.executable, "-c", PAGE, bus.link(), profile, stdin=subprocess.PIPE)
                time.sleep(5)
                shares[True].append(cpu_share(bus.pid, SECONDS))
                assert page.stdin is not None
                page.stdin.close()
                page.wait(20)
                time.sleep(2)
        without, seen = median(shares[False]), median(shares[True])
        print(f"observe: {GUESTS} guests play to a listener each: {without * 100:.1f} % of a core;")
        print(f"  with a page open {seen * 100:.1f} %: {(seen / without - 1) * 100:+.1f} %   (goal ≤ 3 %)")
