"""What the page says when something is missing or refused: each error is caused, and says what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .browser import Chromium, Page, own_page
from .conftest import need
from .screenpages import SAYS, STATE
from .test_page_trouble import STATUS, text
from .test_page_wall import several, signed_in

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
LISTEN = "document.querySelector('#listen').click()"
OLD = "delete HTMLCanvasElement.prototype.transferControlToOffscreen"
DEAF = "Object.defineProperty(AudioContext.prototype, 'state', { get: () => 'suspended', configurable: true })"


def test_page_without_https_shows_the_screen_and_says_what_sound_needs(tmp_path: Path) -> None:
    need("chromium")

    async def main() -> None:
        async with several(tmp_path / "run") as (daemon, _):
            port = daemon.serving.address.rpartition(":")[2]
            flag = f"--host-resolver-rules=MAP millrace.test 127.0.0.1:{port}"
            async with own_page(tmp_path / "profile", flag) as page:
                await page.open(f"http://millrace.test:{port}/#/lab")
                await page.run(f"document.querySelector('#token').value = {daemon.worker.access.key!r}")
                await page.run("document.querySelector('#login').requestSubmit()")
                await page.until(f"{STATE} === 'on'")
                assert await page.run("!isSecureContext && !('VideoDecoder' in globalThis)")
                await page.run(LISTEN)
                assert "--tls-cert" in await page.run(text("#heard"))
                assert await page.run("document.querySelector('#microphone').disabled")
                assert "https" in await page.run("document.querySelector('#microphone').parentElement.title")

    asyncio.run(main())


def test_what_the_browser_lacks_or_refuses_is_said_with_what_to_do(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=OLD)
            await signed_in(page, daemon, "#/lab")
            await page.until(f"({SAYS}).includes('Use a current one')")
            await page.run("document.querySelector('#microphone').checked = true")
            for name, words in (
                ("NotAllowedError", "Allow it"), ("NotFoundError", "Connect one"), ("NotReadableError", "Close that"),
                ("AbortError", "AbortError"),
            ):  # fmt: skip
                refused = f"Promise.reject(new DOMException({name!r}, {name!r}))"
                await page.run(f"void (navigator.mediaDevices.getUserMedia = () => {refused})")
                await page.run(LISTEN)
                await page.until(f"{text('#heard')}.includes({words!r}) && !millrace.listener")
            await page.run("document.querySelector('#microphone').checked = false")
            await page.run(f"void {DEAF}")
            await page.run(LISTEN)
            await page.until(f"{text('#heard')}.includes('no sound output')")

    asyncio.run(main())


def test_daemon_that_is_gone_is_said_in_the_pages_own_words(chromium: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await signed_in(page, daemon, "#/lab")
            await page.until(f"{STATE} === 'on'")
            await page.run("globalThis.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
            await page.run("document.querySelector('#mix button').click()")
            await page.until(f"{STATUS} === 'the daemon does not answer'")
            # The link of a daemon that ends before it is used.
            await page.send(
                "Page.addScriptToEvaluateOnNewDocument",
                source="globalThis.fetch = () => Promise.reject(new TypeError('Failed to fetch'))",
            )
            await page.open("about:blank")
            await page.open(f"http://{daemon.serving.address}/#in=code")
            await page.until(f"{text('#why')}.includes('Open the link again')")
            await page.until(f"{STATUS} === 'the daemon does not answer; retrying'")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (502, "text/html", "the proxy can't reach the daemon (502)"),
        (413, "text/html", "status 413"),
        (200, "text/html", "the answer is not the daemon's"),
        (200, "application/json", "the answer is not the daemon's"),
        (500, "text/plain", "<html>a short word</html>"),
    ],
)
def test_page_of_a_proxy_is_not_shown(chromium: Chromium, tmp_path: Path, status: int, kind: str, said: str) -> None:
    """What nginx answers while the daemon starts again; or what another server answers at that address."""
    answer = f"new Response('<html>a short word</html>', {{status: {status}, headers: {{'Content-Type': '{kind}'}}}})"

    async def main() -> None:
        async with several(tmp_path) as (daemon, _), Page(chromium) as page:
            await signed_in(page, daemon, "#/lab")
            await page.until(f"{STATE} === 'on'")
            await page.run(f"globalThis.fetch = () => Promise.resolve({answer})")
            await page.run("document.querySelector('#mix button').click()")
            await page.until(f"{STATUS}.includes({said!r})")
            assert ("<html>" in await page.run(STATUS)) is (kind == "text/plain")

    asyncio.run(main())
