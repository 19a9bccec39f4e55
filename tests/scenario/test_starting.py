"""A daemon that is starting: early clients wait for it, and containers find it where the one before was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from millrace.client.bus import connect
from millrace.daemon.app import Daemon
from millrace.guest.config import GuestConfig
from millrace.rights.model import OWNER
from tests.bus import config, running


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


def _answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        return probe.connect_ex(str(path)) == 0


# Whoever holds a directory sees what is made in it later, as a container does in which it is mounted.
def test_directory_of_a_guest_is_the_same_after_a_restart_and_once_the_guest_is_back(tmp_path: Path) -> None:
    async def nothing(daemon: Daemon) -> None: ...

    async def still_here(daemon: Daemon) -> None:
        assert all(map(_answers, sockets))
        await daemon.plane.commands.run(OWNER, "guest.remove", {"guest": "alice"})
        assert not any(map(_answers, sockets))
        await daemon.plane.commands.run(OWNER, "guest.add", {"name": "alice"})
        assert all(map(_answers, sockets))

    running(tmp_path, nothing)
    directory = os.open(tmp_path / "r" / "alice", os.O_PATH)
    sockets = [Path(f"/proc/self/fd/{directory}/{name}") for name in ("pulse", "native")]
    try:
        running(tmp_path, still_here)
    finally:
        os.close(directory)
