"""A connection that is over is freed by reference counting.

Full collections of cyclic garbage are rare (daemon/collector.py): what a connection leaves in a cycle would stay for a
day if anything plays.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from millrace.client.bus import connect
from millrace.daemon.app import Daemon
from millrace.guest.machines import attached, hold, network
from millrace.guest.machines.address import DoorSpec, parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.wire.native.messages import Hello, frame
from millrace.wire.peer.messages import Hello as ListenerHello
from millrace.wire.peer.messages import encode_message
from tests import bus
from tests.fuzz import xserver
from tests.scenario.qemuvm import Hall, Vm, until
from tests.scenario.test_doors_again import Server, Spice, Vnc, becomes, running
from tests.scenario.test_spice_machine import Server as SpiceServer

ROUNDS = 3
DAEMON = tuple(
    f"millrace.{name}." for name in ("control", "doors", "graph", "guest", "io", "outlets", "server", "wire")
)


@contextlib.contextmanager
def cyclic(found: Counter[str]) -> Iterator[None]:
    """Count the objects of Millrace that only the collector can free."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = [type(one) for one in gc.garbage]
        found.update(kind.__name__ for kind in kinds if kind.__module__.startswith(DAEMON))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_machine_session_leaves_no_reference_cycle(kind: type[Server], tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)

        async def again() -> None:
            before = server.logins
            server.end(False)
            while server.logins == before:
                await asyncio.sleep(0.005)
            await becomes(door, "attached")
            await asyncio.sleep(0.05)

        await becomes(door, "attached")
        await again()
        with cyclic(found):
            for _ in range(ROUNDS):
                await again()

    found: Counter[str] = Counter()
    running(tmp_path, kind(), test)
    assert not found


class XServer:
    """An X server that lets everybody in, and ends when it is told to."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            writer.write(b"".join([xserver.setup(), *xserver.extensions()]))
            while await reader.read(65_536):
                pass
            # A client that ends in an orderly way waits for that.
            writer.close()

    def end(self) -> None:
        """The session is over."""
        self.writers.pop().transport.abort()


class SpiceScreens(SpiceServer):
    """A SPICE server with a screen and a keyboard."""

    def end(self) -> None:
        """The session is over."""
        while self.writers:
            self.writers.popitem()[1].transport.abort()


@pytest.mark.parametrize(("make", "spec"), [(XServer, "x11:{}"), (SpiceScreens, "spice+unix://{}")])
def test_session_of_a_screen_leaves_no_reference_cycle(
    make: Callable[[], XServer | SpiceScreens], spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(attached, "RETRY_MAX_S", 0.02)
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 0.02)
    monkeypatch.setattr(network, "LOOK_S", 0.02)

    async def test(daemon: Daemon) -> None:
        server = make()
        async with await asyncio.start_unix_server(server.serve, tmp_path / "X0"):
            door: AttachedMachine = daemon.worker.attach(
                daemon.worker.guests["alice"], parse_door(spec.format(tmp_path / "X0"))
            )
            screens = daemon.worker.guests["alice"].screens

            async def again() -> None:
                sessions = door.sessions
                server.end()
                await until(lambda: door.sessions > sessions and screens.first is not None)
                await asyncio.sleep(0.05)

            await until(lambda: door.sessions and screens.first is not None)
            await again()
            with cyclic(found):
                for _ in range(ROUNDS):
                    await again()
            await door.stop("the test is over")

    found: Counter[str] = Counter()
    bus.running(tmp_path, test)
    assert not found


def test_session_of_qemu_leaves_no_reference_cycle(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async def again() -> None:
            vm = Vm()
            one = Hall(daemon, vm)
            await one.attached()
            vm.close()
            await until(lambda: one.machine.state != "attached")
            await one.machine.stop("the test is over")
            await asyncio.sleep(0.05)

        await again()
        with cyclic(found):
            for _ in range(ROUNDS):
                await again()

    found: Counter[str] = Counter()
    bus.running(tmp_path, test)
    assert not found


async def native(daemon: Daemon) -> None:
    async with connect(daemon.config.runtime / "alice" / "native") as own:
        await own.call("state")
        async with own.play(guest="alice", rate=48_000, channels=2):
            pass


async def native_greeting(daemon: Daemon) -> None:
    """Over before its sender is known for sure: what was sent before the look-up proves nothing."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.config.runtime / "alice" / "native"))
        client.sendall(frame(Hello()))


async def listener(daemon: Daemon) -> None:
    headers = {"Authorization": f"Bearer {daemon.worker.access.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.ws_connect(f"ws://{daemon.serving.address}/alice") as line,
    ):
        await line.send_str(encode_message(ListenerHello()))
        await line.receive()


async def watcher(daemon: Daemon) -> None:
    headers = {"Authorization": f"Bearer {daemon.worker.access.key}"}
    url = f"ws://{daemon.serving.address}/api/v1/events"
    async with aiohttp.ClientSession(headers=headers) as http, http.ws_connect(url) as line:
        await line.receive()


async def pulse(daemon: Daemon) -> None:
    _, writer = await asyncio.open_unix_connection(str(daemon.config.runtime / "alice" / "pulse"))
    writer.write(bytes(100))
    writer.close()


@pytest.mark.parametrize("session", [native, native_greeting, listener, watcher, pulse])
def test_connection_leaves_no_reference_cycle(session: Callable[[Daemon], Awaitable[None]], tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async def again() -> None:
            await session(daemon)
            await asyncio.sleep(0.05)

        await again()
        with cyclic(found):
            for _ in range(ROUNDS):
                await again()

    found: Counter[str] = Counter()
    bus.running(tmp_path, test, guests=bus.BOTH)
    assert not found
