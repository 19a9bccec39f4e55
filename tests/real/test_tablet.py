"""A real Linux in QEMU: what a viewer points at and types, as its kernel has it (linux/input.h), and its films."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.cli.matrix import guest_images
from millrace.client.canvas import Canvas
from millrace.client.faces import Unseen
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.daemon.app import Daemon
from millrace.guest.machines.address import parse_door
from millrace.lab.cells import RIG
from millrace.observe.explainpicture import explain_screen
from millrace.pixels.rects import Rect
from millrace.units import MediaNs
from millrace.wire.keys import BY_NAME
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Key, KeyboardHeld, Pointer, TakeKeyboard
from tests.bus import daemon_in
from tests.scenario import tenants
from tests.scenario.watchers import Watcher, watching

from .conftest import need

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("guest")]
BOOT_S, WITHIN_S = 150, 60
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
ABS_X, ABS_Y, REL_WHEEL = 0, 1, 8
BTN_LEFT, BTN_RIGHT, KEY_A = 0x110, 0x111, 30
FULL = 0x7FFF
FRAMES, FILM, FILM_S = 12, Rect(0, 192, 640, 96), 120
"""A film that a qxl card shows, of which QEMU's SPICE server makes VP8 (`streaming-video=all`)."""
"""The tablet's largest coordinate."""
DOORS = {
    "dbus": ("-display dbus,p2p=on", "qmp:{d}/qmp"),
    "vnc": ("-vnc unix:{d}/vnc", "vnc+unix://{d}/vnc"),
    "spice": ("-spice unix=on,addr={d}/spice,disable-ticketing=on", "spice+unix://{d}/spice"),
    "film": ("-spice unix=on,addr={d}/spice,disable-ticketing=on,streaming-video=all", "spice+unix://{d}/spice"),
}


class Guest:
    """What it says of its input devices: (type, code, value)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[tuple[int, int, int]] = []
        self.inputs: set[str] = set()
        self._said: list[str] = []

    async def listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = line.decode(errors="replace").strip()
            self._said.append(said)
            words = said.partition(" RIG ")[2].split()
            if words[:1] == ["event"]:
                self.events.append((int(words[2]), int(words[3]), int(words[4])))
            elif words[:1] == ["input"]:
                self.inputs.add(" ".join(words[2:]))

    async def until(self, *wanted: tuple[int, int, int]) -> None:
        """Wait until these have happened, in any order; all others before them are forgotten."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not set(wanted) <= set(self.events):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{wanted}: got {self.events}; it said {self._said[-9:]}") from None
        self.events.clear()

    async def place(self) -> tuple[int, int]:
        """Where the pointer is, once that has not changed for a while."""
        at: dict[int, int] = {}
        async with asyncio.timeout(WITHIN_S):
            while not {ABS_X, ABS_Y} <= set(at) or self.events:
                at |= {code: value for type_, code, value in self.events if type_ == EV_ABS}
                self.events.clear()
                await asyncio.sleep(0.5)
        return at[ABS_X], at[ABS_Y]


