"""A worker with its plane and its commands, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from millrace.control.commands import Commands
from millrace.control.local import LocalPlane
from millrace.control.worker import Worker
from millrace.graph.model import Stream
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import parse_places
from millrace.rights.model import OWNER, Principal, Right
from millrace.units import default_map

GUESTS = (GuestConfig("alice", attach=parse_places(["vms.example:5900"], "attach")), GuestConfig("bob"))
PLACE = SimpleNamespace(address="127.0.0.1:9", url="ws://127.0.0.1:9", page_url="http://127.0.0.1:9/")


class Serving:
    """Servers that accept no connections."""

    def open_guest(self, guest: Any) -> None:
        """See `Servers`."""

    async def close_guest(self, guest: Any, why: str) -> None:
        """See `Servers`."""


class Hall:
    """A worker with two guests, and the commands on them."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        place: Any = PLACE
        self.plane = LocalPlane(worker, place)
        self.commands: Commands = self.plane.commands

    async def ask(self, name: str, who: Principal = OWNER, /, **args: Any) -> Any:
        return await self.plane.run(who, name, args)

    def play(self, guest: str = "alice", sink: str = "millrace") -> Stream:
        graph = self.worker.guests[guest].graph
        stream = Stream(graph.ids.take(), "tone", default_map(2))
        graph.add_stream(stream, next(one for one in graph.sinks.values() if one.name == sink))
        return stream


def with_guests(folder: Path, test: Callable[[Hall], Awaitable[None]], token: str = "") -> None:
    async def main() -> None:
        worker = Worker(folder / "r", Path(":memory:"), token, Serving())
        try:
            await worker.start(GUESTS)
            async with asyncio.timeout(60):
                await test(Hall(worker))
        finally:
            await worker.stop("the end")
            worker.close()
            worker.listeners.stop()

    asyncio.run(main())


def guest_of(rights: Right, *guests: str) -> Principal:
    return Principal("certificate/five", rights, frozenset(guests or ("alice",)))
