"""The VNC door with our viewer, and TigerVNC's own viewer, of the same Xvnc: latency and bytes on the viewer's line.

Xvnc (1280 × 720, as it comes) is painted by bench/xpainter.py: a character, or a scroll by XCopyArea, ten times a
second, or a film of 640 × 360 thirty times. `xtigervncviewer` and `millrace view` run as they come, without sound, in
the window of another X server, one after the other, and connect through the same proxy, which counts what they are
sent. Latency is from painting until the code of the picture is on that X screen, which is looked at every
half a millisecond; bytes are counted while no code is painted. Takes 2.5 minutes; `--quick`, one and a half.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.common import MILLRACE, daemon, processes
from bench.realtime import free_port
from bench.xpainter import CELL, CODE
from millrace.pixels.blockcode import read
from millrace.pixels.rects import Point

SIZE, SCREEN = (1280, 720), (1600, 1000)
SCENES = {"typing": "typing", "scrolling": "scroll", "video": "film"}
SETTLE_S, START_S, LOOK_S = 2.0, 20.0, 0.0005
SECONDS, QUICK_S = 8.0, 3.0
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
Line = tuple[int, Path]
"""A proxy's port, and the file with the number of bytes."""


class Figures(NamedTuple):
    """Of one viewer and one scene."""

    latency_ms: list[float]
    kbit_s: float


class Screen:
    """The X server of the viewers: its picture, without a copy."""

    def __init__(self, folder: Path, display: str) -> None:
        self.display = display
        with (folder / "Xvfb_screen0").open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # An XWD dump (X11/XWDFile.h), big-endian.
        head = struct.unpack_from(">25I", data)
        width, height, stride = head[4], head[5], head[12]
        rows = np.frombuffer(data, np.uint8, stride * height, head[0] + head[19] * 12)
        self.pixels = rows.reshape(height, stride // 4, 4)[:, :width]

    def window(self) -> Point:
        """Where the viewer's picture lies; waits until it has its size."""
        size, end = "{}x{}".format(*SIZE), time.monotonic() + START_S
        while time.monotonic() < end:
            tree = subprocess.run(
                ["xwininfo", "-root", "-tree", "-display", self.display], capture_output=True, text=True, check=True
            ).stdout
            if found := re.findall(rf" {size}\+\S+ +\+(-?\d+)\+(-?\d+)", tree):
                return Point(*map(int, found[0]))
            time.sleep(0.1)
        raise AssertionError(f"no window of {size}")

    def latencies(self, at: Point, seconds: float) -> list[float]:
        """Of each code that is seen, in ms."""
        found, last, end = [], -1, time.monotonic() + seconds
        while time.monotonic() < end:
            stamp, now = read(self.pixels, Point(at.x + CODE.x, at.y + CODE.y), CELL), time.monotonic_ns()
            if stamp is not None and stamp.number != last:
                last = stamp.number
                found.append((now - stamp.time_ns) / 1e6)
            time.sleep(LOOK_S)
        return found[1:]


@contextlib.contextmanager
def proxied(port: int, folder: Path) -> Iterator[Line]:
    """A counting proxy to that port."""
    count = folder / "count"
    with processes() as start:
        proxy = start(sys.executable, "-m", "bench.counted", str(port), str(count), stdout=subprocess.PIPE)
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline()), count


@contextlib.contextmanager
def tigervnc(port: int, screen: Screen, folder: Path) -> Iterator[Path]:
    """TigerVNC's viewer; the file of its bytes."""
    with proxied(port, folder) as (through, count), processes() as start:
        start("xtigervncviewer", "-display", screen.display, f"127.0.0.1::{through}", **QUIET)
        yield count


@contextlib.contextmanager
def ours(port: int, screen: Screen, folder: Path) -> Iterator[Path]:
    """A daemon with the VNC server, and our viewer; the file of its bytes."""
    with daemon() as bus, proxied(int(bus.listen.rpartition(":")[2]), folder) as (through, count), processes() as start:
        attach = [*MILLRACE, "attach", "vnc", f"127.0.0.1:{port}"]
        subprocess.run(attach, env=bus.env, check=True, stdout=subprocess.DEVNULL)
        view = [*MILLRACE, "view", f"ws://127.0.0.1:{through}/default", "--sound", "off"]
        start(*view, env=bus.env | {"DISPLAY": screen.display}, **QUIET)
        yield count


def measured(viewer: Any, scene: str, guest: str, port: int, screen: Screen, folder: Path, seconds: float) -> Figures:
    """One viewer, with one scene on the guest's display."""
    painter = (sys.executable, "-m", "bench.xpainter", guest, scene, "{}x{}".format(*SIZE))
    with viewer(port, screen, folder) as count:
        with processes() as start:
            start(*painter, "code")
            at = screen.window()
            time.sleep(SETTLE_S)
            latency = screen.latencies(at, seconds)
        with processes() as start:
            start(*painter)
            time.sleep(SETTLE_S)
            before, began = _bytes(count), time.monotonic()
            time.sleep(seconds)
            kbit_s = (_bytes(count) - before) * 8 / 1000 / (time.monotonic() - began)
    return Figures(latency, kbit_s)


def _bytes(count: Path) -> int:
    return int(struct.unpack("<Q", count.read_bytes())[0])


def told(figures: Figures) -> str:
    """Cells of the table."""
    median, p99 = np.percentile(figures.latency_ms, (50, 99))
    return f"{median:.1f} / {p99:.1f} | {figures.kbit_s:,.0f}"


def main() -> None:
    """Print the table."""
    from tests.real.xscreen import XScreen
    from tests.real.xserver import XServer

    seconds = QUICK_S if "--quick" in sys.argv else SECONDS
    print("vnc_peer: paint → on the viewer's X screen, ms, median / p99; kbit/s to the viewer")
    print("| | TigerVNC's viewer, ms | kbit/s | VNC door and our viewer, ms | kbit/s | better in latency, bytes |")
    print("|---|---|---|---|---|---|")
    better = 0
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        folder, port = Path(name), free_port()
        place = ("-geometry", "{}x{}".format(*SIZE), "-depth", "24", "-rfbport", str(port), "-localhost")
        guest = XServer(folder, "Xvnc", "{}", *place, "-SecurityTypes", "None")
        try:
            with XScreen(folder / "x", *SCREEN) as x:
                screen = Screen(folder / "x", x.display)
                for what, scene in SCENES.items():
                    theirs, own = (
                        measured(viewer, scene, guest.display, port, screen, folder, seconds)
                        for viewer in (tigervnc, ours)
                    )
                    wins = (
                        np.median(own.latency_ms) < np.median(theirs.latency_ms), own.kbit_s < theirs.kbit_s
                    )  # fmt: skip
                    better += sum(map(int, wins))
                    words = ", ".join("yes" if won else "no" for won in wins)
                    print(f"| {what} | {told(theirs)} | {told(own)} | {words} |", flush=True)
        finally:
            guest.close()
    print(f"better in {better} of 6 (goal 6)")


if __name__ == "__main__":
    main()
