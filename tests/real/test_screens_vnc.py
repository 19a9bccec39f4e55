"""Real VNC servers (QEMU, TigerVNC, x11vnc): the screen is what the server itself shows, and keys arrive."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from millrace.guest.hands import Hands
from millrace.guest.machines import vnc
from millrace.guest.machines.address import parse_door
from millrace.pixels.rects import Point, Size
from millrace.wire.peer.pictures import Text
from millrace.wire.vnc.messages import Encoding
from tests.bus import daemon_in
from tests.gops import WATCHER

from .conftest import need
from .watched import Watched, colours
from .xserver import Picture, XServer, x11vnc

pytestmark = [pytest.mark.real, pytest.mark.beside]
ENCODINGS = (Encoding.RAW, Encoding.TIGHT, Encoding.ZRLE, Encoding.ZLIB)
CONNECT_S = 20
ECHO = bytes.fromhex("30e4cd16b40e31dbcd10ebf4")
"""Instructions of a boot sector: wait for a key, write it on the screen, again."""
BEEP = bytes.fromhex("b0b6e643b0a9e642b004e642e4610c03e661")
"""The speaker is on."""


@asynccontextmanager
async def watching(folder: Path, door: str) -> AsyncIterator[Watched]:
    async with daemon_in(folder) as daemon:
        guest = daemon.worker.guests["alice"]
        machine = daemon.worker.attach(guest, parse_door(door))
        async with asyncio.timeout(CONNECT_S):
            while (listed := guest.screens.first) is None:
                assert machine.state in ("waiting", "attached")
                await asyncio.sleep(0.02)
        yield Watched(daemon, listed.screen)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Encoding:
    """The encoding to ask for, first."""
    encoding: Encoding = request.param
    monkeypatch.setattr(vnc, "PLAIN", (Encoding.COPY_RECT, encoding, Encoding.RAW))
    return encoding


each = pytest.mark.parametrize("wanted", ENCODINGS, indirect=True, ids=lambda encoding: encoding.name)


def coloured_text(x: XServer) -> None:
    """A terminal full of colours, which then writes down what is typed."""
    colours = "for n in $(seq 0 255); do printf '\\033[48;5;%dm%03d ' $n $n; done; printf '\\033[0m\\n'"
    x.terminal(f'{colours}; read line; echo "$line" > {x.folder}/typed; exec sleep 1000')


@contextmanager
def tigervnc(folder: Path, *args: str):  # type: ignore[no-untyped-def]
    need("Xvnc", "xterm", "xwd")
    args = args or ("-SecurityTypes", "None")
    x = XServer(folder, "Xvnc", "{}", "-geometry", "640x480", "-depth", "24", "-rfbport", "-1",
                "-rfbunixpath", f"{folder}/vnc", *args)  # fmt: skip
    try:
        yield x
    finally:
        x.close()


@each
def test_tigervnc_is_shown_and_typed_into(tmp_path: Path, wanted: Encoding) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            coloured_text(x)
            await one.until(lambda: colours(one.picture) > 200, "the text is there")
            one.reader.pointer(Point(100, 100), 0, False)
            one.reader.pointer(Point(639, 479), 0, False)
            await one.shows(x.picture)
            one.reader.pointer(Point(100, 100), 0, False)
            one.type("Hello, World 42_\n")
            await one.until((tmp_path / "typed").exists, "it was typed")
            await one.until(lambda: (tmp_path / "typed").read_text() == "Hello, World 42_\n", "it is what was typed")
            assert one.guest.machines[0].view().hint.startswith("this VNC server has a picture but no sound")

    with tigervnc(tmp_path) as x:
        asyncio.run(test(x))


def test_tigervnc_changes_its_size_and_has_a_cursor(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            coloured_text(x)
            await one.until(lambda: one.picture.any(), "something is painted")
            # Until a viewer points, this server paints the pointer into the picture.
            one.reader.pointer(Point(100, 100), 0, False)
            await one.until(lambda: one.screen.cursor.shown, "it has a cursor")
            one.reader.wish_size(Size(800, 500))
            await one.until(lambda: one.picture.shape[:2] == (500, 800), "it has the size that was asked for")
            await one.shows(x.picture)
            one.reader.end()
            serial = one.screen.serial
            x.run("xdotool", "mousemove", "50", "50")
            for colour in ("#804020", "#204080", "#408020"):
                x.run("xsetroot", "-solid", colour)
                await asyncio.sleep(0.3)
            assert one.screen.serial <= serial + 1, "nobody watches: only what was asked for before may come"
            one.reader = one.screen.read(WATCHER)
            # It was moved by another program, for which the server paints it in again after a second.
            one.reader.pointer(Point(100, 100), 0, False)
            await one.shows(x.picture)

    need("xdotool", "xsetroot")
    with tigervnc(tmp_path) as x:
        asyncio.run(test(x))


def test_tigervnc_lets_a_password_in_beside_tls_without_certificates(tmp_path: Path) -> None:
    need("vncpasswd")
    secret = subprocess.run(["vncpasswd", "-f"], input=b"geheim\n", capture_output=True, check=True).stdout
    (tmp_path / "passwd").write_bytes(secret)
    (tmp_path / "own").write_text("geheim\n")
    (tmp_path / "own").chmod(0o600)

    async def test() -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            door = parse_door(f"vnc+unix://{tmp_path}/vnc", password="geheim")
            machine = daemon.worker.attach(guest, door)
            async with asyncio.timeout(CONNECT_S):
                while machine.state != "attached":
                    await asyncio.sleep(0.02)

    with tigervnc(tmp_path, "-SecurityTypes", "TLSVnc,VncAuth", "-PasswordFile", f"{tmp_path}/passwd"):
        asyncio.run(test())


async def shown_and_typed_into(x: XServer, door: str, folder: Path) -> None:
    async with watching(folder, door) as one:
        coloured_text(x)
        await one.until(lambda: colours(one.picture) > 200, "the text is there")
        await one.shows(x.picture)
        one.reader.pointer(Point(100, 100), 0, False)
        await one.until(lambda: "x:100 y:100" in x.run("xdotool", "getmouselocation"), "the pointer is there")
        one.type("Hello, World 42_\n")
        await one.until((folder / "typed").exists, "it was typed")
        await one.until(lambda: (folder / "typed").read_text() == "Hello, World 42_\n", "it is what was typed")


@each
def test_x11vnc_is_shown_and_typed_into(tmp_path: Path, wanted: Encoding) -> None:
    with x11vnc(tmp_path, "-nopw") as (x, door):
        asyncio.run(shown_and_typed_into(x, door, tmp_path))


@pytest.mark.parametrize("version", ["3.3", "3.7"])
def test_old_protocol_is_shown_and_typed_into(tmp_path: Path, version: str) -> None:
    with x11vnc(tmp_path, "-nopw", "-rfbversion", version) as (x, door):
        asyncio.run(shown_and_typed_into(x, door, tmp_path))


@pytest.mark.parametrize("version", ["3.3", "3.7"])
def test_old_protocol_refuses_a_wrong_password_and_takes_the_right_one(tmp_path: Path, version: str) -> None:
    async def test(door: str) -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            machine = daemon.worker.attach(guest, parse_door(door, password="wrong"))
            async with asyncio.timeout(CONNECT_S):
                while "rejected the password" not in machine.error:
                    await asyncio.sleep(0.02)
                daemon.worker.attach(guest, parse_door(door, password="geheim"))
                while machine.state != "attached":
                    await asyncio.sleep(0.02)

    with x11vnc(tmp_path, "-passwd", "geheim", "-rfbversion", version) as (_, door):
        asyncio.run(test(door))


# -- QEMU ------------------------------------------------------------------------------------------


class Qemu:
    """A guest that beeps and writes what is typed, and QEMU's own view of it."""

    def __init__(self, folder: Path, *more: str) -> None:
        need("qemu-system-x86_64")
        self.folder = folder
        image = folder / "boot.img"
        image.write_bytes((BEEP + ECHO).ljust(510, b"\0") + b"\x55\xaa")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a", "-audiodev", "none,id=a", "-nodefaults", "-vga", "std",
             "-drive", f"format=raw,file={image}", "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
             "-vnc", f"unix:{folder}/vnc,audiodev=a", "-trace", f"enable=input_event_key_qcode,file={folder}/keys",
             *more],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, command: str, **arguments: str) -> object:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(f"{self.folder}/qmp")
            file = line.makefile("rw")
            file.readline()
            for one in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                file.write(json.dumps(one))
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    assert "error" not in answer, answer
        return answer["return"]

    def picture(self) -> Picture:
        path = self.folder / "dump.ppm"
        self.ask("screendump", filename=str(path))
        kind, size, _, pixels = path.read_bytes().split(b"\n", 3)
        assert kind == b"P6"
        width, height = map(int, size.split())
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[:, :, ::-1]

    def text(self) -> str:
        """The characters in the card's text memory."""
        told = self.ask("human-monitor-command", **{"command-line": "xp /4000bx 0xb8000"})
        numbers = [int(word, 16) for line in str(told).splitlines() for word in line.split(":")[1].split()]
        return bytes(numbers[::2]).decode("latin-1")

    def held(self) -> set[str]:
        """The keys that QEMU has pressed in its guest and not released, as its trace says."""
        out = set[str]()
        for line in (self.folder / "keys").read_text().splitlines():
            code, _, down = line.split("key qcode ")[1].partition(", down ")
            (out.add if down == "1" else out.discard)(code)
        return out

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


