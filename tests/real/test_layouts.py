"""A German keyboard and German machines: real VNC servers are typed into as their own viewers would."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Reader
from millrace.guest.hands import Hands
from millrace.pixels.rects import Size
from millrace.wire.peer.pictures import Key, Text
from tests.gops import WATCHER

from .conftest import need
from .test_screens_vnc import Qemu, tigervnc, watching
from .xserver import XServer, x11vnc

pytestmark = [pytest.mark.real, pytest.mark.beside]
SHIFT, ALT_GR, Q, E, Y, SEVEN, SEMICOLON, MINUS, ACCENT = 0x2A, 0xB8, 0x10, 0x12, 0x15, 0x08, 0x27, 0x0C, 0x0D
TYPED = (
    (0, Y, "z"), (0, SEMICOLON, "ö"), (0, MINUS, "ß"), (SHIFT, SEVEN, "/"), (ALT_GR, Q, "@"), (ALT_GR, E, "€"),
    (0, ACCENT, "\u0301"), (0, E, "e"), (0, ACCENT, "Dead"), (0, E, "é"), (0, ACCENT, "Dead"), (0, E, "è"),
)  # fmt: skip
"""A key that is held, the one that is pressed with it, and what that means."""
FIRST = "50"
"""X's key code of the left Shift key."""
NAMES = {SHIFT: "Shift", ALT_GR: "AltGraph"}
SYMBOLS = ["z", "odiaeresis", "ssharp", "slash", "at", "EuroSign"]
SYMBOLS += ["dead_acute", "e", "dead_acute", "e", "dead_grave", "e"]
PLACES = ["y", "semicolon", "minus", "7", "q", "e", "e", "e", "e"]
"""QEMU's names of the keys at those places of a US keyboard."""


def strokes() -> Iterator[KeyPress]:
    for with_key, code, meaning in TYPED:
        if with_key:
            yield KeyPress(with_key, True, NAMES[with_key])
        yield KeyPress(code, True, meaning)
        yield KeyPress(code, False)
        if with_key:
            yield KeyPress(with_key, False)


def seen(log: Path) -> list[str]:
    """The keys, without modifiers, that a program of the display was told of; none that is composed of them."""
    blocks = [block for block in log.read_text(errors="replace").split("\n\n") if "KeyPress" in block]
    symbols = [block.split("keysym ")[1].split(")")[0].split(", ")[1] for block in blocks if "keycode 0 " not in block]
    return [one for one in symbols if not one.startswith(("Shift", "ISO_Level3"))]


def held(log: Path) -> list[str]:
    """Key codes that are down."""
    out: list[str] = []
    for block in log.read_text(errors="replace").split("\n\n"):
        if "keycode " in block:
            code = block.split("keycode ")[1].split()[0]
            if "KeyPress" in block and code != "0":
                out.append(code)
            elif code in out:
                out.remove(code)
    return out


def told(reader: Reader, log: Path) -> bool:
    """Press a key that types nothing; whether a program has been told of it."""
    reader.key(KeyPress(SHIFT, True, "Shift"))
    reader.key(KeyPress(SHIFT, False))
    return "KeyPress" in log.read_text(errors="replace")


async def type_german(x: XServer, door: str) -> None:
    need("xev", "xdotool")
    log = x.folder / "xev"
    with log.open("wb") as out:
        xev = subprocess.Popen(["xev", "-geometry", "600x400+0+0", "-event", "keyboard"], env=x.env, stdout=out)
    x.processes.append(xev)
    x.run("xdotool", "search", "--sync", "--name", "Event Tester", "windowfocus", "--sync")
    async with watching(x.folder, door) as one:
        # The first key changes the display's keyboard, and programs may miss its release.
        await one.until(lambda: told(one.reader, log), "the first key arrives")
        for stroke in strokes():
            one.reader.key(stroke)
            await asyncio.sleep(0.02)
        await one.until(lambda: len(seen(log)) >= len(SYMBOLS), f"it was typed: {seen(log)}")
        assert seen(log) == SYMBOLS
        await one.until(lambda: held(log) in ([], [FIRST]), "no key stays down")


def test_german_keyboard_types_into_tigervnc(tmp_path: Path) -> None:
    need("setxkbmap")
    with tigervnc(tmp_path) as x:
        x.run("setxkbmap", "de")
        asyncio.run(type_german(x, f"vnc+unix://{tmp_path}/vnc"))


def test_german_keyboard_types_into_x11vnc(tmp_path: Path) -> None:
    with x11vnc(tmp_path, "-nopw", "-xkb", layout="de") as (x, door):
        asyncio.run(type_german(x, door))


def test_text_with_characters_of_no_us_keyboard_is_typed_into_tigervnc(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        log = x.folder / "xev"
        with log.open("wb") as out:
            xev = subprocess.Popen(["xev", "-geometry", "600x400+0+0", "-event", "keyboard"], env=x.env, stdout=out)
        x.processes.append(xev)
        x.run("xdotool", "search", "--sync", "--name", "Event Tester", "windowfocus", "--sync")
        async with watching(x.folder, f"vnc+unix://{tmp_path}/vnc") as one:
            await one.until(lambda: told(one.reader, log), "the first key arrives")
            hands = Hands(one.guest.turns, one.guest.admission.budget.open("viewer"))
            hands.control(Text("aö€"), WATCHER, one.screen, Size(640, 480))
            await one.until(lambda: seen(log) == ["a", "odiaeresis", "EuroSign"], f"it was typed: {seen(log)}")

    need("xev", "xdotool")
    with tigervnc(tmp_path) as x:
        asyncio.run(test(x))


def test_tigervnc_tells_that_caps_lock_is_on(tmp_path: Path) -> None:
    """So a viewer whose own is off turns it off."""

    async def test(x: XServer) -> None:
        async with watching(x.folder, f"vnc+unix://{tmp_path}/vnc") as one:
            await one.until(lambda: one.screen.memory is not None, "it is shown")
            x.run("xdotool", "key", "Caps_Lock")
            hands = Hands(one.guest.turns, one.guest.admission.budget.open("viewer"))

            def off() -> bool:
                hands.control(Key(E, True, "e", 0), WATCHER, one.screen, Size(640, 480))
                hands.control(Key(E, False), WATCHER, one.screen, Size(640, 480))
                return "Caps Lock:   off" in x.run("xset", "q")

            await one.until(lambda: "Caps Lock:   on" in x.run("xset", "q"), "it is on")
            await one.until(off, "it is turned off")

    need("xset", "xdotool")
    with tigervnc(tmp_path) as x:
        asyncio.run(test(x))


# QEMU's table has no dead keys for this layout: no viewer can press them there.
def test_german_keyboard_presses_its_keys_in_qemu_with_a_layout(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path, f"vnc+unix://{tmp_path}/vnc") as one:
            for stroke in strokes():
                one.reader.key(stroke)
            await one.until(lambda: letters() == PLACES, f"it was typed: {letters()}")
            await one.until(lambda: not vm.held(), "no key stays down")
            assert pressed().count("alt_r") == 2 and "shift" in pressed()

    def letters() -> list[str]:
        return [key for key in pressed() if key not in ("unmapped", "shift", "alt_r")]

    def pressed() -> list[str]:
        lines = (tmp_path / "keys").read_text().splitlines() if (tmp_path / "keys").exists() else []
        return [line.split("key qcode ")[1].split(",")[0] for line in lines if line.endswith("down 1")]

    vm = Qemu(tmp_path, "-k", "de")
    try:
        asyncio.run(test())
    finally:
        vm.close()
