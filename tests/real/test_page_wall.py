"""The wall, and who watches: many guests of a real daemon on the page, in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.daemon.app import Daemon
from millrace.daemon.config import Config
from millrace.guest.config import GuestConfig
from millrace.io.clock import now_ns
from millrace.io.timer import TimerRunner
from millrace.pixels.rects import Size
from millrace.rights.model import parse_rights
from millrace.server.http.origins import Addresses
from millrace.sim.desktop import Desktop
from millrace.sim.painted import PaintedMachine
from millrace.symptoms import Symptom
from tests.real.pages import Browser, audited, shot
from tests.real.screenpages import press

from .browser import Chromium, Page
from .conftest import need
from .firefox import Firefox

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
SCENES = {"accounts": "typing", "build-7": "scroll", "lab": "still", "reception": "film"}
SIZE, FPS = Size(1280, 720), 6
NAMES = "[...document.querySelectorAll('#tiles li')].map((one) => one.dataset.guest)"
STATE = "document.querySelector('#screen-frame').dataset.state"
WHO = "document.querySelector('#screen-who').textContent"
DRAWN = (
    "[...document.querySelectorAll('#tiles li')].filter((one) => !one.querySelector('.tile-says').hidden).length === 0"
)


def tile(name: str, part: str = "") -> str:
    """Of one guest."""
    return f"document.querySelector('#tiles li[data-guest=\"{name}\"] {part}')"


@contextlib.asynccontextmanager
async def several(
    place: Path, addresses: Addresses | None = None
) -> AsyncIterator[tuple[Daemon, dict[str, PaintedMachine]]]:
    """A daemon with a painting guest for each scene, and one without a screen."""
    guests = tuple(GuestConfig(name) for name in (*SCENES, "spare"))
    daemon = Daemon(
        Config("127.0.0.1:0", guests, addresses=addresses or Addresses(), state=Path(":memory:"), runtime=place / "m")
    )
    await daemon.start()
    timers, machines = [], {}
    try:
        for name, scene in SCENES.items():
            timer = TimerRunner()
            machine = machines[name] = PaintedMachine(Desktop(SIZE, scene), FPS, timer.rearm)
            machine.show(daemon.worker.guests[name].screens.add(machine, "Head 0", "painted"), now_ns())
            timers.append(timer)
            if scene != "still":
                timer.drive(machine, asyncio.get_running_loop())
        yield daemon, machines
    finally:
        for timer in timers:
            timer.stop()
        await daemon.stop()


async def signed_in(page: Browser, daemon: Daemon, address: str = "", secret: str = "") -> None:
    """The daemon's page at this address."""
    await page.open(f"http://{daemon.serving.address}/{address}")
    await page.until("!document.querySelector('#login').hidden")
    # The browser notes that it was refused before, perhaps a moment later.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while not page.errors:
                await asyncio.sleep(0.02)
    page.errors.clear()
    await page.run(f"document.querySelector('#token').value = {secret or daemon.worker.access.key!r}")
    await page.run("document.querySelector('#login').requestSubmit()")


