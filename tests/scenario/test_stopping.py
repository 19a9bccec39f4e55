"""The daemon stops soon, whoever is connected."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from millrace.client.faces import Unseen
from millrace.client.viewer import Viewer, ViewerOptions
from millrace.daemon.app import Daemon
from millrace.daemon.serving import STOP_S
from millrace.io import clock
from millrace.units import NS_PER_S
from tests import virtual
from tests.bus import config


@pytest.mark.parametrize(("silent", "most_s"), [(False, 0.1), (True, 2 * STOP_S + 0.1)])
def test_viewers_and_listeners_do_not_hold_up_the_stop(silent: bool, most_s: float, tmp_path: Path) -> None:
    """`silent`: a listener that does not complete the closing handshake of its WebSocket."""

    async def main() -> None:
        daemon = Daemon(config(tmp_path))
        await daemon.start()
        api = daemon.config.runtime / "api.sock"
        viewer = Viewer("ws://localhost/alice", Unseen(), ViewerOptions(socket=api))
        watching = asyncio.create_task(viewer.run())
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api))) as client:
            if silent:
                await client.ws_connect("http://localhost/alice")
            while not viewer.connections:
                await asyncio.sleep(0.01)
            began = clock.now_ns()
            await daemon.stop()
            assert (clock.now_ns() - began) / NS_PER_S <= most_s
        viewer.stop()
        await watching

    virtual.run(main())
