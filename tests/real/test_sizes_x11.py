"""Real X servers (Xvfb, Xvnc, Xorg) of which viewers wish sizes: what they have, and show, afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from millrace.pixels.rects import Size

from .conftest import need
from .test_screens_vnc import coloured_text, watching
from .watched import Watched
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]
START, RESIZES = Size(640, 480), 100
DUMMY = """
Section "ServerFlags"
    Option "AutoAddDevices" "false"
    Option "AutoAddGPU" "false"
EndSection
Section "Device"
    Identifier "device"
    Driver "dummy"
    VideoRam 16000
EndSection
Section "Screen"
    Identifier "screen"
    Device "device"
    DefaultDepth 24
    SubSection "Display"
        Depth 24
        Modes "640x480"
    EndSubSection
EndSection
"""
"""Memory for 4 million pixels: RandR tells of larger sizes (32767 × 32767) that it then refuses."""


def xvfb(folder: Path) -> XServer:
    # Else it would begin anew when its only client has left.
    return XServer(folder, "Xvfb", "{}", "-screen", "0", "1024x800x24", "-noreset")


def xvnc(folder: Path) -> XServer:
    return XServer(folder, "Xvnc", "{}", "-geometry", "640x480", "-depth", "24", "-rfbport", "-1",
                   "-rfbunixpath", f"{folder}/vnc", "-noreset")  # fmt: skip


def dummy(folder: Path) -> XServer:
    (folder / "xorg.conf").write_text(DUMMY)
    return XServer(folder, "Xorg", "{}", "-config", f"{folder}/xorg.conf", "-logfile", f"{folder}/xorg.log",
                   "-novtswitch", "-sharevts", "-noreset", "vt7")  # fmt: skip


SERVERS: dict[str, Callable[[Path], XServer]] = {"Xvfb": xvfb, "Xvnc": xvnc, "Xorg": dummy}


@contextmanager
def server(folder: Path, name: str) -> Iterator[XServer]:
    need(name, "xrandr", "xterm", "xwd")
    x = SERVERS[name](folder)
    try:
        yield x
    finally:
        x.close()


def sizes(x: XServer) -> tuple[Size, Size | None, list[str]]:
    """What xrandr says: the screen's size, that of its output, and the names of all sizes, with those of no output."""
    said = x.run("xrandr", "--verbose")
    screen = re.search(r"current (\d+) x (\d+)", said)
    output = re.search(r" connected (?:primary )?(\d+)x(\d+)\+0\+0", said)
    assert screen is not None
    names = re.findall(r"^ +(\S+) \(0x[0-9a-f]+\)", said, re.MULTILINE)
    return Size(*map(int, screen.groups())), output and Size(*map(int, output.groups())), names


def colours(one: Watched) -> int:
    blue, green, red = (one.picture[:, :, n].astype(np.uint32) for n in range(3))
    return len(np.unique(red << 16 | green << 8 | blue))


async def takes(one: Watched, x: XServer, size: Size) -> None:
    one.reader.wish_size(size)
    await one.until(lambda: one.picture.shape[:2] == (size.height, size.width), f"it has {size}")
    await one.until(lambda: sizes(x)[:2] == (size, size), f"xrandr says that it has {size}")


async def refuses(one: Watched, x: XServer, size: Size) -> None:
    """The size is wished, and the server has time to do it."""
    before = sizes(x)
    one.reader.wish_size(size)
    await asyncio.sleep(0.5)
    assert sizes(x) == before, f"{size} is refused, and nothing is left of it"
    assert one.picture.shape[:2] == (before[0].height, before[0].width)


@pytest.mark.parametrize("name", SERVERS)
def test_sizes_that_viewers_wish_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    async def test(x: XServer) -> None:
        start, _, names = sizes(x)
        async with watching(tmp_path, f"x11:{x.display}") as one:
            coloured_text(x)
            await one.until(lambda: colours(one) > 200, "the text is there")
            for size in (Size(100_000, 100_000), Size(40_000, 300), Size(12_000, 1)):
                await refuses(one, x, size)
            if name == "Xorg":
                await refuses(one, x, Size(5_000, 4_000))
            if name == "Xvfb":
                await takes(one, x, Size(1, 1))
            else:
                await refuses(one, x, Size(1, 1))
            for n in range(RESIZES):
                await takes(one, x, Size(601 + n, 401 + n // 2))
                await one.until(lambda: len(sizes(x)[2]) <= len(names) + 1, "the size before is deleted")
            await one.shows(x.picture)
            if name != "Xvfb":
                await takes(one, x, START)
            await takes(one, x, start)
            await one.until(lambda: sizes(x)[2] == names, "it has the sizes that it had before")
            await one.shows(x.picture)
            assert one.guest.machines[0].view().sessions == 1
            await takes(one, x, Size(611, 411))
        # The session has ended. What it left, since the screen has it, the next one deletes.
        assert len(sizes(x)[2]) == len(names) + 1 and sizes(x)[:2] == (Size(611, 411),) * 2
        (tmp_path / "again").mkdir()
        async with watching(tmp_path / "again", f"x11:{x.display}") as one:
            await takes(one, x, start)
            await one.until(lambda: sizes(x)[2] == names, "it has the sizes that it had before")
            await one.shows(x.picture)

    with server(tmp_path, name) as x:
        asyncio.run(test(x))
