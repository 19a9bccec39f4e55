"""A real Linux in QEMU with a tablet: what a viewer points at and types, as its kernel has it (linux/input.h)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from millrace.cli.matrix import guest_images
from millrace.daemon.app import Daemon
from millrace.guest.machines.address import parse_door
from millrace.lab.cells import RIG
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
"""The tablet's largest coordinate."""
DOORS = {
    "dbus": ("-display dbus,p2p=on", "qmp:{d}/qmp"),
    "vnc": ("-vnc unix:{d}/vnc", "vnc+unix://{d}/vnc"),
    "spice": ("-spice unix=on,addr={d}/spice,disable-ticketing=on", "spice+unix://{d}/spice"),
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(RIG / "run-guest"), "--images", str(guest_images()), "--device", device, "--play", "none",
        "--seconds", "300", "--qmp", f"{folder}/qmp", "--qemu", f"-device VGA {displays}",
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


# To boot a Linux takes most of the time, so one has several doors.
@pytest.mark.parametrize(("device", "doors"), [("tablet", ("dbus", "spice")), ("usb-tablet", ("vnc",))])
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