@each
def test_qemu_is_shown_heard_and_typed_into(tmp_path: Path, wanted: Encoding) -> None:
    async def test() -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            await one.until(lambda: "Booting" in vm.text(), "it has started")
            await one.until(lambda: any(s.node.active for s in one.guest.machines[0].streams()), "it beeps")
            await one.shows(vm.picture)
            # A real person's keys have some milliseconds between them; the BIOS has room for 15.
            for char in "Hello, World 42_":
                one.type(char)
                await asyncio.sleep(0.05)
            await one.until(lambda: "Hello, World 42_" in vm.text(), "it was typed")
            await one.shows(vm.picture)
            assert one.guest.machines[0].view().hint == ""

    vm = Qemu(tmp_path)
    try:
        asyncio.run(test())
    finally:
        vm.close()


def test_long_text_into_qemu_arrives_whole_and_no_key_stays_down(tmp_path: Path) -> None:
    """QEMU's VNC server has room for about 340 presses and releases that its guest has not got yet."""
    typed = "The quick brown fox jumps over the lazy dog 0123456789 " * 8

    async def test() -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            await one.until(lambda: "Booting" in vm.text(), "it has started")
            account = one.guest.admission.budget.open("viewer")
            hands = Hands(one.guest.turns, account)
            hands.control(Text(typed), WATCHER, one.screen, Size(720, 400))
            await one.until(lambda: not hands.waiting, "it was sent", 30)
            await one.until(lambda: typed in vm.text(), "it was typed")
            await one.until(lambda: not vm.held(), "no key stays down")
            account.close()

    vm = Qemu(tmp_path)
    try:
        asyncio.run(test())
    finally:
        vm.close()
