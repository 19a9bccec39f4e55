"""The page in a real Chromium, through the laboratory's proxy with 3 ms of jitter: latency, faults, first sound.

The daemon's clock is 300 ppm slow, so that the browser's card is 300 ppm fast relative to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.real.browser import own_page

from bench.common import MILLRACE, daemon, music, processes
from millrace.dsp.convert import SampleFormat, encode

MINUTES = float(os.environ.get("MILLRACE_BENCH_MINUTES", "10"))
SETTLE_S, PPM = 30.0, 300.0
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")


async def _watch(url: str, profile: Path) -> tuple[list[float], dict[str, float], dict[str, float]]:
    """Latency errors in µs once settled; the first and the last statistics of the session."""
    async with own_page(profile) as page:
        await page.open(url)
        await page.until("document.querySelector('#guest').value")
        await page.click("#listen")
        await page.until("(millrace.listener && millrace.listener.stats || {}).state === 'playing'", 20)
        await asyncio.sleep(SETTLE_S)
        names = "late, state, underruns, concealments, splices, targetDelay, first, ppm"
        script = f"(() => {{ const {{ {names} }} = millrace.listener.stats; return {{ {names} }}; }})()"
        first = last = await page.run(script)
        errors = []
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            await asyncio.sleep(0.25)
            last = await page.run(script)
            errors.append(last["late"] / 1e3)
        return errors, first, last


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name, daemon(ppm=-PPM) as bus, processes() as start:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (60, 1))))
        env = bus.env | {"PULSE_SERVER": bus.pulse()}
        start("pacat", *FORMAT, "--latency-msec=100", str(raw), env=env, stderr=subprocess.DEVNULL)
        proxy = start(
            *MILLRACE, "lab", "impair", f"ws://{bus.listen}", "--listen", "127.0.0.1:18643", "--jitter", "3ms",
            env=bus.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert proxy.stdout is not None
        time.sleep(2)
        errors, first, last = asyncio.run(
            _watch(bus.link().replace(bus.listen, "127.0.0.1:18643"), Path(name) / "profile")
        )
        rms = float(np.sqrt(np.mean(np.square(errors))))
        incidents = subprocess.run(
            [*MILLRACE, "incidents", "--json"], env=bus.env, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        causes = [f"{i['stage']}: {i['cause']} × {i['count']}" for i in map(json.loads, incidents)]
        faults = {key: last[key] - first[key] for key in ("underruns", "concealments", "splices")}
        where = f"page: {MINUTES:g} minutes in Chromium, 3 ms of jitter, a card {PPM:+.0f} ppm"
        print(f"{where}: latency off by {rms:.0f} µs RMS (goal 2000),")
        target_ms = last["targetDelay"] / 1e6
        print(f"  {faults} since it had settled, target delay {target_ms:.1f} ms, clock {last['ppm']:+.1f} ppm")
        print(f"  from the click to the first sound {last['first']:.0f} ms (goal 500); incidents: {causes or 'none'}")
