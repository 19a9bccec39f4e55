"""What the page says, and how it looks, after its daemon has gone; and what the first look at many guests is."""

from __future__ import annotations

import pytest

from tests.real.pages import in_browser, shot

from .browser import Chromium, Page
from .conftest import Bus

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
STATUS, FACTS = "document.querySelector('#status').textContent", "document.querySelector('#wall-facts').textContent"
GREYED = "getComputedStyle(document.querySelector('%s')).filter"


def test_daemon_that_has_gone_is_said_and_all_that_it_told_is_greyed(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.until("document.title === 'default - Millrace'")
        assert await page.run(GREYED % ".side") == "none"
        bus.stop()
        # First that it stops, and once it has gone, no longer that.
        await page.until(f"{STATUS} === 'the daemon does not answer; retrying'")
        assert "grayscale" in await page.run(GREYED % ".side")
        assert await page.run("document.title") == "default, not connected - Millrace"
        bus.start()
        await page.until(f"{STATUS} === 'connected' && document.title === 'default - Millrace'", 20)
        assert await page.run(GREYED % ".side") == "none"
        await page.run("document.querySelector('#leave').click()")
        await page.until("document.title === 'Sign in - Millrace'")

    in_browser(chromium, bus, test)


def test_many_guests_open_as_the_wall_which_says_when_it_is_old(chromium: Chromium, bus: Bus) -> None:
    for number in range(12):
        bus.call("POST", "/api/v1/guests", {"name": f"desk{number}"})

    async def test(page: Page) -> None:
        await page.until(f"location.hash === '#wall' && {FACTS} === '13 guests'")
        assert await page.run("document.title") == "All guests - Millrace"
        await shot(page, "wall-live")
        bus.stop()
        await page.until(f"{FACTS}.startsWith('13 guests, as of ')")
        await page.until(f"{STATUS} === 'the daemon does not answer; retrying'")
        assert "grayscale" in await page.run(GREYED % "#tiles a")
        assert await page.run("document.title") == "All guests, not connected - Millrace"
        await shot(page, "wall-away")
        bus.start()
        await page.until(f"{FACTS} === '13 guests' && {STATUS} === 'connected'", 20)
        await page.run("location.hash = '#/desk3'")
        await page.until("document.title === 'desk3 - Millrace'")

    in_browser(chromium, bus, test)
