"""PulseAudio's own programs play and record while their guest is frozen again and again and another one continues."""

from __future__ import annotations

import asyncio
import os
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.guest.state import FrozenGuest, read_guest
from millrace.io.listeners import Listeners
from millrace.io.timer import TimerRunner
from millrace.rights.prompts import Prompts

from .conftest import need

pytestmark = pytest.mark.real
SOUND = np.random.default_rng(1).integers(-9_000, 9_000, (96_000, 2), np.int16).tobytes()


class Scene:
    """A guest on the host's clock."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._cycles = folder, TimerRunner()
        driver, ids = TimerDriver(rearm=self._cycles.rearm), Ids()
        self._cycles.drive(driver, asyncio.get_running_loop())
        reports: Any = SimpleNamespace(report=lambda symptom: None, report_node=lambda *args: None)
        self._listeners = Listeners()
        self._common = Common(ids, driver, folder, self._listeners, Prompts(ids.take), reports)
        self.guest = Guest(GuestConfig(name="alice"), self._common)

    async def run(self, *command: str, **options: Any) -> asyncio.subprocess.Process:
        pulse = self.guest.pulse
        places = {"PULSE_SERVER": f"unix:{pulse.path}", "PULSE_COOKIE": str(pulse.cookie_path)}
        return await asyncio.create_subprocess_exec(*command, env=os.environ | places, **options)

    async def move(self) -> int:
        """Let another guest continue; returns how many connections went along."""
        await self.guest.settle()
        state, fds = self.guest.freeze(())
        data = msgspec.msgpack.encode(state)
        self.guest = Guest(GuestConfig(name="alice"), self._common, frozen=FrozenGuest(read_guest(data), fds))
        await self.guest.start()
        return len(fds["pulse"])

    async def stop(self) -> None:
        await self.guest.stop("the test ends")
        self._listeners.stop()
        self._cycles.stop()


def test_paplay_and_parec_do_not_notice(tmp_path: Path) -> None:
    need("paplay", "parec")
    file, recorded = tmp_path / "sound.wav", tmp_path / "recorded"
    with wave.open(str(file), "wb") as out:
        out.setparams((2, 2, 48_000, 0, "NONE", ""))
        out.writeframes(SOUND)

    async def test() -> None:
        scene = Scene(tmp_path)
        await scene.guest.start()
        raw = ("--raw", "--format=s16le", "--rate=48000", "--channels=2")
        with recorded.open("wb") as sink:
            parec = await scene.run("parec", *raw, "-d", "millrace.monitor", stdout=sink)
        while not scene.guest.graph.taps:
            await asyncio.sleep(0.01)
        paplay = await scene.run("paplay", "--latency-msec=1000", str(file))
        while not any(stream.active for stream in scene.guest.graph.streams.values()):
            await asyncio.sleep(0.01)
        moves = 0
        while scene.guest.graph.streams:
            moves += await scene.move() == 2
            await asyncio.sleep(0.1)
        assert await paplay.wait() == 0 and moves > 2
        await asyncio.sleep(0.3)
        parec.terminate()
        await parec.wait()
        await scene.stop()

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())
    whole = SOUND in recorded.read_bytes()
    assert whole, "sample for sample"
