"""The daemon's page in a browser: what tests do with it, and what is heard of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.sim.signals import sine

from .browser import Chromium, Page
from .conftest import Bus, need, wait_for, write_wav
from .firefox import Firefox
from .test_clients import s16

SHOTS = os.environ.get("MILLRACE_SHOTS")


Browser = Page | Firefox


def in_browser(chromium: Chromium, bus: Bus, test: Callable[[Page], Awaitable[None]], url: str = "") -> None:
    """Run `test` with the daemon's page open in a browser."""

    async def main() -> None:
        async with Page(chromium) as page:
            await page.open(url or bus.link())
            await test(page)

    asyncio.run(main())


def playing(bus: Bus, tmp_path: Path, seconds: float = 90.0) -> None:
    """Play 997 Hz at −6 dBFS."""
    need("paplay")
    bus.spawn("paplay", str(write_wav(tmp_path / "tone.wav", s16(sine(seconds)))))
    wait_for(lambda: any(s["state"] == "running" for s in bus.guest()["streams"]), what="the tone")


async def audited(page: Page, *sizes: tuple[int, int, bool]) -> AsyncIterator[tuple[int, int, bool]]:
    """The page at each width, height and darkness: accessible there, as axe-core judges it, and without overflow."""
    await page.send("Page.setBypassCSP", enabled=True)
    await page.run((files("axe_core_python") / "axe.min.js").read_text() + "; true")
    for width, height, dark in sizes:
        await page.size(width, height, dark)
        await asyncio.sleep(0.4)
        run = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html)])))"
        assert not (found := json.loads(await page.run(run))), (width, dark, found)
        assert await page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing overflows"
        yield width, height, dark


STATS = "millrace.listener && millrace.listener.stats"


ANALYSER = """(() => { const l = millrace.listener; globalThis.ear = new AnalyserNode(l.context, { fftSize: 32768 });
l.node.connect(globalThis.ear); return true; })()"""


HEARD = """(() => { const a = new Float32Array(32768); globalThis.ear.getFloatTimeDomainData(a);
return Array.from(a); })()"""


async def listening(page: Browser) -> None:
    """Click the button, and wait until sound plays."""
    await page.until("document.querySelector('#guest').value")
    await page.click("#listen")
    await page.until(f"({STATS} || {{}}).state === 'playing'")


PITCH_MAX = 2e-3
"""How far the pitch may be off: the speed is corrected by up to 1e-3 (CORRECTION_MAX) for as long as the sound is early
or late, on top of what the browser's clock is off."""


async def judged(page: Browser, seconds: float = 1.5) -> None:
    """Check that the worklet's output is the tone: its frequency, its level, and no break."""
    await page.until(f"({STATS}).locked", 45)
    found = []
    for _ in range(6):
        await asyncio.sleep(seconds)
        sound = np.array(await page.run(HEARD), np.float32)
        t = np.arange(len(sound)) / 48_000
        wave = np.exp(-2j * np.pi * 997.0 * t) * sound
        steps = np.diff(np.unwrap(np.angle([part.mean() for part in np.split(wave, 32)])))
        found.append((frequency_hz(sound, 48_000), level_dbfs(sound), float(np.abs(steps - np.median(steps)).max())))
        hz, level, jump = found[-1]
        # Steps of phase that are all alike mean that nothing is cut, doubled or missing. If the machine stalls, another
        # second is tried.
        if abs(hz / 997.0 - 1.0) < PITCH_MAX and abs(level + 6.02) < 0.2 and jump < 0.1:
            return
    raise AssertionError(f"no second of a whole tone: {found}")


async def shot(page: Page, name: str) -> None:
    """Take a screenshot, if SHOTS names a folder."""
    if SHOTS:
        await page.screenshot(Path(SHOTS) / f"{name}.png")
