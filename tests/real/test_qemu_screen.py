"""The picture of a real QEMU over D-Bus: what arrives equals what QEMU itself dumps, and keys arrive in the guest."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.daemon.app import Daemon
from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Reader, Screen
from millrace.graph.seat import Watcher
from millrace.guest.hands import Hands
from millrace.guest.machines.address import parse_door
from millrace.io.clock import now_ns
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Size
from millrace.rights.model import OWNER
from millrace.wire.peer.pictures import Text
from tests.bus import daemon_in

from .clients import old_qemu
from .conftest import listens, need
from .watched import colours

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]
PAINTER = bytes.fromhex(
    # Text mode; then for ever: wait for a key, whose scan code and character are AX.
    "31c08ed88ed0bc007cfc b80300cd10 31c0cd1689c5"
    # A: 640 × 480, B: 800 × 600, both of 32 bits. C: paint a few lines. T: text mode. Others: write it 40 times.
    "bb4201 80fc1e742b 43 80fc307425 80fc2e7435 80fc147507 b80300cd10ebdb"
    "b40ebb0700b92800 5189e8b40ecd1059e2f6ebc7"
    # Set the mode (VESA 4F02), and paint 30 banks of 64 KiB, or 16 KiB of the first.
    "b8024fcd1031d2 b90080e812004283fa1e72f4ebb2 31d2b90020e80200eba8"
    # Paint CX words of bank DX (VESA 4F05): SI = SI * 25173 + AX of the key.
    "51b8054f31dbcd1059 b800a08ec031ff 69f6556201ee89f0abe2f5c3"
)
ECHO = bytes.fromhex("31c08ed88ed0bc007cfc b80300cd10 31c0cd16 b40e bb0700 cd10 ebf3")
"""Text mode; then for ever: wait for a key and write its character."""
TEXT = 0xB8000
"""Where a card's text is: a character and its colour, one after the other."""


def boot_sector(code: bytes) -> bytes:
    return code.ljust(510, b"\0") + b"\x55\xaa"


KEYS = {"a": 0x1E, "b": 0x30, "c": 0x2E, "t": 0x14, "x": 0x2D, "z": 0x2C}


async def until(true: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)
    assert what


class Qemu:
    """A QEMU with that guest, on a bus of its own."""

    def __init__(self, folder: Path, *args: str, code: bytes = PAINTER) -> None:
        self.folder, self.address = folder, f"unix:path={folder}/bus"
        (folder / "boot.img").write_bytes(boot_sector(code))
        self._numbers = itertools.count()
        self._bus = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", f"--address={self.address}"], stderr=subprocess.DEVNULL
        )
        self._args = (
            "qemu-system-x86_64", "-M", "pc", "-nodefaults", "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
            "-drive", f"format=raw,file={folder}/boot.img", *(arg.format(bus=self.address) for arg in args),
        )  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        await until(lambda: listens(self.folder / "bus"), "the bus is there")
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(self._args, stdout=log, stderr=log)

    async def tell(self, command: str, **arguments: object) -> Any:
        """One QMP command."""
        reader, writer = await asyncio.open_unix_connection(self.folder / "qmp")
        try:
            await reader.readline()
            answer = None
            for name, given in (("qmp_capabilities", {}), (command, arguments)):
                writer.write(json.dumps({"execute": name, "arguments": given}).encode() + b"\n")
                while "return" not in (answer := json.loads(await reader.readline())):
                    assert "error" not in answer, answer
            return answer["return"]
        finally:
            writer.close()

    async def dump(self) -> Plane:
        """What QEMU shows, as its own screendump: B, G, R."""
        path = self.folder / f"{next(self._numbers)}.ppm"
        await self.tell("screendump", filename=str(path))
        magic, size, _, data = path.read_bytes().split(b"\n", 3)
        assert magic == b"P6"
        width, height = map(int, size.split())
        picture: Plane = np.frombuffer(data, np.uint8).reshape(height, width, 3)[:, :, ::-1]
        path.unlink()
        return picture

    async def text(self, size: int) -> str:
        """The first characters that it shows in text mode."""
        path = self.folder / f"{next(self._numbers)}.text"
        await self.tell("pmemsave", val=TEXT, size=2 * size, filename=str(path))
        return path.read_bytes()[::2].decode("latin-1")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        for process in (self.process, self._bus):
            if process is not None:
                process.kill()
                process.wait(10)


class Viewer:
    """Takes pictures, and applies nothing but their damage."""

    def __init__(self, daemon: Daemon, screen: Screen) -> None:
        self.screen, self.who = screen, Watcher("viewer/1", OWNER)
        self.reader: Reader = screen.read(self.who)
        self.seen: Plane = np.zeros((0, 0, 4), np.uint8)
        self.pictures = 0
        daemon.worker.guest("alice").screens.seat.take(self.who)

    def look(self) -> None:
        picture = self.reader.take(now_ns())
        if picture is None:
            return
        mode = picture.mode
        if self.seen.shape[:2] != (mode.height, mode.width):
            self.seen = np.zeros((mode.height, mode.width, 4), np.uint8)
        whole = np.frombuffer(picture.pixels, np.uint8).reshape(mode.height, mode.width, 4)
        for rect in picture.damage:
            part = (slice(rect.y, rect.bottom), slice(rect.x, rect.right))
            self.seen[part] = whole[part]
        self.pictures += 1
        picture.release()

    async def press(self, key: str) -> None:
        self.reader.key(KeyPress(KEYS[key], True))
        self.reader.key(KeyPress(KEYS[key], False))

    async def equals(self, qemu: Qemu, size: tuple[int, int]) -> Plane:
        """Wait until what was seen is what QEMU shows, in that size."""
        shown: Plane = np.zeros((0, 0, 3), np.uint8)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while True:
                    self.look()
                    shown = await qemu.dump()
                    if shown.shape[:2] == size[::-1] == self.seen.shape[:2] and (shown == self.seen[:, :, :3]).all():
                        return shown
                    await asyncio.sleep(0.05)
        differs = (shown != self.seen[:, :, :3]).any(axis=2).sum() if shown.shape[:2] == self.seen.shape[:2] else "all"
        raise AssertionError(f"QEMU shows {shown.shape}, we {self.seen.shape}; pixels that differ: {differs}")


