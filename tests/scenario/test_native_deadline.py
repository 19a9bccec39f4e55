"""A daemon that does not answer: a call ends at its deadline, and the resources of a late answer are released."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millrace.client.bus import Bus, connect
from millrace.daemon.app import Daemon
from millrace.errors import PeerLost
from millrace.server.native.session import NativeSession
from tests import bus

running = partial(bus.running, guests=bus.BOTH)


class Gate:
    """Holds back every call until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = asyncio.Event()
        self._do = NativeSession._do
        gate = self

        async def held(session: NativeSession, number: int, call: Any) -> None:
            await gate._open.wait()
            await gate._do(session, number, call)

        monkeypatch.setattr(NativeSession, "_do", held)

    def open(self) -> None:
        self._open.set()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def at_door(daemon: Daemon) -> Bus:
    return connect(daemon.config.runtime / "alice" / "native")


def test_unanswered_call_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        async with at_door(daemon) as own:
            gate = Gate(monkeypatch)
            with pytest.raises(PeerLost, match=r"no answer to state within 0\.05 s"):
                await own.call("state", timeout_s=0.05)
            assert not own._calls, "nothing is stored for an abandoned call"
            late = asyncio.create_task(own.call("incidents", timeout_s=None))
            await asyncio.sleep(0)
            gate.open()
            assert await late == [], "the late answer is not matched to another call"
            assert "guests" in await own.call("state", guest="alice")

    running(tmp_path, test)


def test_stream_that_arrives_too_late_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        graph = daemon.worker.guest("alice").graph
        async with at_door(daemon) as own:
            gate, before = Gate(monkeypatch), len(os.listdir("/proc/self/fd"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await own.play(guest="alice").__aenter__()
            assert not graph.streams
            gate.open()
            await own.call("state", guest="alice")
            assert len(graph.streams) <= 1
            await until(lambda: not graph.streams)
            assert len(os.listdir("/proc/self/fd")) == before
            async with own.play(guest="alice"):
                assert len(graph.streams) == 1

    running(tmp_path, test)


def test_stream_not_closed_in_time_is_released_locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        async with at_door(daemon) as own:
            stream = own.play(guest="alice")
            await stream.__aenter__()
            Gate(monkeypatch)
            monkeypatch.setattr("millrace.client.bus.CALL_S", 0.05)
            with pytest.raises(PeerLost, match="no answer to close"):
                await stream.__aexit__(None, None, None)
            assert stream.why and stream._ring is None

    running(tmp_path, test)
