"""From painting a picture to having it elsewhere, 30 a second: in our viewer, in headless Chromium, and the floor.

The code in each picture says when it was painted; it is read from the pixels that have arrived. The floor is another
process that writes the changed pixels into a pipe as they are; of a film, also its encoder and a decoder in one thread.
The daemon's ledger of where the time goes is compared with the code. $MILLRACE_BENCH_SECONDS for each, 10 by default.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bench.common import Daemon, cpu_ns, daemon, processes
from bench.painted import HEAD, RECT
from bench.pictureledger import first_seen, means, sums, told
from bench.picturestages import StampedViewer, spread, stages
from millrace.client.canvas import Decoder
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.codec.avvideo import video_encoder
from millrace.codec.yuv import convert
from millrace.lab.sync import FlashFace
from millrace.pixels.blockcode import read
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from millrace.sim.desktop import CODE, FILM, SCENES, Desktop
from millrace.wire.peer.pictures import Part, PartType

SIZES = os.environ.get("MILLRACE_BENCH_SIZES", "1280x720 1920x1080").split()
SETTLE_S, KEYS = 2.0, 40
GOALS = {"typing": "3/6", "scroll": "10/20", "film": "7/15"}
GOALS_AT = "1920x1080"
"""Median and 99th percentile in ms from painting to the decoded picture, on a machine with nothing else to do."""


def floor(scene: str, size: str, seconds: float) -> list[float]:
    """Latencies in ms by the pipe."""
    env = os.environ | {"PAINTED": f"{scene}:{size}"}
    width, height = map(int, size.split("x"))
    picture, found = np.zeros((height, width, 4), np.uint8), []
    with processes() as start:
        source = start(sys.executable, "-m", "bench.painted", "floor", env=env, stdout=subprocess.PIPE)
        end = time.monotonic() + SETTLE_S + seconds
        while time.monotonic() < end:
            _take(source.stdout, picture)  # type: ignore[arg-type]
            now, stamp = time.monotonic_ns(), read(picture, CODE)
            if stamp is not None and time.monotonic() > end - seconds:
                found.append((now - stamp.time_ns) / 1e6)
    return found


def _take(source: BinaryIO, picture: np.ndarray) -> None:
    (count,) = HEAD.unpack(source.read(HEAD.size))
    for _ in range(count):
        x, y, width, height = RECT.unpack(source.read(RECT.size))
        pixels = np.frombuffer(source.read(width * height * 4), np.uint8)
        picture[y : y + height, x : x + width] = pixels.reshape(height, width, 4)


def codec(size: str, seconds: float) -> list[float]:
    """ms of the film's encoder and a decoder alone, in one thread: what no way from one to the other can be below."""
    width, height = map(int, size.split("x"))
    desktop, decoder, found = Desktop(Size(width, height), "film"), Decoder(), []
    at = Rect(desktop.window.x, desktop.window.y, FILM.width, FILM.height).common(desktop.window)
    here = Rect(0, 0, at.width, at.height)
    encoder = video_encoder("avc1", Size(at.width, at.height), None, convert)
    for _ in range(round(seconds * 30)):
        began = time.monotonic_ns()
        desktop.paint(began)
        painted = time.monotonic_ns()
        data = encoder.encode(part_of(desktop.picture, at), [here]).data
        decoder.steps([Part(PartType.VIDEO, here, data)])
        found.append((time.monotonic_ns() - painted) / 1e6)
        time.sleep(max(0.0, 1 / 30 - (time.monotonic_ns() - began) / 1e9))
    return found[10:]


async def native(bus: Daemon, seconds: float) -> dict[str, Any]:
    """A viewer in this process."""
    face = FlashFace(time.monotonic_ns)
    viewer = StampedViewer(bus.url(), face, ViewerOptions(name="bench", token=bus.env["MILLRACE_TOKEN"]))
    task = asyncio.create_task(viewer.run())
    await asyncio.sleep(SETTLE_S)
    before = await asyncio.to_thread(sums, bus)
    face.seen.clear()
    began = time.monotonic_ns()
    cpu, own = cpu_ns(bus.pid), time.process_time_ns()
    await asyncio.sleep(seconds)
    count = max(1, len(face.seen))
    figures: dict[str, Any] = {
        "latency": [ns / 1e6 for ns in face.latencies], "pictures": count / seconds,
        "cpu": (cpu_ns(bus.pid) - cpu) / 1e6 / count, "own_cpu": (time.process_time_ns() - own) / 1e6 / count,
        "unread": face.unread, "decoding": [ns / 1e6 for ns in list(viewer.figures.decoding)[-count:]],
        "first": first_seen(face.seen), "ledger": means(before, await asyncio.to_thread(sums, bus)),
        "listed": await asyncio.to_thread(listed, bus), "viewer": viewer, "began": began,
    }  # fmt: skip
    viewer.stop()
    await task
    return figures


