"""A desktop in a page of another site: shown, typed into and ended, if the daemon lists the page's origin."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from millrace.guest.machines.address import DoorSpec
from millrace.pixels.blockcode import read
from millrace.rights.model import parse_rights
from millrace.server.http.origins import parse_addresses
from millrace.sim.desktop import CODE
from tests.real.pages import shot
from tests.real.screenpages import press

from .browser import Chromium, Page
from .test_page_wall import SIZE, several

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
PORTAL = """<!doctype html><html lang="en"><title>Portal</title>
<style>body {{ margin: 16px; font: 16px system-ui }} h1 {{ margin: 0; height: 48px }}
#desk {{ width: {width}px; height: {height}px }}</style>
<h1>A portal of another site</h1><div id="desk"></div>
<script type="module">
import {{ Millrace }} from "{daemon}/page/embed.js";
globalThis.told = [];
globalThis.begin = (options) => {{
  globalThis.desk = new Millrace({{ url: "{daemon}/accounts", element: document.querySelector("#desk"), ...options }});
  for (const name of ["state", "size", "keyboard", "sound", "error"]) {{
    desk.addEventListener(name, ({{ detail }}) => told.push([name, detail]));
  }}
}};
globalThis.ready = true;
</script>"""
REPEATED = "told.filter((one, at) => at && JSON.stringify(one) === JSON.stringify(told[at - 1])).length"
"""How many events said the same as the one before."""
STATES = "told.filter(([name]) => name === 'state').map(([, one]) => one.state)"


class Portal:
    """A page that embeds a desktop, on a host of another name and with a strict policy of its own."""

    async def __aenter__(self) -> Portal:
        app = web.Application()
        app.router.add_get("/", self._page)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://localhost:{self._runner.addresses[0][1]}"
        self.daemon = ""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        policy = (
            f"default-src 'none'; script-src 'unsafe-inline' {self.daemon}; style-src 'unsafe-inline';"
            f" frame-src {self.daemon}; img-src data:"
        )
        text = PORTAL.format(daemon=self.daemon, width=SIZE.width, height=SIZE.height)
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})


@contextlib.asynccontextmanager
async def embedding(
    chromium: Chromium, place: Path, listed: bool = True
) -> AsyncIterator[tuple[Page, Any, Any, Portal]]:
    """A portal's page in a browser, a daemon that lists it or not, and its machines."""
    async with Portal() as portal, Page(chromium) as page:
        addresses = parse_addresses("", [portal.origin] if listed else ["http://localhost:1"], [])
        async with several(place, addresses) as (daemon, machines):
            portal.daemon = f"http://{daemon.serving.address}"
            await page.size(SIZE.width + 60, SIZE.height + 120)
            await page.open(portal.origin + "/")
            await page.until("globalThis.ready")
            yield page, daemon, machines, portal


async def secret_of(daemon: Any, may: str) -> str:
    _, secret = await daemon.worker.access.new("portal", parse_rights(may), ["accounts"], 0)
    return str(secret)


