"""A connection that is over is freed by reference counting, however it ended.

Full collections of cyclic garbage are rare (daemon/collector.py): what a connection leaves in a cycle would stay for a
day if anything plays.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from millrace.absent import never
from millrace.client.bus import connect
from millrace.daemon.app import Daemon
from millrace.errors import GraphError
from millrace.guest.listener import ListenerSession
from millrace.guest.machines import hold, network, retries, spice
from millrace.guest.machines.address import DoorSpec, parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewersending import UNSENT_MAX
from millrace.io import client
from millrace.server.http import ticker
from millrace.wire.native.messages import Hello, frame
from millrace.wire.peer.messages import Hello as ListenerHello
from millrace.wire.peer.messages import encode_message
from millrace.wire.peer.pictures import Gone
from millrace.wire.spice.channel import ChannelKind
from tests import bus
from tests.fuzz import xserver
from tests.fuzz.spiceserver import surface
from tests.scenario import tenants
from tests.scenario.qemuvm import Hall, Vm, until
from tests.scenario.tenants import Rig, joined
from tests.scenario.test_doors_again import Server, Spice, Vnc, Watch, becomes, running
from tests.scenario.test_spice_machine import Server as SpiceServer
from tests.scenario.watchers import painter_of, watching

ROUNDS = 3
DAEMON = tuple(
    f"millrace.{name}." for name in ("control", "doors", "graph", "guest", "io", "outlets", "server", "wire")
)


@contextlib.contextmanager
def cyclic(found: Counter[str]) -> Iterator[None]:
    """Count the objects of Millrace that only the collector can free."""
    # What pytest captures of the log keeps the errors in it.
    logging.disable()
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
        logging.disable(logging.NOTSET)


async def left(again: Callable[[], Awaitable[None]]) -> Counter[str]:
    """What only the collector can free after this was done some times."""
    found: Counter[str] = Counter()
    await again()
    with cyclic(found):
        for _ in range(ROUNDS):
            await again()
            await asyncio.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all retry delays."""
    monkeypatch.setattr(retries, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(retries, "RETRY_MAX_S", 0.02)
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 0.02)
    monkeypatch.setattr(hold, "HOLD_FACTOR", 1.0)
    monkeypatch.setattr(network, "LOOK_S", 0.02)
    monkeypatch.setattr(client, "LINGER_S", 0.05)


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_machine_session_leaves_no_reference_cycle(kind: type[Server], tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)

        async def again() -> None:
            before = server.logins
            server.end(False)
            await until(lambda: server.logins > before)
            await becomes(door, "attached")

        await becomes(door, "attached")
        assert not await left(again)

    running(tmp_path, kind(), test)


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_machine_that_is_detached_leaves_no_reference_cycle(kind: type[Server], tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        async def again() -> None:
            door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
            await becomes(door, "attached")
            await door.stop("the test is over")

        assert not await left(again)

    running(tmp_path, kind(), test)


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_machine_that_is_off_leaves_no_reference_cycle(kind: type[Server], tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        await server.stop()
        door, tries = daemon.worker.attach(daemon.worker.guests["alice"], spec), Watch(daemon).states

        async def again() -> None:
            before = len(tries)
            await until(lambda: len(tries) > before)

        assert not await left(again) and "nothing at" in door.error

    running(tmp_path, kind(), test)


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_refused_password_leaves_no_reference_cycle(kind: type[Server], tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        daemon.worker.attach(daemon.worker.guests["alice"], replace(spec, password="wrong"))

        async def again() -> None:
            before = server.refused
            await until(lambda: server.refused > before)

        assert not await left(again)

    running(tmp_path, kind("right"), test)


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
    make: Callable[[], XServer | SpiceScreens], spec: str, tmp_path: Path
) -> None:
    async def test(daemon: Daemon) -> None:
        server, guest = make(), daemon.worker.guests["alice"]

        async def attach() -> AttachedMachine:
            door = daemon.worker.attach(guest, parse_door(spec.format(tmp_path / "X0")))
            await until(lambda: door.sessions and guest.screens.first is not None)
            return door

        async def ends() -> None:
            sessions = door.sessions
            server.end()
            await until(lambda: door.sessions > sessions and guest.screens.first is not None)

        async def is_detached() -> None:
            await (await attach()).stop("the test is over")

        async with await asyncio.start_unix_server(server.serve, tmp_path / "X0"):
            door = await attach()
            assert not await left(ends)
            await door.stop("the test is over")
            assert not await left(is_detached)

    bus.running(tmp_path, test)


def test_channel_that_is_opened_again_leaves_no_reference_cycle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "AGAIN_FIRST_S", 0.01)
    monkeypatch.setattr(spice, "AGAIN_MAX_S", 0.01)

    async def test(daemon: Daemon) -> None:
        server = SpiceScreens()

        async def again() -> None:
            before = len(server.links)
            server.writers[ChannelKind.DISPLAY].write(surface(1 << 16, 1 << 16))
            await until(lambda: len(server.links) > before)

        async with await asyncio.start_unix_server(server.serve, tmp_path / "spice"):
            door = daemon.worker.attach(daemon.worker.guests["alice"], parse_door(f"spice+unix://{tmp_path / 'spice'}"))
            await until(lambda: daemon.worker.guests["alice"].screens.first is not None)
            assert not await left(again) and door.sessions == 1
            await door.stop("the test is over")

    bus.running(tmp_path, test)


def all_close(one: Hall) -> None:
    one.vm.close()


def first_closes(one: Hall) -> None:
    """What it shows is still connected."""
    first = one.vm.sockets[0]
    asyncio.get_running_loop().remove_reader(first)
    first.shutdown(socket.SHUT_RDWR)


def breaks_protocol(one: Hall) -> None:
    one.vm.sockets[0].send(b"\xff" * 64)


@pytest.mark.parametrize("end", [all_close, first_closes, breaks_protocol, None])
def test_session_of_qemu_leaves_no_reference_cycle(end: Callable[[Hall], None] | None, tmp_path: Path) -> None:
    """It ends in this way, or is detached."""

    async def test(daemon: Daemon) -> None:
        async def again() -> None:
            one = Hall(daemon, Vm())
            await one.attached()
            if end is not None:
                end(one)
                await until(lambda: one.machine.state != "attached")
            await one.machine.stop("the test is over")
            one.vm.close()

        assert not await left(again)

    bus.running(tmp_path, test)


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
        assert not await left(lambda: session(daemon))

    bus.running(tmp_path, test, guests=bus.BOTH)


def test_reference_cycle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ListenerSession, "forget", lambda session: None)

    async def test(daemon: Daemon) -> None:
        assert (await left(lambda: listener(daemon)))["ListenerSession"] >= ROUNDS - 1

    bus.running(tmp_path, test)


