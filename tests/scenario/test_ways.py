"""The ways of docs/architecture.md are those that the code takes, file by file."""

from __future__ import annotations

import asyncio
import re
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import aiohttp
import msgspec
import numpy as np
import pytest

import millrace
from millrace.client.canvas import Canvas
from millrace.client.faces import Unseen
from millrace.client.listener import Listener
from millrace.client.options import ListenerOptions
from millrace.client.outputs import make_output
from millrace.client.pulse import PulsePlayer
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.daemon.app import Daemon
from millrace.graph.share import Share
from millrace.guest.machines.address import DoorSpec
from millrace.pixels.rects import Rect
from millrace.sim.signals import sine
from millrace.wire.peer.messages import Hello, Trouble
from tests import bus
from tests.scenario.test_ports import TwoHosts

SRC = Path(millrace.__file__).parent
DRAWN = (SRC.parent.parent / "docs" / "architecture.md").read_text()
WAYS = DRAWN.split("\n## Five ways\n")[1].split("\n## ")[0].split("\n- **")[1:]
TYPES = {"symptoms.py", "media/packet.py"}
"""Files of which only types are used, which is no call."""
ANSWERS = "server/http/answers.py"
"""Whether the caller or the watchers hear of a change first is open."""


def way(name: str) -> list[str]:
    """The files of the way that begins with this name, without those of other processes."""
    (text,) = [way for way in WAYS if way.startswith(name)]
    files = re.findall(r"`(\S+\.py)`", text)
    return [file for file in files if not file.startswith("cli/") and file not in {*TYPES, ANSWERS}]