async def keys(bus: Daemon) -> list[float]:
    """From a key to the picture that answers it, in ms. The machine answers at once."""
    face, found = FlashFace(time.monotonic_ns), []
    options = ViewerOptions(name="bench", token=bus.env["MILLRACE_TOKEN"], keyboard=True)
    viewer = Viewer(bus.url(), face, options)
    task = asyncio.create_task(viewer.run())
    await asyncio.sleep(SETTLE_S)
    for code in range(1, KEYS + 1):
        began = time.monotonic_ns()
        viewer.key(code, True)
        while code | 0x8000 not in face.marked and time.monotonic_ns() - began < 10**9:
            await asyncio.sleep(0.0005)
        if code | 0x8000 in face.marked:
            found.append((face.marked[code | 0x8000] - began) / 1e6)
        viewer.key(code, False)
        await asyncio.sleep(0.05 + code % 7 * 0.005)
    viewer.stop()
    await task
    return found


def listed(bus: Daemon) -> dict[str, Any]:
    """What the daemon lists of its one viewer."""
    viewers = bus.state()["guests"][0]["viewers"]
    return dict(viewers[0]) if viewers else {}


async def joined(bus: Daemon) -> bool:
    """Wait for the viewer; whether it came within ten seconds."""
    for _ in range(100):
        if await asyncio.to_thread(listed, bus):
            return True
        await asyncio.sleep(0.1)
    return False


async def chromium(bus: Daemon, seconds: float, profile: Path) -> dict[str, Any]:
    """The page in headless Chromium: what it reports of its pictures, by the daemon's clock."""
    from tests.real.browser import own_page

    async with own_page(profile) as page:
        await page.open(bus.link())
        if not await joined(bus):
            return {}
        await asyncio.sleep(SETTLE_S)
        cpu, before = cpu_ns(bus.pid), await asyncio.to_thread(listed, bus)
        latencies, draws, end = [], [], time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.25)
            one = await asyncio.to_thread(listed, bus)
            if one.get("latency_ms") is not None:
                latencies.append(one["latency_ms"])
                draws.append(one["ledger_ms"].get("draw", 0.0))
        count = max(1, one.get("shown", 0) - before.get("shown", 0))
        return {"latency": latencies, "draw": draws, "cpu": (cpu_ns(bus.pid) - cpu) / 1e6 / count, "count": count}


def main() -> None:
    """Print the figures."""
    seconds = float(os.environ.get("MILLRACE_BENCH_SECONDS", "10"))
    print("picture: painted → drawn, ms median/p95/p99, 30 pictures a second")
    for size in SIZES:
        for scene in SCENES:
            if scene != "still":
                _scene(scene, size, seconds)
    with daemon(painted="still:1280x720") as bus:
        print(f"  key → picture that answers it, still desktop, 720p: {spread(asyncio.run(keys(bus)))}")


def _scene(scene: str, size: str, seconds: float) -> None:
    least = floor(scene, size, min(seconds, 4.0))
    with tempfile.TemporaryDirectory() as name:
        stamps = Path(name) / "stamps"
        with daemon(painted=f"{scene}:{size}", stamps=stamps) as bus:
            own = asyncio.run(native(bus, seconds))
        by_stage = stages(stamps, own["viewer"], own["began"])
    alone = f", encoder and decoder alone {spread(codec(size, min(seconds, 4.0)))}" if scene == "film" else ""
    goal = f" (goal {GOALS[scene]})" if size == GOALS_AT and scene in GOALS else ""
    print(
        f"  {scene} {size}: {spread(own['latency'])}{goal}; {own['pictures']:.1f}/s,"
        f" {own['listed'].get('bitrate', 0) / 1000:,.0f} kb/s, daemon {own['cpu']:.1f} ms CPU a picture"
        f" (with painting), viewer {own['own_cpu']:.1f}; decoding {spread(own['decoding'])};"
        f" floor {spread(least)}{alone}"
        f"\n    {by_stage}"
    )
    print(f"    {told(own['ledger'], own['first'])}")
    if size != GOALS_AT:
        _page(scene, size, seconds)


def _page(scene: str, size: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name, daemon(painted=f"{scene}:{size}") as bus:
        page = asyncio.run(chromium(bus, seconds, Path(name) / "profile"))
    if not page:
        print(f"    Chromium, {scene} {size}: the page shows no screen")
        return
    print(
        f"    Chromium, {scene} {size}: {spread(page['latency'])} (moving means), of it drawing {spread(page['draw'])};"
        f" {page['count'] / seconds:.1f}/s"
    )
