"""However a session with a machine ends, no key and no button stays down in it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from millrace.daemon.app import Daemon
from millrace.errors import PeerLost
from millrace.graph.pictures import KeyPress
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.network import NetworkMachine
from millrace.guest.machines.x11 import X11Machine
from millrace.pixels.rects import Point
from tests.bus import daemon_in

from .conftest import need
from .test_layouts import held
from .test_screens_vnc import Qemu, tigervnc, x11vnc
from .test_screens_x11 import xvfb
from .test_typing_x11 import focused
from .watched import Watched
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]
SHIFT, A = 0x2A, 0x1E
Down = Callable[[], object]
"""What is down, as the machine has it."""


def watched_keys(x: XServer) -> Down:
    """The keys and buttons that a program of the display was told of and that are down."""
    log = x.folder / "xev"
    with log.open("wb") as out:
        kinds = ("-event", "keyboard", "-event", "button")
        x.processes.append(subprocess.Popen(["xev", "-geometry", "600x400+0+0", *kinds], env=x.env, stdout=out))
    focused(x, "--onlyvisible", "--name", "Event Tester")

    def down() -> object:
        blocks = log.read_text(errors="replace").split("\n\n")
        buttons = [one for one in blocks if "ButtonPress" in one or "ButtonRelease" in one]
        return held(log) + ["button"] * bool(buttons and "ButtonPress" in buttons[-1])

    return down


@contextmanager
def machine(folder: Path, kind: str) -> Iterator[tuple[str, Down]]:
    with ExitStack() as stack:
        if kind == "x11":
            x = stack.enter_context(xvfb(folder, "-noreset"))
            yield f"x11:{x.display}", watched_keys(x)
        elif kind == "Xvnc":
            x = stack.enter_context(tigervnc(folder))
            yield f"vnc+unix://{folder}/vnc", watched_keys(x)
        elif kind == "x11vnc":
            x, door = stack.enter_context(x11vnc(folder, "-nopw"))
            yield door, watched_keys(x)
        else:
            vm = Qemu(folder)
            stack.callback(vm.close)
            yield f"vnc+unix://{folder}/vnc", vm.held


async def detached(daemon: Daemon, one: AttachedMachine) -> None:
    await one.stop("detached")


async def killed(daemon: Daemon, one: AttachedMachine) -> None:
    """Its connections end as those of a killed daemon do; then it is attached again."""
    if isinstance(one, X11Machine):
        assert one._stream is not None
        one._stream._end(PeerLost("killed"))
    else:
        assert isinstance(one, NetworkMachine)
        for connection in one.connections:
            assert connection._transport is not None
            connection._transport.abort()
    # The next movement of the pointer releases its buttons; that of x11vnc's does not, but the next click.
    async with asyncio.timeout(20):
        while one.sessions < 2 or one.guest.screens.first is None:
            await asyncio.sleep(0.05)
    reader = Watched(daemon, one.guest.screens.first.screen).reader
    for buttons in (0, 1, 0) if one.spec.host else (0,):
        reader.pointer(Point(60, 60), buttons, False)


async def stopped(daemon: Daemon, one: AttachedMachine) -> None:
    """The daemon is stopped right after."""


@pytest.mark.parametrize("ends", [detached, killed, stopped])
@pytest.mark.parametrize("kind", ["x11", "Xvnc", "x11vnc", "QEMU over VNC"])
def test_nothing_stays_down(tmp_path: Path, kind: str, ends: Callable[..., object]) -> None:
    need("xev", "xdotool")

    async def until(told: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(20):
                while not told():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(what) from None

    async def test(door: str, down: Down) -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            one = daemon.worker.attach(guest, parse_door(door))
            assert isinstance(one, AttachedMachine)
            await until(lambda: guest.screens.first is not None, "it has a screen")
            assert guest.screens.first is not None
            reader = Watched(daemon, guest.screens.first.screen).reader
            for code, meaning in ((SHIFT, "Shift"), (A, "A")):
                reader.key(KeyPress(code, True, meaning))
            reader.pointer(Point(50, 50), 1, False)
            await until(lambda: bool(down()), "keys are down")
            await asyncio.sleep(0.3)
            await ends(daemon, one)  # type: ignore[misc]
            if ends is not stopped:
                await until(lambda: not down(), f"it is down: {down()}")
        await until(lambda: not down(), "it is down")

    with machine(tmp_path, kind) as (door, down):
        asyncio.run(test(door, down))