async def seen(page: Page) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The frame as it is on the browser's screen, (height, width, 3), B, G, R."""
    x, y, width, height = await page.run(
        "(() => { const r = desk.frame.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
    )
    taken = await page.send(
        "Page.captureScreenshot", clip={"x": x, "y": y, "width": width, "height": height, "scale": 1}
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB"))[:, :, ::-1]


async def number(page: Page) -> int:
    """Of the picture in the frame, which can be read because it is exact."""
    stamp = read(await seen(page), CODE)
    assert stamp is not None
    return stamp.number


def test_desktop_is_shown_and_typed_into_in_a_page_of_another_site(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with embedding(chromium, tmp_path) as (page, daemon, machines, _):
            keys: list[tuple[int, bool]] = []
            machines["accounts"].key = lambda press: keys.append((press.code, press.down))
            secret = await secret_of(daemon, "watch,type,hear")
            await page.run(f"begin({{ token: {secret!r}, settings: {{ picture: 'lossless' }} }})")
            await page.until("desk.state === 'on'")
            assert await page.run("desk.size") == {"width": SIZE.width, "height": SIZE.height}
            numbers = [await number(page)]
            async with asyncio.timeout(20):
                while numbers[-1] <= numbers[0]:
                    numbers.append(await number(page))
            session = daemon.worker.guests["accounts"].viewers.sessions[0]
            assert session.settings.picture == "lossless"
            await page.click("#desk")
            await page.until("desk.keyboard.mine")
            await press(page, "KeyA", "a", True)
            await press(page, "KeyA", "a", False)
            async with asyncio.timeout(5):
                while (0x1E, False) not in keys:
                    await asyncio.sleep(0.02)
            await page.run("desk.set({ scale: 'actual', picture: '2M' })")
            async with asyncio.timeout(5):
                while session.settings.picture != 2_000_000:
                    await asyncio.sleep(0.02)
            await shot(page, "embedded")
            for wrong in ("{ picture: 'lots' }", "{ foo: 1 }", "{ tools: 'no' }", "{ scale: 2 }", "null"):
                thrown = f"(() => {{ try {{ desk.set({wrong}) }} catch (error) {{ return String(error) }} }})()"
                assert (await page.run(thrown)).startswith("TypeError: Millrace: "), wrong
            await page.run("desk.set({ picture: '1' })")
            await page.until("told.some(([name, one]) => name === 'error' && one.why.includes('picture'))")
            assert session.settings.picture == 2_000_000
            # What did not come from the frame and the daemon's origin is not heard.
            for origin, source in (("'https://evil.example'", "desk.frame.contentWindow"), ("desk.origin", "window")):
                fake = (
                    f"{{ origin: {origin}, source: {source}, data: {{ millrace: 1, what: 'state', state: 'gone' }} }}"
                )
                await page.run(f"dispatchEvent(new MessageEvent('message', {fake}))")
            assert await page.run("desk.state") == "on"
            addresses = await page.run(
                "[desk.frame.src, ...performance.getEntriesByType('resource').map((one) => one.name)].join()"
            )
            assert secret not in addresses
            await page.run("desk.close()")
            async with asyncio.timeout(5):
                while daemon.worker.guests["accounts"].viewers.sessions:
                    await asyncio.sleep(0.02)
            assert await page.run("document.querySelector('iframe')") is None
            assert (await page.run(STATES))[-1] == "closed" and not page.errors

    asyncio.run(main())


def test_desktop_ends_with_its_token_and_says_why(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with embedding(chromium, tmp_path) as (page, daemon, _, _):
            await page.run(f"begin({{ token: {await secret_of(daemon, 'hear')!r} }})")
            await page.until("desk.state === 'ended' && desk.why.includes('may not watch') && desk.code === 'rights'")
            await page.run("desk.close()")
            await page.run(f"begin({{ token: {await secret_of(daemon, 'watch')!r} }})")
            await page.until("desk.state === 'on'")
            token = max(daemon.worker.access.tokens, key=lambda one: one.id)
            await daemon.worker.access.revoke(token.id)
            await page.until("desk.state === 'ended' && desk.why.includes('revoked') && desk.code === 'token'")
            await page.run("desk.close()")
            await page.run("begin({ token: 'mr_wrong' })")
            await page.until("desk.state === 'ended' && desk.code === 'token'")
            assert not await page.run(REPEATED)


def test_desktop_tells_what_its_machine_and_the_daemon_do_and_each_once(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with embedding(chromium, tmp_path) as (page, daemon, _, portal):
            _, secret = await daemon.worker.access.new("all", parse_rights("watch"), ["*"], 0)
            await page.run(f"begin({{ token: {secret!r}, url: {portal.daemon + '/nobody'!r} }})")
            await page.until("desk.state === 'ended' && desk.code === 'guest'")
            await page.run("desk.close()")
            await page.run(f"begin({{ token: {secret!r}, url: {portal.daemon + '/spare'!r} }})")
            await page.until("desk.code === 'screen'")
            daemon.worker.attach(daemon.worker.guest("spare"), DoorSpec("x11", str(tmp_path / "X9")))
            await page.until("desk.code === 'machine' && desk.why.includes('X9')")
            await page.run("desk.close()")
            await page.run(f"begin({{ token: {secret!r} }})")
            await page.until("desk.state === 'on' && desk.code === ''")
            await daemon.stop()
            await page.until("desk.state === 'lost' && desk.code === 'daemon' && desk.why.includes('does not answer')")
            before = await page.run("told.length")
            await asyncio.sleep(2.5)
            assert await page.run("told.length") == before, "nothing has changed"
            assert not await page.run(REPEATED)

    asyncio.run(main())

    asyncio.run(main())


def test_pages_of_other_origins_can_not_show_it(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with embedding(chromium, tmp_path, listed=False) as (page, daemon, _, portal):
            await page.run(f"begin({{ token: {await secret_of(daemon, 'watch')!r} }})")
            await page.until("desk.state === 'refused' && desk.why.includes('allowed_origins')", 20)
            assert await page.run("getComputedStyle(desk.frame).visibility") == "hidden", "the browser's own sign of it"
            assert not daemon.worker.guests["accounts"].viewers.sessions
            # Outside a frame it heeds nobody.
            await page.open(f"{portal.daemon}/page/embed.html")
            await page.until("globalThis.millrace")
            await page.run("postMessage({ millrace: 1, what: 'open', guest: 'accounts', token: 'x' }, '*')")
            assert await page.run("new Promise((done) => setTimeout(() => done(millrace.viewer.guest), 200))") == ""

    asyncio.run(main())