@contextlib.asynccontextmanager
async def linux(device: str, doors: Sequence[str], folder: Path) -> AsyncIterator[Guest]:
    """That guest with a screen for each of these doors, which has said what input devices it has."""
    displays = " ".join(DOORS[door][0].format(d=folder) for door in doors)
    card, film = "VGA", list[str]()
    if "film" in doors:
        card = "qxl-vga"
        (folder / "film").write_bytes(moving().tobytes())
        film = ["--film", f"{folder}/film", "--films", str(FRAMES), "--film-at", str(FILM.y // FILM.height)]
        film += ["--append", "video=Virtual-1:640x480"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(RIG / "run-guest"), "--images", str(guest_images()), "--device", device, "--play", "none",
        "--seconds", "300", "--qmp", f"{folder}/qmp", "--qemu", f"-device {card} {displays}", *film,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    guest = Guest(process)
    listening = asyncio.create_task(guest.listen())
    try:
        async with asyncio.timeout(BOOT_S):
            while not any("ablet" in name for name in guest.inputs):
                await asyncio.sleep(0.1)
        yield guest
    finally:
        process.terminate()
        await process.wait()
        await listening


async def watches(daemon: Daemon, http: aiohttp.ClientSession) -> tuple[Watcher, asyncio.Task[None]]:
    """A viewer that has a picture of a machine with a tablet, and the keyboard; and its task."""
    screens = daemon.worker.guest("alice").screens
    async with asyncio.timeout(WITHIN_S):
        while screens.first is None or screens.first.screen.relative:
            await asyncio.sleep(0.1)
    watcher = await watching(tenants.Rig(daemon, http), settings={"picture": "lossless"})
    await watcher.say(TakeKeyboard(True))
    watching_ = asyncio.create_task(watcher.goes_on())
    async with asyncio.timeout(WITHIN_S):
        while not watcher.canvas.drawn.all() or not any(one.mine for one in held(watcher)):
            await asyncio.sleep(0.1)
    return watcher, watching_


def held(watcher: Watcher) -> list[KeyboardHeld]:
    return [one for one in watcher.told if isinstance(one, KeyboardHeld)]


# To boot a Linux takes most of the time, so one has several doors. The film begins with another mode, so it is first.
@pytest.mark.parametrize(("device", "doors"), [("tablet", ("dbus", "spice")), ("usb-tablet", ("film", "vnc"))])
def test_linux_is_pointed_at_the_place_that_the_viewer_points_at(
    tmp_path: Path, device: str, doors: tuple[str, ...]
) -> None:
    need("qemu-system-x86_64", "apt-get")

    async def by(door: str, folder: Path, guest: Guest) -> None:
        async with daemon_in(tmp_path / door) as daemon, aiohttp.ClientSession() as http:
            daemon.worker.attach(daemon.worker.guest("alice"), parse_door(DOORS[door][1].format(d=folder)))
            watcher, watching_ = await watches(daemon, http)
            await points(watcher, guest)
            await presses(watcher, guest)
            watching_.cancel()
            assert not [one for one in watcher.told if isinstance(one, Fault)]

    async def main(folder: Path) -> None:
        async with linux(device, doors, folder) as guest:
            for door in doors:
                if door == "film":
                    # The second time, the server has a video already: it must survive that.
                    for again in ("film", "again"):
                        await passes(tmp_path / again, folder)
                else:
                    await by(door, folder, guest)

    # Paths of sockets must be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        asyncio.run(main(Path(folder)))


async def points(watcher: Watcher, guest: Guest) -> None:
    """At some places, from corner to corner; each is right to a pixel."""
    size = watcher.canvas.size
    assert size.width >= 640
    for x, y in ((300, 200), (0, 0), (size.width - 1, size.height - 1), (17, 333), (size.width // 2, 1)):
        await watcher.say(Pointer(x, y))
        across, down = await guest.place()
        found = across / FULL * size.width, down / FULL * size.height
        print(f"pointed at ({x}, {y}): Linux has ({found[0]:.2f}, {found[1]:.2f}) of {size}")
        assert abs(found[0] - x) <= 1 and abs(found[1] - y) <= 1


async def presses(watcher: Watcher, guest: Guest) -> None:
    """Buttons, the wheel, and a key."""
    for buttons, code in ((1, BTN_LEFT), (4, BTN_RIGHT)):
        await watcher.say(Pointer(9, 9, buttons))
        await guest.until((EV_KEY, code, 1))
        await watcher.say(Pointer(9, 9))
        await guest.until((EV_KEY, code, 0))
    await watcher.say(Pointer(9, 9, 8))
    await guest.until((EV_REL, REL_WHEEL, 1))
    for down in (True, False):
        await watcher.say(Key(BY_NAME["KeyA"].code, down))
        await guest.until((EV_KEY, KEY_A, int(down)))


# -- films ---------------------------------------------------------------------------------------


def moving() -> NDArray[np.uint8]:
    """The frames: blocks of colour and soft waves, which drift."""
    coarse = np.random.default_rng(1).integers(40, 216, (FILM.height // 16, FILM.width // 16, 4), np.uint8)
    blocks = coarse.repeat(16, axis=0).repeat(16, axis=1).astype(float)
    down, across = np.mgrid[0 : FILM.height, 0 : FILM.width]
    frames = []
    for n in range(FRAMES):
        waves = 20 * np.sin((across + 5 * n) / 17) + 20 * np.cos((down + 3 * n) / 11)
        frames.append(np.clip(np.roll(blocks, 8 * n, axis=1) + waves[:, :, None], 0, 255).astype(np.uint8))
    return np.stack(frames)


class FilmFace(Unseen):
    """Notes which frame of the film is seen, and how near it comes (dB)."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self._frames = moving()[:, :, :, :3].astype(float)

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        if canvas.size.height >= FILM.bottom and FILM in changed:
            shown = canvas.pixels[FILM.y : FILM.bottom, FILM.x : FILM.right, :3].astype(float)
            error = [float(np.square(shown - frame).mean()) for frame in self._frames]
            nearest = int(np.argmin(error))
            self.seen.append((nearest, 10 * np.log10(255**2 / max(error[nearest], 1e-9))))


async def passes(state: Path, folder: Path) -> None:
    """A film reaches a viewer as the server has encoded it, and the viewer sees it move."""
    async with daemon_in(state) as daemon, aiohttp.ClientSession():
        guest = daemon.worker.guest("alice")
        daemon.worker.attach(guest, parse_door(DOORS["film"][1].format(d=folder)))
        face, options = FilmFace(), ViewerOptions(token=daemon.worker.access.key)
        viewer = Viewer(f"ws://{daemon.serving.address}/alice", face, options)
        running = asyncio.create_task(viewer.run())
        # The server makes video of what has changed 20 times, no more than 200 ms apart.
        async with asyncio.timeout(FILM_S):
            while not any(one.videos.frames > 30 for one in guest.viewers.sessions):
                await asyncio.sleep(0.1)
        (session,), seen = guest.viewers.sessions, face.seen[-25:]
        assert guest.screens.first is not None
        told = [step.text for step in explain_screen(guest, guest.screens.first) if step.stage == "video"]
        print(f"{session.videos.frames} frames in {session.videos.bytes} bytes; {told}; {seen}")
        assert told and "passed through to" in told[0] and "decoded" not in told[0]
        assert min(near for _, near in seen) > 25
        # The guest shows one after the other; the server leaves some out if it is slow.
        steps = [(after - before) % FRAMES for (before, _), (after, _) in itertools.pairwise(seen)]
        assert sum(0 < step <= FRAMES // 2 for step in steps) > 0.8 * len(steps)
        viewer.stop()
        await running