def reads_nothing(session: ViewerSession) -> None:
    session.sending._room = never
    for _ in range(UNSENT_MAX + 1):
        session.send(Gone("x"))


def has_no_memory(session: ViewerSession) -> None:
    budget = session.guest.admission.budget
    session.sending._room = never
    limit, budget.limit = budget.limit, budget.held
    session.send(Gone("x"))
    budget.limit = limit


def meets_a_bug(session: ViewerSession) -> None:
    session.sending.fail(ValueError("a bug"))


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("end", [reads_nothing, has_no_memory, meets_a_bug])
def test_viewer_that_is_given_up_leaves_no_reference_cycle(
    end: Callable[[ViewerSession], None], leaves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may leave before its session ends it."""
    monkeypatch.setattr(ticker, "TICK_S", 1.0 if leaves else 0.02)

    async def test(rig: Rig) -> None:
        async def again() -> None:
            viewer = await watching(rig)
            end(next(iter(rig.daemon.worker.guests["alice"].viewers.sessions)))
            if leaves:
                await viewer.socket.close()
            await viewer.ends()

        painter_of(rig, "alice", 11)
        assert not await left(again)

    tenants.running(tmp_path, test)


def makes_room(session: ListenerSession) -> None:
    session.outlet.fail(GraphError("this listener made room for another"))


def can_not_be_written_to(session: ListenerSession) -> None:
    def write(messages: Sequence[str | bytes]) -> None:
        raise ValueError("a bug")

    session.outlet._write = write
    session.outlet.send_sound(b"x")


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("end", [makes_room, can_not_be_written_to])
def test_listener_that_is_given_up_leaves_no_reference_cycle(
    end: Callable[[ListenerSession], None], leaves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may leave before its session ends it."""
    monkeypatch.setattr(ticker, "TICK_S", 1.0 if leaves else 0.02)

    async def test(rig: Rig) -> None:
        async def again() -> None:
            line = await joined(rig, rig.daemon.worker.access.key)
            end(next(iter(rig.daemon.worker.guests["alice"].sessions)))
            if leaves:
                await line.close()
            async for _ in line:
                pass

        assert not await left(again)

    tenants.running(tmp_path, test)
