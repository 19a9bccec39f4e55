"""`millrace view` of a real daemon whose guest paints and clicks: what arrives, and files as FFmpeg reads them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from millrace.daemon.app import Daemon
from millrace.daemon.config import Config
from millrace.dsp.measure import tone_onsets
from millrace.io.clock import now_ns
from millrace.io.timer import TimerRunner
from millrace.pixels.blockcode import read
from millrace.pixels.rects import Size
from millrace.sim.desktop import CODE, Desktop
from millrace.sim.painted import CLICK_HZ, CLICK_S, PaintedMachine
from millrace.units import NS_PER_S

from .conftest import MILLRACE, need

pytestmark = [pytest.mark.real, pytest.mark.beside]
SIZE = Size(720, 520)
WORDS_S = 60


@contextlib.asynccontextmanager
async def painted(place: Path, scene: str) -> AsyncIterator[tuple[PaintedMachine, TimerRunner, dict[str, str]]]:
    """A daemon with such a guest; and the environment of its user."""
    names = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    daemon = Daemon(Config(listen="127.0.0.1:0", state=Path(":memory:"), runtime=place / "millrace"))
    await daemon.start()
    try:
        guest, timer = daemon.worker.guests["default"], TimerRunner()
        machine = PaintedMachine(Desktop(SIZE, scene), poke=timer.rearm)
        machine.show(guest.screens.add(machine, "painted", "painted"), now_ns())
        machine.clicks(guest.graph)
        timer.drive(machine, asyncio.get_running_loop())
        yield machine, timer, os.environ | {name: str(place) for name in names}
        timer.stop()
    finally:
        await daemon.stop()


async def viewed(env: dict[str, str], *words: str) -> Any:
    """`millrace view`, begun."""
    return await asyncio.create_subprocess_exec(
        *MILLRACE, "view", *words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def ended(process: Any) -> tuple[str, str]:
    async with asyncio.timeout(WORDS_S):
        out, said = await process.communicate()
    assert process.returncode == 0, said
    return out.decode(), said.decode()


def test_a_png_of_a_daemons_screen_is_exact(tmp_path: Path) -> None:
    async def main() -> np.ndarray:
        async with painted(tmp_path, "still") as (machine, timer, env):
            timer.stop()
            await ended(await viewed(env, "--to", str(tmp_path / "a.png")))
            return machine.desktop.picture[:, :, 2::-1].copy()

    expected = asyncio.run(main())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected)


def test_a_recording_has_its_clicks_at_its_flashes(tmp_path: Path) -> None:
    """By the times in the file alone: each picture says when it was painted, and each click fell on a whole second."""
    need("ffmpeg", "ffprobe")
    file = tmp_path / "a.mkv"

    async def main() -> None:
        async with painted(tmp_path, "typing") as (_, _, env):
            viewer = await viewed(env, "--to", str(file))
            await asyncio.sleep(9)
            viewer.send_signal(signal.SIGINT)
            await ended(viewer)

    asyncio.run(main())
    probed = json.loads(
        subprocess.run(
            ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_packets", str(file)],
            capture_output=True, check=True, timeout=60,
        ).stdout
    )  # fmt: skip
    assert [one["codec_name"] for one in probed["streams"]] == ["h264", "opus"]
    times = [float(one["pts_time"]) for one in probed["packets"] if one["codec_type"] == "video"]
    stamps = [read(frame, CODE) for frame in _frames(file)]
    # The first one may have been painted long before the recording, and the last one is stored twice.
    offsets = [one.time_ns / NS_PER_S - at for one, at in zip(stamps[1:-1], times[1:-1], strict=True) if one]
    assert len(offsets) > 60
    begin_s = float(np.median(offsets))
    clicks = [begin_s + at for at in _clicks(file)]
    assert len(clicks) >= 4
    # How exact this is depends on how busy the machine is (`python -m bench sync` measures it); a picture or a packet
    # of sound that has the time of another would be 30 ms or 20 ms off.
    assert all(abs(at - round(at)) < 0.015 for at in clicks), clicks


def _frames(file: Path) -> np.ndarray:
    out = ["-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(file), "-vsync", "0", *out], capture_output=True, check=True
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, SIZE.height, SIZE.width)


def _clicks(file: Path) -> list[float]:
    """Seconds at which clicks are heard, as a player keeps time: gaps filled."""
    out = ["-af", "aresample=async=1:first_pts=0", "-f", "f32le", "-ac", "1", "-ar", "48000", "-"]
    done = subprocess.run(["ffmpeg", "-v", "error", "-i", str(file), *out], capture_output=True, check=True)
    sound = np.frombuffer(done.stdout, np.float32)
    return [float(at) / 48_000 for at in tone_onsets(sound, 48_000, CLICK_HZ, round(CLICK_S * 48_000))]


def test_figures_are_json_and_every_picture_was_decoded(tmp_path: Path) -> None:
    async def main() -> dict[str, Any]:
        async with painted(tmp_path, "film") as (_, _, env):
            words = ("--to", "null:", "--sound", "null:", "--seconds", "5", "--json")
            out, said = await ended(await viewed(env, *words))
            assert "joined: viewer/" in said and "sound, joined: listener/" in said
            return dict(json.loads(out))

    figures = asyncio.run(main())
    assert figures["pictures"] > 20 and figures["refreshes"] == 0
    assert figures["skew_ms"] is not None and figures["latency_ms"]["p50"] > 0


def test_the_demo_sees_exactly_what_is_painted_and_measures_the_skew(tmp_path: Path) -> None:
    env = os.environ | {name: str(tmp_path) for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    words = ["demo", "--no-stay", "--to", "null:", "--seconds", "4"]
    done = subprocess.run([*MILLRACE, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the last one exactly as painted" in done.stdout and "flashes against their clicks" in done.stdout
