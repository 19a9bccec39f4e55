"""From a key to the picture that shows it: a text console of a real QEMU over D-Bus, our viewer, headless Chromium.

A boot sector waits for a key and writes its character. QEMU looks at a text console every 30 ms, and how long it waited
to do so (its tick) is shown apart: what it took longer than in its quickest twentieth. The native picture counts as
shown when it is in the viewer's memory, the browser's when the daemon hears that its page has drawn it.
Takes a minute; `--quick`, 20 s.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.common import MILLRACE, Daemon, daemon, processes
from bench.picture import joined
from millrace.client.canvas import Canvas
from millrace.client.faces import Unseen
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.pixels.rects import Rect

BOOT = bytes.fromhex(
    # Text mode without a cursor, which would blink; then for ever: wait for a key, and write it.
    "31c08ed88ed0bc007c b80300cd10 b401b90020cd10 30e4cd16 b40e31dbcd10 ebf4"
)
A = 0x1E
"""The scan code of the letter."""
COLUMNS, CELL_WIDE, CELL_HIGH = 80, 9, 16
SETTLE_S, BETWEEN_S, LATE_S = 2.0, (0.08, 0.16), 1.0
TICK_LEAST = 5
"""Percentile of QEMU's time that counts as its time without a tick."""
GOALS = {"native": 12, "Chromium": 25}


class Press(NamedTuple):
    """When a key was pressed and, if it is known here, seen."""

    pressed_ns: int
    seen_ns: int | None = None


class ConsoleFace(Unseen):
    """Notes when each character of the console is there."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.came = asyncio.Event()

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: int) -> None:
        """See `Face`."""
        now = time.monotonic_ns()
        while self._written(canvas.pixels, len(self.shown)):
            self.shown.append(now)
            self.came.set()

    @staticmethod
    def _written(pixels: np.ndarray, number: int) -> bool:
        row, column = divmod(number, COLUMNS)
        cell = pixels[row * CELL_HIGH :, column * CELL_WIDE :][:CELL_HIGH, :CELL_WIDE, :3]
        return bool(cell.any())


async def native(bus: Daemon, count: int) -> tuple[int, list[Press]]:
    """Characters that were there before, and presses in a viewer in this process."""
    face = ConsoleFace()
    options = ViewerOptions(name="bench", token=bus.env["MILLRACE_TOKEN"], keyboard=True)
    viewer = Viewer(bus.url(), face, options)
    task = asyncio.create_task(viewer.run())
    await asyncio.sleep(SETTLE_S)
    before, pressed = len(face.shown), []
    for _ in range(count):
        face.came.clear()
        pressed.append(time.monotonic_ns())
        viewer.key(A, True)
        async with asyncio.timeout(LATE_S):
            await face.came.wait()
        viewer.key(A, False)
        await asyncio.sleep(random.uniform(*BETWEEN_S))
    viewer.stop()
    await task
    return before, [Press(*times) for times in zip(pressed, face.shown[before:], strict=True)]


async def chromium(bus: Daemon, count: int, profile: Path) -> list[Press]:
    """Presses in the page, by the browser's own times of them."""
    from tests.real.browser import own_page

    async with own_page(profile) as page:
        await page.open(bus.link())
        await joined(bus)
        await page.until("document.querySelector('#screen-frame').dataset.state === 'on'")
        await page.click("#stage")
        await page.until("document.querySelector('#screen-who').textContent.includes('You are typing')")
        note = "e => pressed.push(performance.timeOrigin + e.timeStamp)"
        await page.run(f"(() => {{ window.pressed = []; addEventListener('keydown', {note}, true); }})()")
        await asyncio.sleep(SETTLE_S)
        for _ in range(count):
            for kind in ("rawKeyDown", "keyUp"):
                await page.send("Input.dispatchKeyEvent", type=kind, code="KeyA", key="a")
            await asyncio.sleep(random.uniform(*BETWEEN_S))
        told = await page.run("pressed")
    # Chromium's clock of that kind is this machine's real time.
    offset_ns = time.monotonic_ns() - time.time_ns()
    return [Press(round(ms * 1e6) + offset_ns) for ms in told]


def parts(presses: Sequence[Press], rows: dict[str, Any]) -> np.ndarray:
    """(presses, 4): ms in all, to QEMU, in QEMU, and back until it is shown."""
    keys, published = rows["keys"], [when for _, when in rows["painted"]]
    drawn = {(viewer, serial): when for viewer, serial, when in rows["drawn"]}
    sent = [(painted, drawn.get((viewer, serial), 0)) for viewer, serial, painted in rows["sent"]]
    found = []
    for press in presses:
        key = keys[bisect_left(keys, press.pressed_ns)]
        painted, when = rows["painted"][bisect_left(published, key)]
        seen = press.seen_ns or sent[bisect_left(sent, (painted, 0))][1]
        found.append((seen - press.pressed_ns, key - press.pressed_ns, when - key, seen - when))
    return np.array(found) / 1e6


def row(name: str, times: np.ndarray) -> str:
    """One line of the table."""
    whole, there, qemu, back = times.T
    least = np.percentile(qemu, TICK_LEAST)
    tick = np.maximum(qemu - least, 0)
    cells = [f"{np.median(one):.1f} / {np.percentile(one, 99):.1f}" for one in (whole, tick, whole - tick, there, back)]
    total, waited, without, to_qemu, shown = cells
    return (
        f"| {name} | {len(times)} | {total} | {waited} | {without} | ≤ {GOALS[name]} | {to_qemu} | {least:.1f}"
        f" | {shown} |"
    )


def main() -> None:
    """Print the figures."""
    count = 60 if "--quick" in sys.argv else 200
    with tempfile.TemporaryDirectory(prefix="mr") as name, processes() as start:
        folder = Path(name)
        (folder / "boot.img").write_bytes(BOOT.ljust(510, b"\0") + b"\x55\xaa")
        start(
            "qemu-system-x86_64", "-M", "pc", "-nodefaults", "-device", "VGA", "-display", "dbus,p2p=on",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-drive", f"format=raw,file={folder}/boot.img",
        )  # fmt: skip
        with daemon(module="bench.keyed", stamps=folder / "stamps") as bus:
            attach = [*MILLRACE, "attach", "qemu", "--qmp", f"{folder}/qmp"]
            subprocess.run(attach, env=bus.env, check=True, stdout=subprocess.DEVNULL)
            time.sleep(SETTLE_S)
            _, ours = asyncio.run(native(bus, count))
            page = asyncio.run(chromium(bus, count, folder / "profile"))
            written, _ = asyncio.run(native(bus, 0))
        rows = json.loads((folder / "stamps").read_text())
    assert written == len(ours) + len(page) == 2 * count, f"{written} of {2 * count} characters are on the console"
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    print(f"keypress: {version.split('(')[0].strip()}, VGA text console over D-Bus, ms, median / p99")
    print(
        "| viewer | keys | key → shown | of it QEMU's tick | without it | goal | key → QEMU | QEMU | painted → shown |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(row("native", parts(ours, rows)))
    print(row("Chromium", parts(page, rows)))


if __name__ == "__main__":
    main()
