"""What the page says of guests that are not there, of rights that are missing, and of machines and daemons that end."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from millrace.daemon.app import Daemon
from millrace.guest.machines.address import DoorSpec
from millrace.rights.model import parse_rights
from millrace.symptoms import Symptom
from tests.real.pages import Browser, shot
from tests.real.screenpages import HEIGHT, SAYS, STATE, WIDTH, begin, in_chromium, shows

from .browser import Chromium, Page
from .conftest import need
from .firefox import Firefox
from .screenserver import ScreenServer, painted
from .test_page_facts import AGED, AGES, aged
from .test_page_wall import NAMES, several, signed_in, tile

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
NONE = "document.querySelector('#screen-none')"
MISSING = "document.querySelector('#missing')"
STATUS = "document.querySelector('#status').textContent"
DAY_AHEAD = "{ const real = Date.now; Date.now = () => real() + 864e5; }"
REFUSAL = {"error": "non licet", "right": "link", "guest": "lab (2)\u202e"}


def text(selector: str) -> str:
    """What an element says."""
    return f"document.querySelector({selector!r}).textContent"


async def refuses(page: Browser, selector: str, right: str) -> None:
    """A control is not to be used, and says which right it needs."""
    await page.until(f"document.querySelector({selector!r})?.disabled")
    assert f"“{right}”" in await page.run(f"document.querySelector({selector!r}).title")


async def pressed(page: Browser, selector: str) -> None:
    """Press a button, offered or not."""
    await page.run(f"(() => {{ const b = document.querySelector({selector!r}); b.disabled = false; b.click() }})()")


def test_guest_that_is_not_there_or_not_to_be_seen_is_said_and_none_takes_its_place(
    chromium: Chromium, tmp_path: Path
) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await page.size(1280, 800)
            await signed_in(page, daemon, "#/nobody")
            await page.until(f"{MISSING}.checkVisibility() && {text('#missing')}.includes('no guest “nobody”')")
            assert not await page.run("document.querySelector('#screen').checkVisibility()")
            assert not any(guest.viewers.sessions for guest in daemon.worker.guests.values())
            assert await page.run("document.querySelector('#guest').value") == ""
            await page.click("#missing-guests li:nth-child(3) a")
            await page.until(f"location.hash === '#/lab' && {STATE} === 'on' && !{MISSING}.checkVisibility()")
            # One that comes is shown, and one that goes is not replaced by another.
            await page.run("location.hash = '#/late'")
            await page.until(f"{MISSING}.checkVisibility()")
            await daemon.worker.add_guest("late", {})
            await page.until(f"!{MISSING}.checkVisibility() && document.querySelector('#guest').value === 'late'")
            await daemon.worker.remove_guest("late")
            await page.until(f"{text('#missing')}.includes('no guest “late”')")
            _, secret = await daemon.worker.access.new("clerk", parse_rights("watch"), ["accounts"], 0)
            await page.click("#leave")
            await signed_in(page, daemon, "#/lab", secret)
            await page.until(f"{text('#missing')}.includes('no guest “lab”, or you may not see it')")
            assert await page.run(text("#missing-guests")) == "accounts"
            assert not daemon.worker.guests["accounts"].viewers.sessions

    asyncio.run(main())


async def lacks_rights(page: Browser, daemon: Daemon) -> None:
    """What one has no right for is not offered, and what is refused nevertheless is said."""
    _, secret = await daemon.worker.access.new("clerk", parse_rights("watch"), ["lab"], 0)
    await signed_in(page, daemon, "#/lab", secret)
    await page.until(f"{STATE} === 'on'")
    for selector in ("#listen", "#screen-sound", "#codec", "#latency"):
        await refuses(page, selector, "hear")
    assert "“hear”" in await page.run(text("#heard"))
    for selector in ("#mix input", "#mix button"):
        await refuses(page, selector, "control")
    assert await page.run("document.querySelector('#microphone').disabled")
    assert await page.run("document.querySelector('#screen-scale [value=guest]').disabled")
    # What is refused nevertheless is said in a sentence.
    await pressed(page, "#mix button")
    await page.until(f"{STATUS} === 'You lack the right “control” in guest lab.'")
    # What is lacking, and where, are values of the answer, whatever its sentence is.
    await page.run(
        "void (globalThis.real = fetch, "
        f"globalThis.fetch = async () => new Response({json.dumps(json.dumps(REFUSAL))}, {{ status: 403,"
        " headers: { 'Content-Type': 'application/json' } }))"
    )
    await pressed(page, "#mix button")
    await page.until(f"{STATUS} === 'You lack the right “link” in guest lab (2) .'")
    await page.run("void (globalThis.fetch = real)")
    # A listener that the daemon turns away says so, and does not try again for ever.
    await pressed(page, "#listen")
    await page.until(f"{text('#heard')}.includes('“hear”') && !millrace.listener")


def test_what_one_has_no_right_for_is_not_offered(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await lacks_rights(page, daemon)

    asyncio.run(main())


def test_firefox_offers_says_and_measures_the_same(tmp_path: Path) -> None:
    need("firefox-esr")

    async def main() -> None:
        async with several(tmp_path / "run") as (daemon, _), Firefox(tmp_path / "profile", dict(os.environ)) as page:
            await lacks_rights(page, daemon)
            assert aged(await page.run(AGES)) == AGED

    asyncio.run(main())


def test_token_that_expires_is_said(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            _, secret = await daemon.worker.access.new("clerk", parse_rights("watch"), ["lab"], 3)
            await signed_in(page, daemon, "#/lab", secret)
            await page.until(f"{STATE} === 'on'")
            await page.until(f"{text('#why')} === 'Your session has ended: the token has expired. Sign in again.'", 20)

    asyncio.run(main())


def test_tokens_are_listed_with_their_names_and_ends(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await daemon.worker.access.new("portal", parse_rights("watch"), ["lab"], 0)
            await daemon.worker.access.new("short", parse_rights("watch"), ["lab"], 2)
            await daemon.worker.access.new("today", parse_rights("watch"), ["lab"], 3600)
            # They end by the daemon's clock, whatever the browser's is.
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=DAY_AHEAD)
            await signed_in(page, daemon, "#/lab")
            listed = "[...document.querySelectorAll('#tokens .thing')].map((one) => one.textContent)"
            await page.until(
                f"{listed}.length === 3 && {listed}[0].startsWith('portal') && {listed}[0].includes('never')"
            )
            await page.until(f"{listed}[1].startsWith('short') && {listed}[1].includes('expired ')", 20)
            assert "until " in await page.run(f"{listed}[2]")
            daemon.worker.report(Symptom("machine", "lost", "lab", "door/1", {"error": "gone"}))
            await page.run("location.hash = '#wall'")
            await page.until(f"{tile('lab', '.mark')}?.title.includes('machine: lost')")

    asyncio.run(main())


def test_door_that_finds_no_machine_is_said_on_the_wall_and_on_the_guests_page(
    chromium: Chromium, tmp_path: Path
) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            guest = daemon.worker.guests["spare"]
            daemon.worker.attach(guest, DoorSpec("x11", str(tmp_path / "X9")))
            await page.size(1280, 800)
            await signed_in(page, daemon, "#wall")
            await page.until(f"{tile('spare', '.word')}?.textContent === 'not reached'")
            # Trouble comes first; the others keep their order.
            await page.until(f"{NAMES}.join() === 'spare,accounts,build-7,lab,reception'")
            assert "X9" in await page.run(f"{tile('spare', '.tile-says')}.textContent")
            assert "nobody" not in await page.run(f"{tile('lab')}.textContent")
            assert await page.run(f"{tile('lab', '.word')}.textContent") == "free"
            # Another door of a guest whose desktop is there is a remark, and so is what a busy host does to it.
            daemon.worker.attach(daemon.worker.guests["reception"], DoorSpec("x11", str(tmp_path / "X9")))
            daemon.worker.report(Symptom("cycle", "overran", "reception", "", {}))
            daemon.worker.report(Symptom("screen", "no reaction", "lab", "", {}))
            await page.until(f"{tile('reception')}.textContent.includes('1 of 1 doors waits')")
            await page.until(f"{tile('reception', '.mark')}.textContent === '1 around it'")
            await page.until(f"{tile('lab', '.mark')}.textContent === '1 incident'")
            assert "X9" in await page.run(f"{tile('reception', '.soft')}.title")
            assert await page.run(f"{tile('reception', '.word')}.textContent") == "free"
            await page.until(f"{NAMES}.join() === 'spare,lab,accounts,build-7,reception'")
            red = [
                await page.run(f"getComputedStyle({tile(name, '.mark')}).backgroundColor")
                for name in ("lab", "reception")
            ]
            assert red[0] != red[1] == "rgba(0, 0, 0, 0)"
            await shot(page, "wall-remarks")
            await page.size(1280, 300)
            await page.run("scrollTo(0, 400)")
            assert await page.run("scrollY") > 100
            await page.run("location.hash = '#/spare'")
            await page.until(f"{NONE}.checkVisibility() && {NONE}.textContent.includes('no X server at')")
            assert await page.run("scrollY") == 0
            await page.run("location.hash = '#/lab'")
            await page.until(f"{STATE} === 'on'")
            await guest.machines[0].stop("it was detached")
            await page.run("location.hash = '#/spare'")
            await page.until(f"{NONE}.textContent.startsWith('This guest has no screen.')")

    asyncio.run(main())


def test_daemon_that_stops_is_said_and_the_last_picture_stays(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.size(1280, 900)
        picture = painted(WIDTH, HEIGHT, 1)
        await begin(page, server, picture)
        await server.tell("bye", reason="the daemon is stopping", again=True)
        await server.tell("gone", why="X display :1: the daemon is stopping")
        await server.list([])
        await page.until(f"{STATE} === 'gone' && !millrace.viewer.screens.length")
        await server.drop()
        await page.until(f"{STATE} === 'lost' && ({SAYS}) === 'The daemon is stopping. Reconnecting…'")
        await shows(page, picture)
        assert await page.run("document.querySelector('#stage').checkVisibility()")
        assert not await page.run(f"{NONE}.checkVisibility()")
        # It is back, without that screen.
        await server.until("watch", 2)
        await server.tell(
            "watching", viewer=5, guest="desk", screen=None, label="", settings={}, may_type=True, version=1
        )
        await page.until(f"{STATE} === 'gone' && ({SAYS}).startsWith('This guest has no screen any more.')")
        # What its doors do is known later, and may change.
        await page.run("millrace.viewer.choose('desk', [], 'x11 :1: no X server.')")
        assert (await page.run(SAYS)).startswith("x11 :1: no X server. It is shown here")
        await shows(page, picture)
        assert "grayscale" in await page.run("getComputedStyle(document.querySelector('#picture')).filter")

    in_chromium(chromium, test)
