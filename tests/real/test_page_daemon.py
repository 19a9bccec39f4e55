"""The page and a real daemon whose guest paints: what the page shows is what was painted, and what is typed arrives."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from millrace.pixels.blockcode import read
from millrace.sim.desktop import CODE
from tests.real.screenpages import canvas, press, shows

from .browser import Chromium, Page
from .conftest import MILLRACE
from .test_view_daemon import painted

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
STATE = "document.querySelector('#screen-frame').dataset.state"
FACTS = "document.querySelector('#screen-facts').textContent"


async def opened(page: Page, env: dict[str, str]) -> None:
    """The daemon's page, signed in, with a picture."""
    process = await asyncio.create_subprocess_exec(*MILLRACE, "page", env=env, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    await page.open(out.decode().strip())
    await page.until(f"{STATE} === 'on'")


def test_page_shows_exactly_what_a_guest_has_painted(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with painted(tmp_path, "still") as (machine, timer, env), Page(chromium) as page:
            timer.stop()
            await opened(page, env)
            await shows(page, machine.desktop.picture)
            assert not page.errors

    asyncio.run(main())


def test_page_follows_what_is_painted_and_types(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with painted(tmp_path, "typing") as (machine, _, env), Page(chromium) as page:
            keys: list[tuple[int, bool]] = []
            inner = machine.key
            machine.key = lambda press: (keys.append((press.code, press.down)), inner(press))[0]  # type: ignore[method-assign,assignment]
            await opened(page, env)
            numbers = []
            for _ in range(20):
                stamp = read(await canvas(page), CODE)
                if stamp is not None:
                    numbers.append(stamp.number)
                await asyncio.sleep(0.1)
            assert len(numbers) > 5 and numbers == sorted(numbers) and numbers[-1] > numbers[0]
            await page.until(f"{FACTS}.includes('a second') && {FACTS}.includes('after painting')")
            await page.click("#stage")
            await page.until("document.querySelector('#screen-who').textContent.includes('You are typing')")
            await press(page, "KeyA", "a", True)
            await press(page, "KeyA", "a", False)
            async with asyncio.timeout(10):
                while (0x1E, False) not in keys:
                    await asyncio.sleep(0.02)
            assert keys == [(0x1E, True), (0x1E, False)]
            assert not page.errors

    asyncio.run(main())
