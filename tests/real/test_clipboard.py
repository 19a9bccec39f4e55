"""The clipboard of real servers, with xclip as the program that copies and pastes there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.graph.clipboard import Clipboard
from millrace.graph.seat import Watcher
from millrace.guest.machines.address import parse_door
from millrace.media.clip import CLIP_BYTES_MAX, ClipText
from tests.bus import daemon_in
from tests.gops import WATCHER
from tests.watch import words as texts

from .conftest import need
from .test_screens_vnc import tigervnc, watching
from .test_screens_x11 import xvfb
from .watched import Watched
from .xserver import XServer, x11vnc

pytestmark = [pytest.mark.real, pytest.mark.beside]
WORDS = "grüße, 日本 and\na second line"
LONG = "".join(f"{number:07}\n" for number in range(CLIP_BYTES_MAX // 8))


class Paster:
    """A viewer's clipboard: what it copies and what it is handed."""

    who: Watcher = WATCHER

    def __init__(self, clipboard: Clipboard) -> None:
        self.clipboard = clipboard
        self.mine = ""
        self.got: list[str] = []
        self.refused: list[str] = []
        clipboard.join(self)

    def clip_changed(self) -> None: ...

    def clip_wanted(self) -> None:
        self.clipboard.answer(self, texts(self.mine))

    def clip_supplied(self, text: ClipText) -> None:
        self.got.append(text.whole())
        self.clipboard.sent(self)

    def clip_refused(self, why: str) -> None:
        self.refused.append(why)

    def copy(self, text: str) -> None:
        self.mine = text
        self.clipboard.offer(self)


def _copy(x: XServer, text: str) -> None:
    """A program of the display copies a text, and serves it until another does."""
    (x.folder / "copied").write_text(text)
    x.start("xclip", "-quiet", "-selection", "clipboard", "-i", str(x.folder / "copied"))


def _paste(x: XServer, target: str) -> str:
    """What a program of the display pastes; nothing if nobody has anything."""
    command = ("xclip", "-selection", "clipboard", "-o", "-target", target)
    done = subprocess.run(command, env=x.env, capture_output=True, timeout=20)
    return done.stdout.decode("latin-1" if target == "STRING" else "utf-8")


async def _pasted(x: XServer, text: str, target: str = "UTF8_STRING") -> None:
    """What a program of the display pastes is this, within a while."""
    found = ""
    for _ in range(50):
        found = await asyncio.to_thread(_paste, x, target)
        if found == text:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"{len(found)} characters are pasted instead of {len(text)}: {found[:50]!r}")


async def both_ways(one: Watched, x: XServer, words: str = WORDS, long: str = LONG) -> Paster:
    """Texts pass both ways, and what is given does not come back."""
    clipboard = one.guest.screens.clipboard_of(one.guest.machines[0].key)
    assert clipboard is not None
    paster = Paster(clipboard)
    for text in (words, long):
        await _copied(one, x, paster, text)
        assert not paster.refused and paster.got.pop() == text
    for text in (words, long):
        serial = clipboard.serial
        paster.copy(text)
        await _pasted(x, text)
        await asyncio.sleep(0.5)
        assert clipboard.serial == serial, "what was given comes back as new"
    return paster


async def _copied(one: Watched, x: XServer, paster: Paster, text: str) -> None:
    """A program of the display copies a text, and a viewer pastes it, or is told why not."""
    clipboard, serial = paster.clipboard, paster.clipboard.serial
    _copy(x, text)
    await one.until(lambda: clipboard.serial > serial and clipboard.there, "it is told that something is copied")
    clipboard.fetch(paster)
    await one.until(lambda: bool(paster.got or paster.refused), "the text is there")


def test_tigervnc(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            # It fetches no text from its programs that takes more than one answer of theirs.
            await both_ways(one, x, long=LONG[:60_000])

    need("xclip")
    with tigervnc(tmp_path) as x:
        asyncio.run(test(x))


# It asks for selections from 15 s after a viewer has connected, once a second, in Latin-1; and has none of its own on a
# display without a window manager for 45 s, unless it is told so.
def test_x11vnc(tmp_path: Path) -> None:
    async def test(x: XServer, door: str) -> None:
        async with watching(tmp_path, door) as one:
            clipboard = one.guest.screens.clipboard_of(one.guest.machines[0].key)
            assert clipboard is not None
            paster = Paster(clipboard)
            for text in (WORDS, LONG[:250_000]):
                paster.copy(text)
                await _pasted(x, text.encode("latin-1", "replace").decode("latin-1"), "STRING")
            for text in ("grüße and\na second line", LONG[:60_000]):
                await _copied(one, x, paster, text)
                assert not paster.refused and paster.got.pop() == text
            assert one.guest.machines[0].state == "attached" and clipboard.serial == 2

    need("xclip")
    with x11vnc(tmp_path, "-nopw") as (x, door):
        asyncio.run(test(x, door))


def test_x_display(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            paster = await both_ways(one, x)
            await _copied(one, x, paster, LONG + "too long\n")
            assert "1.0 MB at most" in paster.refused.pop() and not paster.got

    need("xclip")
    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


def test_text_copied_before_the_display_was_attached_can_be_pasted(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        _copy(x, WORDS)
        await _pasted(x, WORDS)
        async with watching(tmp_path, f"x11:{x.display}") as one:
            clipboard = one.guest.screens.clipboard_of(one.guest.machines[0].key)
            assert clipboard is not None
            await one.until(lambda: clipboard.there, "it is told that there is a text")
            paster = Paster(clipboard)
            clipboard.fetch(paster)
            await one.until(lambda: paster.got == [WORDS], "the text is there")

    need("xclip")
    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


# Its VNC server takes part in QEMU's clipboard as its guest's agent does, and there is no agent in these guests.
def test_qemu_passes_our_text_on(tmp_path: Path) -> None:
    need("qemu-system-x86_64")

    async def main() -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            doors = [f"qmp:{tmp_path}/qmp", f"vnc+unix://{tmp_path}/vnc"]
            one, other = (daemon.worker.attach(guest, parse_door(door)) for door in doors)

            async def until(told: Callable[[], bool]) -> None:
                async with asyncio.timeout(30):
                    while not told():
                        await asyncio.sleep(0.05)

            await until(lambda: all(guest.screens.clipboard_of(machine.key) for machine in (one, other)))
            boards = [guest.screens.clipboard_of(machine.key) for machine in (one, other)]
            assert boards[0] is not None and boards[1] is not None
            writer, reader = Paster(boards[0]), Paster(boards[1])
            guest.screens.seat.take(WATCHER)
            for text in (WORDS, LONG):
                serial = boards[1].serial
                writer.copy(text)
                await until(lambda serial=serial: reader.clipboard.serial > serial)  # type: ignore[misc]
                boards[1].fetch(reader)
                await until(lambda: bool(reader.got or reader.refused))
                assert reader.got.pop() == text

    args = ("-display", "dbus,p2p=on", "-vnc", f"unix:{tmp_path}/vnc", "-device", "VGA")
    command = ("-M", "pc", "-nodefaults", "-S", "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", *args)
    with (tmp_path / "qemu.log").open("wb") as log:
        process = subprocess.Popen(("qemu-system-x86_64", *command), stdout=log, stderr=log)
    try:
        asyncio.run(main())
    finally:
        process.kill()
        process.wait(10)