@contextlib.asynccontextmanager
async def machine(folder: Path, *args: str, code: bytes = PAINTER) -> AsyncIterator[tuple[Daemon, Qemu]]:
    need("qemu-system-x86_64", "dbus-daemon")
    async with daemon_in(folder) as daemon:
        qemu = Qemu(folder, *args, code=code)
        try:
            await qemu.start()
            guest = daemon.worker.guest("alice")
            daemon.worker.attach(guest, parse_door(f"dbus:{qemu.address}"))
            yield daemon, qemu
        finally:
            qemu.close()


async def viewer(daemon: Daemon) -> Viewer:
    guest = daemon.worker.guest("alice")
    await until(lambda: guest.screens.first and guest.screens.first.screen.memory, "there is a picture")
    assert guest.screens.first is not None
    return Viewer(daemon, guest.screens.first.screen)


SILENT = ("-display", "dbus,addr={bus}")
SOUNDING = ("-audiodev", "dbus,id=a", "-display", "dbus,addr={bus},audiodev=a")


@pytest.mark.parametrize(("card", "display"), [("VGA", SOUNDING), ("virtio-vga", SILENT), ("qxl-vga", SILENT)])
def test_picture_equals_qemus_own_dump_in_each_mode_and_keys_arrive(
    tmp_path: Path, card: str, display: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with machine(tmp_path, "-device", card, *display) as (daemon, qemu):
            watching = await viewer(daemon)
            await watching.equals(qemu, (720, 400))
            before = watching.screen.serial
            await watching.press("x")
            await until(lambda: watching.screen.serial > before, "the key was typed")
            text = await watching.equals(qemu, (720, 400))
            for key, size in (("a", (640, 480)), ("b", (800, 600)), ("c", (800, 600)), ("a", (640, 480))):
                last = watching.pictures
                await watching.press(key)
                await until(lambda: watching.look() or watching.pictures > last, "it paints")  # noqa: B023
                await asyncio.sleep(0.5)
                shown = await watching.equals(qemu, size)
                assert colours(shown) > 10_000, "it is noise"
            await watching.press("t")
            await watching.equals(qemu, (720, 400))
            assert text.any() and watching.screen.relative, "this guest has a mouse, and no tablet"
            one = daemon.worker.guest("alice").machines[0].view()
            assert one.state == "attached" and ("no sound" in one.hint) == (display is SILENT)

    asyncio.run(main())


def test_long_text_arrives_whole(tmp_path: Path) -> None:
    typed = "The quick brown fox jumps over the lazy dog 0123456789 " * 8

    async def main() -> None:
        async with machine(tmp_path, "-device", "VGA", *SILENT, code=ECHO) as (daemon, qemu):
            watching = await viewer(daemon)
            await watching.equals(qemu, (720, 400))
            guest = daemon.worker.guest("alice")
            hands = Hands(guest.turns, guest.admission.budget.open("viewer"))
            hands.control(Text(typed), watching.who, watching.screen, Size(720, 400))
            seen = ""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30):
                    while seen != typed:
                        await asyncio.sleep(0.5)
                        seen = await qemu.text(len(typed))
            assert seen == typed

    asyncio.run(main())


def test_stopped_machine_keeps_its_screen_and_a_killed_one_is_found_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path, "-device", "VGA", *SOUNDING) as (daemon, qemu):
            guest = daemon.worker.guest("alice")
            watching = await viewer(daemon)
            await watching.equals(qemu, (720, 400))
            await qemu.tell("stop")
            await watching.press("z")
            await asyncio.sleep(0.3)
            assert guest.machines[0].view().state == "attached" and not watching.reader.ended
            await qemu.tell("cont")
            await watching.press("x")
            await watching.equals(qemu, (720, 400))
            for _ in range(2):
                qemu.kill()
                await until(lambda: not len(guest.screens), "its end is noticed")
                assert watching.reader.ended and guest.machines[0].view().state == "waiting"
                await qemu.start()
                watching = await viewer(daemon)
                await watching.equals(qemu, (720, 400))

    asyncio.run(main())


def test_old_machine_over_qmp_has_its_screen_and_is_not_harmed(tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")

    async def main() -> None:
        async with daemon_in(tmp_path) as daemon:
            display = ("-audiodev", "dbus,id=a", "-display", "dbus,p2p=on,audiodev=a")
            qemu = Qemu(tmp_path, "-device", "VGA", *display)
            try:
                await qemu.start()
                guest = daemon.worker.guest("alice")
                daemon.worker.attach(guest, parse_door(f"qmp:{tmp_path}/qmp"))
                watching = await viewer(daemon)
                await watching.press("a")
                await watching.equals(qemu, (640, 480))
                assert ("crashes when its sound" in guest.machines[0].view().hint) == old_qemu()
                assert qemu.process is not None and qemu.process.poll() is None
            finally:
                qemu.close()

    asyncio.run(main())


def test_machine_without_a_card_for_graphics_has_its_sound(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path, *SOUNDING) as (daemon, _):
            guest = daemon.worker.guest("alice")
            await until(lambda: guest.machines[0].view().state == "attached", "it is attached")
            await asyncio.sleep(0.3)
            assert not len(guest.screens) and not guest.machines[0].view().hint

    asyncio.run(main())
