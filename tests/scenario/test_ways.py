"""The ways of docs/architecture.md are those that the code takes, file by file."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import aiohttp
import msgspec

import millrace
from millrace.daemon.app import Daemon
from millrace.wire.peer.messages import Hello, Trouble
from tests import bus
from tests.scenario.test_ports import TwoHosts

SRC = Path(millrace.__file__).parent
DRAWN = (SRC.parent.parent / "docs" / "architecture.md").read_text()
TYPES = {"symptoms.py", "media/packet.py"}
"""Files of which only types are used, which is no call."""
ANSWERS = "server/http/answers.py"
"""Whether the caller or the watchers hear of a change first is open."""


def way(name: str) -> list[str]:
    """The files of the way that begins with this name, without those of other processes."""
    (text,) = [way for way in DRAWN.split("\n## Four ways\n")[1].split("\n- **")[1:] if way.startswith(name)]
    files = re.findall(r"`(\S+\.py)`", text.split("\n## ")[0])
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
                daemon.worker.keeper._thread.shutdown()
                daemon.worker.keeper._thread = ThreadPoolExecutor(1)
                louder = {"target": "sink/millrace", "settings": {"volume": "50%"}}
                changed = asyncio.create_task(told(events, '"kind":"sink"'))
                answer = await client.post("http://localhost/api/v1/set", json=louder)
                await changed
            assert answer.status == 200 and ANSWERS in called and passes(called, way("A command")) == []

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
