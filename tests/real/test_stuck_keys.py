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
from millrace.guest.encoders import load_encoders
from millrace.guest.guest import Guest
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.network import NetworkMachine
from millrace.guest.machines.qemu import QemuMachine
from millrace.guest.machines.spice import SpiceMachine
from millrace.guest.machines.x11 import X11Machine
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns
from millrace.pixels.rects import Point
from millrace.rights.model import OWNER
from millrace.wire.peer.pictures import FromViewer, Key, Pointer, Watch, encode_picture_message
from tests.bus import daemon_in

from .conftest import listens, need, wait_for
from .test_layouts import held
from .test_screens_vnc import CONNECT_S, Qemu, tigervnc, x11vnc
from .test_screens_x11 import xvfb
from .test_typing_x11 import focused
from .watched import Watched
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]
SHIFT, A = 0x2A, 0x1E
QEMUS = {
    "QEMU over VNC": ("vnc+unix://{}/vnc", ()),
    "QEMU over SPICE": ("spice+unix://{}/spice", ("-spice", "unix=on,addr={}/spice,disable-ticketing=on")),
    "QEMU over D-Bus": ("qmp:{}/qmp", ("-display", "dbus,p2p=on")),
}
"""Doors, and options."""
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
            door, options = QEMUS[kind]
            vm = Qemu(folder, *(option.format(folder) for option in options))
            stack.callback(vm.close)
            wait_for(lambda: listens(folder / "qmp"), CONNECT_S, "QEMU runs")
            yield door.format(folder), vm.held


class Person:
    """A viewer with the keyboard."""

    def __init__(self, guest: Guest) -> None:
        self.session = ViewerSession(
            guest.viewers, 900, "10.0.0.9", lambda messages: None, lambda: True, now_ns(), OWNER
        )  # fmt: skip
        self.say(Watch(formats=["raw"], keyboard=True))

    def say(self, message: FromViewer) -> None:
        self.session.receive(encode_picture_message(message), now_ns())


def linked(one: SpiceMachine) -> bool:
    inputs = one._controls._wire
    return inputs is not None and inputs._channel.open


async def detached(daemon: Daemon, one: AttachedMachine, person: Person) -> None:
    await one.stop("detached")


async def viewer_killed(daemon: Daemon, one: AttachedMachine, person: Person) -> None:
    """Its connection is gone."""
    person.session.closed()


async def rights_ended(daemon: Daemon, one: AttachedMachine, person: Person) -> None:
    person.session.stop("the token was revoked")


async def killed(daemon: Daemon, one: AttachedMachine, person: Person) -> None:
    """Its connections end as those of a killed daemon do; then it is attached again."""
    if isinstance(one, X11Machine):
        assert one._stream is not None
        one._stream._end(PeerLost("killed"))
    elif isinstance(one, QemuMachine):
        for stream in one._streams:
            stream._end(PeerLost("killed"))
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


async def stopped(daemon: Daemon, one: AttachedMachine, person: Person) -> None:
    """The daemon is stopped right after."""


# A session over SPICE that is aborted in this process is taken for one that another viewer has displaced, and waits.
LEFT_OUT = {("QEMU over SPICE", killed)}
CASES = [
    (kind, ends)
    for kind in ("x11", "Xvnc", "x11vnc", *QEMUS)
    for ends in (detached, killed, stopped, viewer_killed, rights_ended)
    if (kind, ends) not in LEFT_OUT
]


@pytest.mark.parametrize(("kind", "ends"), CASES)
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
            await load_encoders()
            person = Person(guest)
            await until(lambda: person.session.pictures.size.width > 0, "it is shown")
            if isinstance(one, SpiceMachine):
                await until(lambda: linked(one), "it takes keys")
            for code, meaning in ((SHIFT, "Shift"), (A, "A")):
                person.say(Key(code, True, meaning))
            person.say(Pointer(50, 50, 1))
            await until(lambda: bool(down()), "keys are down")
            await asyncio.sleep(0.3)
            await ends(daemon, one, person)  # type: ignore[misc]
            if ends is not stopped:
                await until(lambda: not down(), f"it is down: {down()}")
        await until(lambda: not down(), "it is down")

    with machine(tmp_path, kind) as (door, down):
        asyncio.run(test(door, down))
