"""The page in real browsers: sound arrives intact, control works, and its drift loop matches Python's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.sim.signals import sine
from tests.real.pages import ANALYSER, STATS, in_browser, judged, listening, playing

from .browser import Chromium, Page, own_page
from .conftest import MILLRACE, Bus, need, sound_server, wait_for, write_wav
from .firefox import Firefox
from .test_clients import s16

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]


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
            await asyncio.sleep(3.5)
            recorder.terminate()
            await asyncio.to_thread(recorder.wait, 10)
            await page.until("document.querySelector('#status').textContent.includes('no program in the guest')")
            assert not page.errors

    asyncio.run(main())
    sound = np.frombuffer(raw.read_bytes(), "<i2").astype(np.float32) / 32768
    parts = [sound[at : at + 24_000] for at in range(48_000, len(sound) - 24_000, 24_000)]
    found = [(frequency_hz(part, 48_000), level_dbfs(part)) for part in parts]
    assert any(abs(hz - 997.0) < 2.0 and level > -12 for hz, level in found), found