async def shown(page: Browser, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture of a tile: (height, width, 3), B, G, R."""
    read = f"""(() => {{ const canvas = {tile(name, "canvas")}; const {{ width, height }} = canvas;
    return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]]; }})()"""
    width, height, data = await page.run(read)
    return np.array(data, np.uint8).reshape(height, width, 4)[:, :, 2::-1]


async def walks(page: Browser, daemon: Daemon, machines: dict[str, PaintedMachine]) -> None:
    """Every guest is shown, and leads to its desktop and back."""
    await signed_in(page, daemon, "#wall")
    await page.until(f"{NAMES}.length === 5 && {tile('spare', '.tile-says')}.textContent === 'no screen'")
    daemon.worker.report(Symptom("machine", "lost", "lab", "door/1", {"error": "gone"}))
    await page.until(f"{tile('lab', '.mark')}.textContent === '1 incident'")
    for name in SCENES:
        await page.until(f"{tile(name, '.tile-says')}.hidden")
    # One of them paints nothing any more: all that the browser shows of it is as painted.
    still = machines["lab"].desktop.picture
    expected = still.reshape(180, 4, 320, 4, 4).mean((1, 3))
    assert np.abs(await shown(page, "lab") - expected[:, :, :3]).mean() < 12
    assert "1280 × 720" in await page.run(f"{tile('lab')}.textContent")
    before = await shown(page, "reception")
    await asyncio.sleep(1.5)
    assert (await shown(page, "reception") != before).any(), "the film goes on"
    assert not any(guest.viewers.sessions for guest in daemon.worker.guests.values())
    await page.click("#tiles li[data-guest='lab'] a")
    await page.until(f"location.hash === '#/lab' && {STATE} === 'on'")
    assert await page.run("document.querySelector('#guest').value") == "lab"
    assert await page.run("document.querySelector('#guests').hidden && millrace.viewer.mode.width") == SIZE.width
    async with asyncio.timeout(5):
        while len(daemon.worker.guests["accounts"].screens.first.screen.readers):  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
    await page.run("history.back()")
    await page.until(f"{NAMES}.length === 5 && {DRAWN.replace('=== 0', '=== 1')}")
    assert not page.errors


def test_wall_shows_every_guest_and_leads_to_its_desktop(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, machines), Page(chromium) as page:
            await page.size(1280, 900)
            await walks(page, daemon, machines)

    asyncio.run(main())


def test_firefox_shows_the_wall_too(tmp_path: Path) -> None:
    need("firefox-esr")

    async def main() -> None:
        firefox = Firefox(tmp_path / "profile", dict(os.environ))
        async with several(tmp_path) as (daemon, machines), firefox as page:
            await walks(page, daemon, machines)

    asyncio.run(main())


def test_wall_shows_what_one_may_watch_and_stops_when_one_signs_out(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            _, secret = await daemon.worker.access.new("operator", parse_rights("watch"), ["lab", "reception"], 0)
            _, hears = await daemon.worker.access.new("listener", parse_rights("hear"), ["lab"], 0)
            await signed_in(page, daemon, "#wall", secret)
            await page.until(f"{NAMES}.join() === 'lab,reception' && {DRAWN}")
            await page.click("#leave")
            await page.until("!document.querySelector('#login').hidden")
            async with asyncio.timeout(5):
                while daemon.worker.guests["lab"].screens.first.screen.readers:  # type: ignore[union-attr]
                    await asyncio.sleep(0.02)
            await signed_in(page, daemon, "#wall", hears)
            await page.until(f"{tile('lab', '.tile-says')}?.textContent === 'You lack the right “watch” in guest lab.'")
            assert not daemon.worker.guests["lab"].screens.first.screen.readers  # type: ignore[union-attr]
            assert not page.errors

    asyncio.run(main())


def test_nothing_on_the_wall_moves_under_the_pointer_or_away_from_the_focus(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await page.size(1280, 900)
            await signed_in(page, daemon, "#wall")
            ordered = ["accounts", "build-7", "lab", "reception", "spare"]
            await page.until(f"{NAMES}.join() === {','.join(ordered)!r}")
            await page.run(f"{tile('build-7', 'a')}.focus()")
            daemon.worker.report(Symptom("machine", "lost", "reception", "door/1", {"error": "gone"}))
            await page.until(f"{tile('reception', '.mark')}.textContent === '1 incident'")
            assert await page.run(NAMES) == ordered
            # One that has trouble comes first as soon as nobody is about to choose.
            x, y = await page.middle("#tiles li[data-guest='lab']")
            for by in (0, 1):
                await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + by, y=y)
            await page.until("Boolean(document.querySelector('#tiles a:hover'))")
            await page.run("document.activeElement.blur()")
            daemon.worker.report(Symptom("machine", "lost", "lab", "door/2", {"error": "gone"}))
            await page.until(f"{tile('lab', '.mark')}.textContent === '1 incident'")
            assert await page.run(NAMES) == ordered
            async with asyncio.timeout(20):
                while (await page.run(NAMES))[:3] != ["lab", "reception", "spare"]:
                    await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=640, y=5)
                    daemon.worker.report(Symptom("machine", "lost", "spare", "door/3", {"error": "gone"}))
                    await asyncio.sleep(0.5)

    asyncio.run(main())


def test_viewers_are_listed_and_the_keyboard_is_taken_over(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page, Page(chromium) as other:
            listed = "[...document.querySelectorAll('#viewers li')].map((one) => one.textContent)"
            await signed_in(page, daemon, "#/lab")
            await page.until(f"{STATE} === 'on' && {listed}.length === 1 && {listed}[0].includes('this page')")
            await signed_in(other, daemon, "#/lab")
            await other.until(f"{STATE} === 'on' && {listed}.length === 2")
            await other.click("#stage")
            await other.until(f"{WHO}.includes('You are typing')")
            await page.until(f"{listed}.length === 2 && {listed}[0].includes('has the keyboard')")
            await page.click("#viewers button")
            await page.until(f"{WHO}.includes('You are typing')")
            await other.until(
                f"{WHO}.endsWith('has the keyboard.') && document.querySelector('#viewers button') !== null"
            )
            await other.run("location.hash = '#wall'")
            await other.until(f"{tile('lab', 'a')}.textContent.includes('owner types')")
            await page.until(f"{listed}.length === 1")
            assert " types" in await other.run(f"{tile('lab', 'a')}.textContent")
            assert not page.errors and not other.errors

    asyncio.run(main())


def test_wall_is_accessible_and_fits_any_window(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await page.size(1280, 900)
            await signed_in(page, daemon, "#wall")
            await page.until(f"{NAMES}.length === 5")
            await asyncio.sleep(1.5)
            # Screens of every form are shown whole.
            for size in ((360, 200), (340, 255), (170, 255), (360, 90)):
                canvas = f"Object.assign({tile('lab', 'canvas')}, {{ width: {size[0]}, height: {size[1]} }})"
                box = "const [c, p] = [one, one.parentElement].map((each) => each.getBoundingClientRect())"
                inside = "return c.left >= p.left && c.top >= p.top && c.right <= p.right && c.bottom <= p.bottom"
                assert await page.run(f"((one) => {{ {box}; {inside} }})({canvas})"), size
                assert await page.run(f"getComputedStyle({canvas}).objectFit") == "contain"
            async for width, _, dark in audited(page, (1280, 900, False), (390, 844, True)):
                await shot(page, f"wall-{width}{'-dark' * dark}")
            # The list is walked with the keyboard, and Enter opens a desktop.
            await page.run(f"{tile('accounts', 'a')}.focus()")
            await press(page, "Enter", "Enter", True)

    asyncio.run(main())
