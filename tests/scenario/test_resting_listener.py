"""A listener that rests is not looked at each second, but its session ends all the same once it can't be sent sound."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.scenario.tenants import Rig, joined, running

BOUND_S = 20


def test_listener_whose_encoder_fails_while_it_rests_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        line = await joined(rig, await rig.token("a", "hear", ["alice"]))
        (session,) = rig.daemon.worker.guests["alice"].sessions
        async with asyncio.timeout(BOUND_S):
            while not session._resting:
                await asyncio.sleep(0.05)
            session.outlet.fail(MemoryError("no memory for a block"))
            while (await line.receive()).type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                pass
        assert not rig.daemon.worker.guests["alice"].sessions

    running(tmp_path, test)
    assert "no memory for a block" in caplog.text
