"""The page after hours of use: nothing that it holds grows with what was done in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from millrace.io.clock import now_ns
from millrace.pixels.rects import Size
from millrace.sim.desktop import Desktop

from .browser import Chromium, Page
from .pages import STATS
from .screenpages import STATE
from .test_page_wall import several, signed_in

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
HIDE = (
    "Object.defineProperty(document, 'hidden', { value: %s, configurable: true });"
    "document.dispatchEvent(new Event('visibilitychange'))"
)
LISTEN = "document.querySelector('#listen').click()"
HEARD = "document.querySelector('#heard').textContent"


async def listeners(page: Page) -> int:
    """Event listeners of the page, after garbage is collected."""
    for _ in range(3):
        await page.send("HeapProfiler.collectGarbage")
        await asyncio.sleep(0.1)
    counted: int = (await page.send("Memory.getDOMCounters"))["jsEventListeners"]
    return counted


def test_what_the_page_holds_does_not_grow_with_what_is_done(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, machines), Page(chromium) as page:
            guest, machine = daemon.worker.guests["reception"], machines["reception"]
            machine.clicks(guest.graph)
            await page.send("HeapProfiler.enable")
            await signed_in(page, daemon, "#/reception")
            await page.until(f"{STATE} === 'on'")

            async def used() -> None:
                await page.run(LISTEN)
                await page.until(f"({STATS} || {{}}).state === 'playing'")
                await page.run(LISTEN)
                for size in (Size(800, 600), Size(1280, 720)):
                    machine.desktop = Desktop(size, "film")
                    screen = guest.screens.first
                    assert screen is not None
                    machine.show(screen.screen, now_ns())
                    await page.until(f"{STATE} === 'on' && millrace.viewer.mode.width === {size.width}")
                for hidden in ("true", "false"):
                    await page.run(HIDE % hidden)
                for place in ("#/lab", "#wall", "#/reception"):
                    await page.run(f"location.hash = {place!r}")
                    await asyncio.sleep(0.1)
                await page.until(f"{STATE} === 'on'")

            await used()
            before = await listeners(page)
            for _ in range(5):
                await used()
            # A list that was drawn anew has a few.
            assert await listeners(page) < before + 10
            assert not guest.sessions and len(guest.viewers.sessions) == 1
            assert not page.errors

    asyncio.run(main())


MUTE = """navigator.mediaDevices.getUserMedia = () => new Promise((resolve) => { globalThis.allow = () => {
  globalThis.voice = new AudioContext().createMediaStreamDestination().stream;
  resolve(voice);
}; })"""


def test_sound_that_is_stopped_while_it_begins_leaves_nothing_behind(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            sessions = daemon.worker.guests["lab"].sessions
            await signed_in(page, daemon, "#/lab")
            await page.until(f"{STATE} === 'on'")
            for wait in (0.0, 0.01, 0.02, 0.05, 0.1):
                await page.run(LISTEN)
                await asyncio.sleep(wait)
                await page.run(LISTEN)
                # It may be begun again at once.
                await page.run(f"{LISTEN}; {LISTEN}")
                assert await page.run(HEARD) == "Stopped." and not await page.run("millrace.listener")
            await page.run(LISTEN)
            await page.until(f"{HEARD}.startsWith('Hearing')")
            assert len(sessions) == 1
            await page.run(LISTEN)
            # The browser asks for the microphone, and is answered after the sound was stopped.
            await page.run(MUTE)
            await page.run("document.querySelector('#microphone').checked = true")
            await page.run(LISTEN)
            await page.until("Boolean(globalThis.allow)")
            await page.run(LISTEN)
            await page.run("allow()")
            await page.until("voice.getTracks()[0].readyState === 'ended'")
            await asyncio.sleep(0.3)
            assert await page.run(HEARD) == "Stopped." and not sessions and not page.errors

    asyncio.run(main())
