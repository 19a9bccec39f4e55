"""Real X servers (Xvfb, Xvnc): the screen is what the server itself shows, and keys and the pointer arrive."""

from __future__ import annotations

import asyncio
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import anywhere
from millrace.pixels.cursors import ARROW_SIZE
from millrace.pixels.rects import Point, Size
from tests.bus import daemon_in
from tests.gops import WATCHER

from .conftest import Bus, need
from .test_screens_vnc import Watched, coloured_text, watching
from .watched import colours
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]


@contextmanager
def xvfb(folder: Path, *args: str) -> Iterator[XServer]:
    need("Xvfb", "xterm", "xwd", "xdotool", "xsetroot")
    x = XServer(folder, "Xvfb", "{}", "-screen", "0", "640x480x24", *args)
    try:
        yield x
    finally:
        x.close()


def test_xvfb_is_shown_typed_and_pointed_into(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            coloured_text(x)
            await one.until(lambda: colours(one.picture) > 200, "the text is there")
            await one.shows(x.picture)
            one.reader.pointer(Point(100, 100), 0, False)
            await one.until(lambda: "x:100 y:100" in x.run("xdotool", "getmouselocation"), "the pointer is there")
            one.reader.pointer(Point(-30, 7), 0, True)
            await one.until(lambda: "x:70 y:107" in x.run("xdotool", "getmouselocation"), "it was moved")
            await one.until(lambda: one.screen.cursor.shown, "the terminal's cursor is there")
            assert one.screen.cursor.at == Point(70, 107)
            one.type("Hello, World 42_\n")
            await one.until((tmp_path / "typed").exists, "it was typed")
            await one.until(lambda: (tmp_path / "typed").read_text() == "Hello, World 42_\n", "it is what was typed")
            await one.shows(x.picture)
            one.reader.wish_size(Size(4000, 3000))
            await asyncio.sleep(0.3)
            assert one.picture.shape[:2] == (480, 640), "this server has no more room"
            one.reader.wish_size(Size(320, 200))
            await one.until(lambda: one.picture.shape[:2] == (200, 320), "it has the size that was asked for")
            assert one.guest.machines[0].view().sessions == 1

    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


LARGE = """
import ctypes, sys
x, c = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXcursor.so.1")
x.XOpenDisplay.restype, x.XDefaultRootWindow.restype = ctypes.c_void_p, ctypes.c_ulong
class Image(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_uint) for name in "version size width height hot_x hot_y delay".split()),
                ("pixels", ctypes.POINTER(ctypes.c_uint))]
c.XcursorImageCreate.restype, c.XcursorImageLoadCursor.restype = ctypes.POINTER(Image), ctypes.c_ulong
display, side = ctypes.c_void_p(x.XOpenDisplay(None)), int(sys.argv[1])
image = c.XcursorImageCreate(side, side)
image.contents.hot_x = image.contents.hot_y = 0
for n in range(side * side):
    image.contents.pixels[n] = 0xFFFF0000
root = ctypes.c_ulong(x.XDefaultRootWindow(display))
x.XDefineCursor(display, root, ctypes.c_ulong(c.XcursorImageLoadCursor(display, image)))
x.XSync(display, 0)
print("there", flush=True)
sys.stdin.read()
"""
"""Gives the root window a large red cursor by RENDER, until it ends."""


@contextmanager
def large_cursor(x: XServer, side: int) -> Iterator[None]:
    command = [sys.executable, "-c", LARGE, str(side)]
    with subprocess.Popen(command, env=x.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline() == b"there\n"
        yield


@pytest.mark.parametrize("early", [True, False])
def test_cursor_that_the_server_does_not_tell_costs_no_screen(tmp_path: Path, early: bool) -> None:
    """That of a program that has ended, as `xsetroot` in a start script, and one larger than viewers take."""

    def look(one: Watched) -> Size:
        shape = one.screen.shape(one.screen.cursor.shape)
        return Size(0, 0) if shape is None else shape.size

    async def test(x: XServer) -> None:
        if early:
            x.run("xsetroot", "-cursor_name", "left_ptr")
        async with watching(tmp_path, f"x11:{x.display}") as one:
            x.run("xsetroot", "-cursor_name", "left_ptr")
            x.run("xdotool", "mousemove", "300", "200")
            await one.until(lambda: look(one) == ARROW_SIZE, "an arrow is shown")
            await one.shows(x.picture)
            x.start("xterm", "-geometry", "40x10+0+0", "-e", "sleep 100")
            await one.until(lambda: colours(one.picture) > 1, "the terminal is there")
            x.run("xdotool", "mousemove", "50", "50")
            await one.until(lambda: look(one) != ARROW_SIZE, "the terminal's own cursor is told")
            for side in (513, 512, 768, 512):
                with large_cursor(x, side):
                    x.run("xdotool", "mousemove", "300", "200", "mousemove", "310", "210")
                    shown = ARROW_SIZE if side > 512 else Size(512, 512)
                    await one.until(lambda shown=shown: look(one) == shown, f"{side} pixels")
            view = one.guest.machines[0].view()
            assert (view.sessions, view.state, view.error) == (1, "attached", "")

    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


GRABS = """
import ctypes
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
x.XDefaultRootWindow.restype = x.XCreateSimpleWindow.restype = none = ctypes.c_ulong
display = ctypes.c_void_p(x.XOpenDisplay(None))
root = none(x.XDefaultRootWindow(display))
window = none(x.XCreateSimpleWindow(display, root, 0, 0, 300, 300, 0, none(0), none(0xFFCC00)))
x.XSelectInput(display, window, ctypes.c_long(1 << 2))
x.XMapRaised(display, window)
x.XSync(display, 0)
print("there", flush=True)
event, moved = (ctypes.c_long * 24)(), 0
while True:
    x.XNextEvent(display, event)
    kind = event[0] & 0xFFFFFFFF
    if kind == 4:
        x.XGrabPointer(display, window, 0, 1 << 3 | 1 << 6, 1, 1, none(0), none(0), none(0))
        x.XGrabServer(display)
        x.XSync(display, 0)
        print("grabbed", flush=True)
    elif kind == 6:
        moved += 1
    elif kind == 5:
        x.XUngrabServer(display)
        x.XUngrabPointer(display, none(0))
        x.XSync(display, 0)
        print("released", moved > 0, flush=True)
"""
"""Has the pointer and the server to itself from the press of a button to its release, as window managers do."""


def test_window_is_dragged_by_a_program_that_grabs_the_server(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        command = [sys.executable, "-c", GRABS]
        async with watching(tmp_path, f"x11:{x.display}") as one:
            with subprocess.Popen(command, env=x.env, stdout=subprocess.PIPE) as program:
                assert program.stdout is not None
                out = program.stdout

                async def said() -> bytes:
                    return await asyncio.wait_for(asyncio.to_thread(out.readline), 10)

                try:
                    assert await said() == b"there\n"
                    for at, buttons in ((100, 0), (100, 1)):
                        one.reader.pointer(Point(at, 100), buttons, False)
                    assert await said() == b"grabbed\n"
                    for at, buttons in ((110, 1), (120, 1), (120, 0)):
                        one.reader.pointer(Point(at, 100), buttons, False)
                    assert await said() == b"released True\n"
                finally:
                    program.kill()

    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


def test_server_that_is_stopped_is_told(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            machine, server = one.guest.machines[0], x.processes[0]
            try:
                server.send_signal(signal.SIGSTOP)
                one.reader.pointer(Point(100, 100), 0, False)
                await one.until(lambda: "answered nothing" in machine.view().hint, "it is told")
            finally:
                server.send_signal(signal.SIGCONT)
            await one.until(lambda: not machine.view().hint, "it answers again")

    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


def test_display_without_xtest_is_shown_and_says_that_it_takes_no_keys(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            x.run("xsetroot", "-solid", "#102030")
            await one.shows(x.picture)
            one.reader.pointer(Point(100, 100), 1, False)
            one.type("x")
            assert "XTEST" in one.guest.machines[0].view().hint

    with xvfb(tmp_path, "-tst") as x:
        asyncio.run(test(x))


def test_nothing_is_copied_while_nobody_watches_and_little_for_little(tmp_path: Path) -> None:
    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            x.run("xsetroot", "-solid", "#102030")
            await one.shows(x.picture)
            serial = one.screen.serial
            await asyncio.sleep(0.5)
            assert one.screen.serial == serial, "nothing is painted"
            one.reader.end()
            for colour in ("#804020", "#204080", "#408020"):
                x.run("xsetroot", "-solid", colour)
                await asyncio.sleep(0.2)
            assert one.screen.serial <= serial + 1
            one.reader = one.screen.read(WATCHER)
            await one.shows(x.picture)
            whole = one.reader.take(0)
            assert whole is not None
            whole.release()
            x.start("xterm", "-geometry", "10x5+200+200", "-e", "sleep 100")
            await one.until(lambda: one.reader.next_timeout() is not None, "a small window is painted")
            await asyncio.sleep(0.5)
            await one.shows(x.picture)
            small = one.reader.take(1)
            assert small is not None and sum(rect.area for rect in small.damage) < 640 * 480 / 4

    with xvfb(tmp_path) as x:
        asyncio.run(test(x))


def shown_in(one: Watched, size: Size) -> bool:
    return one.picture.shape[:2] == (size.height, size.width)


def test_display_of_another_size_is_shown_whole(tmp_path: Path) -> None:
    """Xvnc changes its size; asked for by a program in it."""

    async def test(x: XServer) -> None:
        async with watching(tmp_path, f"x11:{x.display}") as one:
            coloured_text(x)
            await one.until(lambda: one.picture.any(), "something is painted")
            x.run("xrandr", "-s", "800x600")
            await one.until(lambda: one.picture.shape[:2] == (600, 800), "it has the new size")
            await one.shows(x.picture)
            for size in (Size(701, 503), Size(1024, 768), Size(640, 480)):
                one.reader.wish_size(size)
                await one.until(partial(shown_in, one, size), "it has the size that was asked for")
                await one.shows(x.picture)

    need("Xvnc", "xrandr", "xterm", "xwd")
    x = XServer(tmp_path, "Xvnc", "{}", "-geometry", "640x480", "-depth", "24", "-rfbport", "-1",
                "-rfbunixpath", f"{tmp_path}/vnc")  # fmt: skip
    try:
        asyncio.run(test(x))
    finally:
        x.close()


def test_display_with_a_cookie_needs_it(tmp_path: Path) -> None:
    # Without a display's number it holds for each: how libXau writes FamilyLocal, host, number, name and data.
    parts = (b"host", b"", b"MIT-MAGIC-COOKIE-1", b"0123456789abcdef")
    authority = tmp_path / "authority"
    authority.write_bytes(struct.pack(">H", 256) + b"".join(struct.pack(">H", len(part)) + part for part in parts))
    authority.chmod(0o600)

    async def test(x: XServer) -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            machine = daemon.worker.attach(guest, parse_door(f"x11:{x.display}"))
            async with asyncio.timeout(20):
                while "--auth-file" not in machine.error:
                    await asyncio.sleep(0.05)
            machine.retake(replace(machine.spec, password_file=str(authority)), anywhere)
            async with asyncio.timeout(20):
                while machine.state != "attached":
                    await asyncio.sleep(0.05)

    with xvfb(tmp_path, "-auth", str(authority)) as x:
        asyncio.run(test(x))


def test_display_that_ends_is_looked_for_again(tmp_path: Path) -> None:
    async def test() -> None:
        with xvfb(tmp_path) as x:
            async with daemon_in(tmp_path) as daemon:
                guest = daemon.worker.guests["alice"]
                machine = daemon.worker.attach(guest, parse_door(f"x11:{x.display}"))
                async with asyncio.timeout(20):
                    while machine.state != "attached":
                        await asyncio.sleep(0.05)
                    assert len(guest.screens) == 1
                    x.processes[0].kill()
                    while machine.state != "waiting" or len(guest.screens):
                        await asyncio.sleep(0.05)

    asyncio.run(test())


def test_attach_command_shows_the_display(bus: Bus, tmp_path: Path) -> None:
    with xvfb(tmp_path) as x:
        assert "attached" in bus.cli("attach", "x11", x.display).stdout
        guest = bus.guest()
        assert guest["doors"][0]["door"] == f"x11:/tmp/.X11-unix/X{x.display[1:]}"
        (screen,) = guest["screens"]
        assert (screen["name"], screen["width"], screen["height"]) == (f"X display {x.display}", 640, 480)
        # Before, the server would begin anew as soon as its only client has left.
        x.run("xsetroot", "-solid", "#804020")
        bus.cli("view", bus.url(), "--to", str(tmp_path / "shot.png"))
        with Image.open(tmp_path / "shot.png") as image:
            wrong = (np.asarray(image.convert("RGB"))[:, :, ::-1] != x.picture()).any(axis=2)
        # The pointer is drawn into it.
        assert np.unique(x.picture().reshape(-1, 3), axis=0).tolist() == [[0x20, 0x40, 0x80]] and wrong.sum() < 600
