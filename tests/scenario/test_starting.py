"""A daemon that is starting: early clients wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from millrace.client.bus import connect
from millrace.daemon.app import Daemon
from millrace.guest.config import GuestConfig
from tests.bus import config


def test_program_connecting_before_guests_are_ready_waits(tmp_path: Path) -> None:
    async def main() -> None:
        daemon, go_on = Daemon(config(tmp_path)), asyncio.Event()
        start = daemon.worker.start

        async def slowly(guests: tuple[GuestConfig, ...]) -> None:
            await go_on.wait()
            await start(guests)

        async def ask() -> list[str]:
            async with connect(daemon.config.runtime / "native.sock", name="early") as bus:
                return [guest["name"] for guest in (await bus.call("state"))["guests"]]

        daemon.worker.start = slowly  # type: ignore[method-assign]
        starting = asyncio.create_task(daemon.start())
        try:
            while not (daemon.config.runtime / "native.sock").exists():
                await asyncio.sleep(0.001)
            asking = asyncio.create_task(ask())
            await asyncio.sleep(0.1)
            assert not asking.done()
            go_on.set()
            assert await asking == ["alice"]
        finally:
            go_on.set()
            await starting
            await daemon.stop()
        assert not (daemon.config.runtime / "native.sock").exists()

    asyncio.run(asyncio.wait_for(main(), 60))
