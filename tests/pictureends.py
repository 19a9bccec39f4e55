"""Faults of pictures that end a connection or stop the daemon: with its sockets in this process, in real time.

The rig of tests/picturefaults.py has no connections. A guest's screen changes thirty times a second before two viewers,
and so does that of a machine over VNC; one fault happens; the first incident after it has to name it.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from millrace.daemon.app import Daemon
from millrace.guest.machines.address import parse_door
from millrace.io.clock import now_ns
from millrace.observe.incidents import Incident
from millrace.pixels.rects import Rect
from millrace.units import HostNs
from tests import bus
from tests.fuzz import seeds, vncserver
from tests.picturefaults import Outcome, outcome
from tests.scenario.tenants import Rig
from tests.scenario.watchers import Watcher, painter_of, watching

PICTURE_S = 1 / 30
WAIT_S = 5
CALM_S, CALM_MAX = 2.2, 6
"""So long there must have been no incident; then each second of the daemon had a film in it."""
LOSSLESS = {"picture": "lossless"}


class Machine:
    """A server of VNC, whose screen changes."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter
        self.serving = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.serving += 1
        writer.write(b"".join(seeds.vnc()[0]))
        with suppress(ConnectionError):
            for colour in itertools.cycle(range(250)):
                if writer.is_closing():
                    break
                writer.write(vncserver.update(vncserver.rect(0, 0, 8, 8, 7, bytes([0x80, colour, colour, colour]))))
                await asyncio.sleep(PICTURE_S)
        self.serving -= 1

    async def ended(self) -> None:
        """All its connections have ended."""
        while self.serving:
            await asyncio.sleep(PICTURE_S)


class Scene:
    """Two viewers of a guest's own screen, and one of its machine's."""

    def __init__(self, rig: Rig, machine: Machine, seed: int) -> None:
        self.rig, self.machine, self.random = rig, machine, np.random.default_rng(seed)
        self._painter = painter_of(rig, "alice", 10)
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None]
        self._known = 0
        self.one: Watcher

    @property
    def found(self) -> list[Incident]:
        """What was blamed since all became calm."""
        return [one for one in self.rig.daemon.worker.diagnosis.incidents if one.number > self._known]

    async def begin(self) -> None:
        """Both screens change, and all watch."""
        self._begin(self._paint())
        self.one = await watching(self.rig, settings=LOSSLESS)
        self._watching = self._begin(self.one.goes_on())
        screens = self.rig.daemon.worker.guest("alice").screens
        async with asyncio.timeout(WAIT_S):
            while len(screens) < 2:
                await asyncio.sleep(PICTURE_S)
        for listed in screens:
            self._begin((await watching(self.rig, settings=LOSSLESS, screen=listed.key)).goes_on())
        await self._calm()

    # Other programs of this machine may disturb the daemon while all join.
    async def _calm(self) -> None:
        """Until there was no incident for a while; a busy machine may not come to that."""
        for _ in range(CALM_MAX):
            await asyncio.sleep(CALM_S + float(self.random.uniform(0, 0.5)))
            if not self.found:
                return
            self._known = max(one.number for one in self.found)

    def _begin(self, work: Awaitable[None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.ensure_future(work))
        return self._tasks[-1]

    async def _paint(self) -> None:
        while True:
            self._painter.fill(Rect(4, 4, 8, 8), int(self.random.integers(0, 250)), now_ns())
            await asyncio.sleep(PICTURE_S)

    async def stop_reading(self) -> aiohttp.ClientWebSocketResponse:
        """The socket of the first viewer, which reads no more."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        return self.one.socket

    async def wait(self, truth: tuple[str, str]) -> None:
        """Until there is an incident of that stage and cause, or it is too late."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while truth not in [(one.stage, one.cause) for one in self.found]:
                    await asyncio.sleep(PICTURE_S)

    async def end(self) -> None:
        """Nobody paints or watches any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(frozen=True)
class Kind:
    """`make` injects the fault, and returns when it began."""

    name: str
    make: Callable[[Scene], Awaitable[HostNs]]
    stage: str
    cause: str


@asynccontextmanager
async def _scene(daemon: Daemon, seed: int) -> AsyncIterator[Scene]:
    machine = Machine()
    async with await asyncio.start_server(machine, "127.0.0.1", 0) as server, aiohttp.ClientSession() as http:
        address = f"vnc://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        daemon.worker.attach(daemon.worker.guest("alice"), parse_door(address))
        scene = Scene(Rig(daemon, http), machine, seed)
        try:
            await scene.begin()
            yield scene
        finally:
            await scene.end()
            await daemon.worker.guest("alice").machines[0].stop("it was detached")
            await machine.ended()


def injected(kind: Kind, seed: int) -> tuple[HostNs, list[Incident]]:
    """When a fault began, and the incidents that followed."""
    told: list[tuple[HostNs, list[Incident]]] = []

    async def main(daemon: Daemon) -> None:
        async with _scene(daemon, seed) as scene:
            at_ns = await kind.make(scene)
            await scene.wait((kind.stage, kind.cause))
            told.append((at_ns, scene.found))

    with tempfile.TemporaryDirectory() as folder:
        bus.running(Path(folder), main)
    return told[0]


def blamed(kind: Kind, seed: int) -> Outcome:
    """Inject a fault, and judge the first incident that follows."""
    at_ns, found = injected(kind, seed)
    return outcome((kind.stage, kind.cause), [], at_ns, found)


async def viewer_killed(scene: Scene) -> HostNs:
    socket = await scene.stop_reading()
    at_ns = now_ns()
    assert socket._response.connection is not None and socket._response.connection.transport is not None
    socket._response.connection.transport.abort()
    return at_ns


async def viewer_errs(scene: Scene) -> HostNs:
    socket = await scene.stop_reading()
    at_ns = now_ns()
    await socket.send_str(
        str(scene.random.choice(['{"type":"key","code":9999,"down":true}', '{"type":"?"}', "[", '{"type":"shown"}']))
    )
    return at_ns


async def machine_errs(scene: Scene) -> HostNs:
    at_ns = now_ns()
    scene.machine.writer.write(bytes([int(scene.random.integers(100, 200))]) * 64)
    return at_ns


async def machine_killed(scene: Scene) -> HostNs:
    at_ns = now_ns()
    scene.machine.writer.transport.abort()
    return at_ns


async def daemon_stopped(scene: Scene) -> HostNs:
    """As long as this blocks, nothing is read and nobody is served."""
    at_ns = now_ns()
    time.sleep(float(scene.random.uniform(0.3, 1.5)))
    return at_ns


async def daemon_busy(scene: Scene) -> HostNs:
    at_ns, for_s = now_ns(), float(scene.random.uniform(0.3, 1.5))
    began_s = time.thread_time()
    while time.thread_time() - began_s < for_s:
        pass
    return at_ns


ENDS = (
    Kind("the viewer is killed", viewer_killed, "viewer", "left"),
    Kind("the viewer sends nonsense", viewer_errs, "viewer", "broke the protocol"),
    Kind("the machine sends nonsense", machine_errs, "machine", "broke the protocol"),
    Kind("the machine is killed", machine_killed, "machine", "lost"),
)
STALLS = (
    Kind("the daemon is stopped, without sound", daemon_stopped, "loop", "not run"),
    Kind("the daemon is busy, without sound", daemon_busy, "loop", "busy"),
)
KINDS = (*ENDS, *STALLS)
