"""The VNC door with our viewers, beside TigerVNC's viewer and noVNC, of the same Xvnc: latency and bytes on the line.

Xvnc (1280 × 720, as it comes) is painted by bench/xpainter.py: a character, or a scroll by XCopyArea, ten times a
second, or a film of 640 × 360 thirty times. `xtigervncviewer` and `millrace view` run as they come, without sound, in
the window of another X server; noVNC (by websockify) and our page in Chromium, which fills that server's screen. They
run one after the other, and connect through the same proxy, which counts what they are sent. Latency is from painting
until the code of the picture is on that X screen, which is looked at every half a millisecond; bytes are counted while
no code is painted. Takes 5 minutes; `--quick`, three. Without noVNC and websockify (apt-get install novnc), half.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from tests.real.browser import own_page

from bench.common import MILLRACE, Daemon, daemon, processes
from bench.realtime import free_port
from bench.xpainter import CELL, CODE
from millrace.pixels.blockcode import read
from millrace.pixels.rects import Point

SIZE, SCREEN = (1280, 720), (1600, 1200)
SCENES = {"typing": "typing", "scrolling": "scroll", "video": "film"}
SETTLE_S, START_S, LOOK_S = 2.0, 20.0, 0.0005
SECONDS, QUICK_S = 8.0, 3.0
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
NOVNC = Path("/usr/share/novnc")
Line = tuple[int, Path]
"""A proxy's port, and the file with the number of bytes."""


class Shown(NamedTuple):
    """A viewer that runs: the file of its bytes, and what waits until it shows the picture and says where."""

    count: Path
    place: Callable[[], Point]


Viewer: TypeAlias = Callable[[int, "Screen", Path], contextlib.AbstractContextManager[Shown]]


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
def tigervnc(port: int, screen: Screen, folder: Path) -> Iterator[Shown]:
    """TigerVNC's viewer."""
    with proxied(port, folder) as (through, count), processes() as start:
        start("xtigervncviewer", "-display", screen.display, f"127.0.0.1::{through}", **QUIET)
        yield Shown(count, screen.window)


@contextlib.contextmanager
def ours(port: int, screen: Screen, folder: Path) -> Iterator[Shown]:
    """A daemon with the VNC server, and our viewer."""
    with attached(port, folder) as (bus, (through, count)), processes() as start:
        view = [*MILLRACE, "view", f"ws://127.0.0.1:{through}/default", "--sound", "off"]
        start(*view, env=bus.env | {"DISPLAY": screen.display}, **QUIET)
        yield Shown(count, screen.window)


@contextlib.contextmanager
def novnc(port: int, screen: Screen, folder: Path) -> Iterator[Shown]:
    """noVNC's simple page, served and connected by websockify."""
    with processes() as start:
        served = free_port()
        start("websockify", f"--web={NOVNC}", f"127.0.0.1:{served}", f"127.0.0.1:{port}", **QUIET)
        _accepts(served)
        with proxied(served, folder) as (through, count):
            yield from browsed(f"http://127.0.0.1:{through}/vnc_lite.html", "#screen canvas", screen, folder, count)


@contextlib.contextmanager
def page(port: int, screen: Screen, folder: Path) -> Iterator[Shown]:
    """A daemon with the VNC server, and our page."""
    with attached(port, folder) as (bus, (through, count)):
        link = bus.link().replace(bus.listen, f"127.0.0.1:{through}")
        yield from browsed(link, "#picture", screen, folder, count)


@contextlib.contextmanager
def attached(port: int, folder: Path) -> Iterator[tuple[Daemon, Line]]:
    """A daemon with the VNC server attached, and a proxy to it."""
    with daemon() as bus, proxied(int(bus.listen.rpartition(":")[2]), folder) as line:
        attach = [*MILLRACE, "attach", "vnc", f"127.0.0.1:{port}"]
        subprocess.run(attach, env=bus.env, check=True, stdout=subprocess.DEVNULL)
        yield bus, line


def browsed(url: str, canvas: str, screen: Screen, folder: Path, count: Path) -> Iterator[Shown]:
    """A page in Chromium, whose window is as large as the screen; its canvas has the picture, pixel by pixel."""
    look = (
        f"(e => {{ const r = e?.getBoundingClientRect(); return r?.width === {SIZE[0]} &&"
        " [screenX + r.x, screenY + outerHeight - innerHeight + r.y]; })"
    )
    flags = ("--window-size={},{}".format(*SCREEN), "--window-position=0,0")
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(dir=folder) as profile:
        shown = own_page(Path(profile), *flags, display=screen.display)
        tab = runner.run(shown.__aenter__())
        try:
            runner.run(tab.open(url))
            place = f"{look}(document.querySelector({canvas!r}))"
            yield Shown(count, lambda: Point(*map(round, runner.run(tab.until(place, START_S)))))
        finally:
            runner.run(shown.__aexit__(None, None, None))


def measured(
    viewer: Viewer, scene: str, guest: str, port: int, screen: Screen, folder: Path, seconds: float
) -> Figures:
    """One viewer, with one scene on the guest's display."""
    painter = (sys.executable, "-m", "bench.xpainter", guest, scene, "{}x{}".format(*SIZE))
    with viewer(port, screen, folder) as shown:
        with processes() as start:
            start(*painter, "code")
            at = shown.place()
            time.sleep(SETTLE_S)
            latency = screen.latencies(at, seconds)
        with processes() as start:
            start(*painter)
            time.sleep(SETTLE_S)
            before, began = _bytes(shown.count), time.monotonic()
            time.sleep(seconds)
            kbit_s = (_bytes(shown.count) - before) * 8 / 1000 / (time.monotonic() - began)
    return Figures(latency, kbit_s)


def _accepts(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing accepts at port {port}")


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
    pairs = {"TigerVNC's viewer": tigervnc, "`millrace view`": ours}, {"noVNC": novnc, "our page": page}
    print("vnc_peer: paint → on the viewer's X screen, ms, median / p99; kbit/s to the viewer")
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        folder, port = Path(name), free_port()
        place = ("-geometry", "{}x{}".format(*SIZE), "-depth", "24", "-rfbport", str(port), "-localhost")
        guest = XServer(folder, "Xvnc", "{}", *place, "-SecurityTypes", "None")
        try:
            with XScreen(folder / "x", *SCREEN) as x:
                screen = Screen(folder / "x", x.display)
                for pair in pairs:
                    if novnc in pair.values() and not (NOVNC.is_dir() and shutil.which("websockify")):
                        print("noVNC and websockify are not here: apt-get install novnc")
                        continue
                    compared(pair, guest.display, port, screen, folder, seconds)
        finally:
            guest.close()


def compared(pair: dict[str, Viewer], guest: str, port: int, screen: Screen, folder: Path, seconds: float) -> None:
    """Print the table of another's viewer and of ours."""
    print("| | " + " | ".join(f"{who}, ms | kbit/s" for who in pair) + " | better in latency, bytes |")
    print("|---|---|---|---|---|---|")
    better = 0
    for what, scene in SCENES.items():
        theirs, own = (measured(viewer, scene, guest, port, screen, folder, seconds) for viewer in pair.values())
        wins = np.median(own.latency_ms) < np.median(theirs.latency_ms), own.kbit_s < theirs.kbit_s
        better += sum(map(int, wins))
        words = ", ".join("yes" if won else "no" for won in wins)
        print(f"| {what} | {told(theirs)} | {told(own)} | {words} |", flush=True)
    print(f"better in {better} of 6 (goal 6)")


if __name__ == "__main__":
    main()
