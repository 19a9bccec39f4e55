"""A viewer whose connection was full goes on as soon as that has room again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace.absent import nothing
from millrace.guest.viewer import ViewerSession
from tests.scenario.tenants import Rig, running
from tests.scenario.watchers import painter_of, watching


def test_viewer_whose_connection_has_room_again_is_told_at_once_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relieved = list[ViewerSession]()
    monkeypatch.setattr(ViewerSession, "relieved", lambda session: relieved.append(session))

    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        watcher = await watching(rig)
        (session,) = rig.daemon.worker.guest("alice").viewers.sessions
        writer: Any = session.sending._write
        protocol = writer.__self__._transport.get_protocol()
        relieved.clear()
        protocol.pause_writing()
        protocol.resume_writing()
        for _ in range(3):
            await asyncio.sleep(0)
        assert relieved == [session]
        await watcher.socket.close()
        async with asyncio.timeout(10):
            while protocol._relieved is not nothing:
                await asyncio.sleep(0.01)

    running(tmp_path, test)
