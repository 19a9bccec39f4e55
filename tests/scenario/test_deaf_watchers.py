"""Those who watch the state or thumbnails, and read nothing: what they make the kernel hold, and how they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace.rights.model import OWNER
from millrace.server.http.wall import Wall
from tests.nativebus import eventually
from tests.scenario.tenants import Rig, running
from tests.scenario.test_budget_daemon import churn, deaf_watcher


def test_what_a_watcher_leaves_unread_waits_where_it_is_charged_and_not_in_the_kernel(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        streams = churn(alice, 200)
        line = await deaf_watcher(rig, await rig.token("a", "see", ["alice"]))
        for on in (True, False, True, False):
            for stream in streams:
                alice.graph.set_mute(stream, on)
            await asyncio.sleep(0.05)
        assert alice.graph.budget.shares()["watcher"] > 1_500_000
        line.close()

    running(tmp_path, test)


def test_log_says_whether_a_watcher_did_not_read_or_there_was_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        streams = churn(alice, 40)
        line = await deaf_watcher(rig, await rig.token("a", "see", ["alice"]))
        watchers = rig.daemon.worker.registry._watchers
        await eventually(lambda: len(watchers) == 1)
        alice.graph.budget.limit = 1
        # More than each watcher has room for in any case.
        for stream in streams:
            alice.graph.set_mute(stream, True)
        await eventually(lambda: not watchers)
        (said,) = [record.message for record in caplog.records if "a watcher of token/1 was" in record.message]
        assert "there is no room for" in said and "unread" not in said
        line.close()

    running(tmp_path, test)


@pytest.mark.parametrize("how", ["revoked", "displaced"])
def test_event_stream_that_has_ended_is_cut_if_it_does_not_read(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.server.http.events.CLOSE_TIMEOUT_S", 0.2)

    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        churn(alice, 100)
        line = await deaf_watcher(rig, await rig.token("a", "see", ["alice"]))
        await eventually(lambda: alice.graph.budget.shares().get("watcher", 0) > 100_000)
        watcher = next(iter(rig.daemon.worker.registry._watchers))
        if how == "revoked":
            assert await rig.daemon.worker.access.revoke(1)
        else:
            watcher.end("no room")
        await eventually(lambda: "watcher" not in alice.graph.budget.shares())
        line.close()

    running(tmp_path, test)


class Stuck:
    """A WebSocket whose peer reads and says nothing."""

    async def _never(self, *said: object) -> None:
        await asyncio.Event().wait()

    receive = send_str = send_bytes = _never


def test_wall_that_has_ended_is_cut_if_it_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.http.wall.CLOSE_TIMEOUT_S", 0.05)

    async def test(rig: Rig) -> None:
        line: Any = Stuck()
        cut = asyncio.Event()
        wall = Wall(rig.daemon.plane, OWNER, rig.daemon.worker.guest("alice").turns, cut.set)
        serving = asyncio.ensure_future(wall.serve(line))
        await asyncio.sleep(0)
        wall._asked('{"show": ["nobody"]}')
        await eventually(lambda: wall._tiles["nobody"].why != {"why": ""})
        wall.end("the token was revoked")
        async with asyncio.timeout(5):
            await cut.wait()
        serving.cancel()

    running(tmp_path, test)