@contextmanager
def noted() -> Iterator[list[str]]:
    """The files of all functions that are called meanwhile, in order, also in threads that begin meanwhile."""
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(SRC):
            called.append(str(file.relative_to(SRC)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


class Episodes:
    """For some files, what each call of one of their functions called in turn, until it returned."""

    def __init__(self, firsts: set[str]) -> None:
        self.of: dict[str, list[list[str]]] = {first: [] for first in firsts}
        self._depth = dict.fromkeys(firsts, 0)

    def note(self, frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        name = str(file.relative_to(SRC)) if file.is_relative_to(SRC) else ""
        for first, depth in self._depth.items():
            if event == "call" and (depth or name == first):
                if not depth:
                    self.of[first].append([])
                if name:
                    self.of[first][-1].append(name)
                self._depth[first] += 1
            elif event == "return" and depth:
                self._depth[first] -= 1


def steps(name: str) -> list[list[str]]:
    """The files of each step of the way that begins with this name, without those of other processes."""
    (text,) = [way for way in WAYS if way.startswith(name)]
    return [re.findall(r"`(\S+\.py)`", step) for step in text.split("\n  - ")[1:]]


def passes(called: list[str], files: list[str]) -> list[str]:
    """The rest of `files` that was not called in this order."""
    calls = iter(called)
    left = [*files]
    while left and left[0] in calls:
        del left[0]
    return left


def connector(daemon: Daemon) -> aiohttp.UnixConnector:
    return aiohttp.UnixConnector(str(daemon.config.runtime / "api.sock"))


async def told(events: aiohttp.ClientWebSocketResponse, what: str) -> None:
    """Wait for an event in which this is."""
    while what not in (await events.receive_str(timeout=30)):
        continue


def test_path_of_a_command(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with aiohttp.ClientSession(connector=connector(daemon)) as client:
            events = await client.ws_connect("http://localhost/api/v1/events")
            await told(events, '"synced":true')
            with noted() as called:
                # A thread that exists already is not noted.
                daemon.worker.writer._thread.shutdown()
                daemon.worker.writer._thread = ThreadPoolExecutor(1)
                louder = {"target": "sink/millrace", "settings": {"volume": "50%"}}
                changed = asyncio.create_task(told(events, '"kind":"sink"'))
                answer = await client.post("http://localhost/api/v1/set", json=louder)
                await changed
            assert answer.status == 200 and ANSWERS in called and passes(called, way("A command")) == []

    bus.running(tmp_path, test)


def test_path_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of it but the last, which needs a sound card, is one call and what that calls in turn."""
    # The profile takes much of the share of time, and a cycle that is cut short is finished by another call.
    monkeypatch.setattr(Share, "over", lambda self: False)
    parts = steps("A sample")[:-1]
    episodes = Episodes({files[0] for files in parts})

    async def test(daemon: Daemon) -> None:
        options = ListenerOptions(socket=daemon.config.runtime / "api.sock")
        listener = Listener("ws://localhost/alice", make_output("null:", "normal"), options)
        heard = asyncio.create_task(listener.run())
        player = await PulsePlayer.connect(daemon.config.runtime / "alice" / "pulse", "player")
        async with asyncio.timeout(20):
            while listener.welcome is None:
                await asyncio.sleep(0.01)
        sys.setprofile(episodes.note)
        try:
            await player.play(sine(0.5, 440, 44_100, channels=2), 44_100)
        finally:
            sys.setprofile(None)
        listener.stop()
        await heard

    bus.running(tmp_path, test)
    for first, *rest in parts:
        assert min((passes(called, rest) for called in episodes.of[first]), key=len) == [], first


WIDTH, HEIGHT = 400, 300
LENGTHS = {0: 19, 2: 3, 3: 9, 4: 7, 5: 5}
"""Bytes of a client's messages after their first (RFC 6143, 7.5); to those of 2, encodings are added."""


class VncServer:
    """Lets everybody in, and answers a request with the picture that the test has painted since the last one."""

    async def start(self) -> int:
        """Returns the port."""
        self._asked = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.write(b"RFB 003.008\n\1\1" + bytes(4) + struct.pack(">HH16xI", WIDTH, HEIGHT, 4) + b"test")
        try:
            await reader.readexactly(14)
            while True:
                kind = (await reader.readexactly(1))[0]
                message = await reader.readexactly(LENGTHS[kind])
                if kind == 2:
                    await reader.readexactly(4 * int.from_bytes(message[1:], "big"))
                elif kind == 3:
                    self._asked.set()
        except asyncio.IncompleteReadError:
            writer.close()

    async def paint(self, picture: np.ndarray) -> None:
        """One update of the whole screen."""
        await self._asked.wait()
        self._asked.clear()
        head = struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0)
        self._writer.write(head + picture.tobytes())

    def close(self) -> None:
        self._server.close()


class Seen(Unseen):
    """What a viewer shows."""

    def __init__(self) -> None:
        self.pixels: np.ndarray = np.zeros(0)
        self.drawn = asyncio.Event()

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: int) -> None:
        self.pixels = canvas.pixels[:, :, :3].copy()
        self.drawn.set()

    async def until(self, picture: np.ndarray) -> None:
        """Until that is on the screen, exactly."""
        while not np.array_equal(self.pixels, picture[:, :, :3]):
            self.drawn.clear()
            await self.drawn.wait()


def test_path_of_a_picture(tmp_path: Path) -> None:
    """All of it but the window, which needs a display."""

    async def test(daemon: Daemon) -> None:
        server, seen = VncServer(), Seen()
        spec = DoorSpec("vnc", "", "127.0.0.1", await server.start())
        viewer = Viewer("ws://localhost/alice", seen, ViewerOptions(socket=daemon.config.runtime / "api.sock"))
        text = np.random.default_rng(1).integers(0, 2, (HEIGHT, WIDTH, 1), np.uint8) * np.full(4, 255, np.uint8)
        with noted() as called:
            daemon.worker.attach(daemon.worker.guests["alice"], spec)
            watching = asyncio.create_task(viewer.run())
            for picture in (text, np.roll(text, -40, 0)):
                await server.paint(picture)
                await seen.until(picture)
        viewer.stop()
        await watching
        server.close()
        assert passes(called, way("A picture")[:-1]) == []

    bus.running(tmp_path, test)


def test_path_of_an_incident(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with aiohttp.ClientSession(connector=connector(daemon)) as client:
            events = await client.ws_connect("http://localhost/api/v1/events")
            listener = await client.ws_connect("http://localhost/alice")
            await listener.send_str(msgspec.json.encode(Hello()).decode())
            await told(events, '"kind":"listener"')
            with noted() as called:
                late = Trouble("underrun", "network", "late")
                await listener.send_str(msgspec.json.encode(late).decode())
                await told(events, '"kind":"incident"')
            assert passes(called, way("An incident")) == []

    bus.running(tmp_path, test)


def test_path_of_a_packet() -> None:
    hosts = TwoHosts(1)
    with noted() as called:
        hosts.step(1.0, 0.0)
    assert passes(called, way("A packet")) == []


def test_wrongly_documented_path_is_found() -> None:
    called = ["a.py", "b.py", "a.py", "c.py"]
    assert passes(called, ["a.py", "c.py"]) == passes(called, ["b.py", "a.py"]) == []
    assert passes(called, ["c.py", "a.py"]) == ["a.py"] and passes(called, ["a.py", "d.py", "b.py"]) == ["d.py", "b.py"]
