"""A daemon in this process, with its sockets and its store in the test's own folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from millrace.daemon.app import Daemon
from millrace.daemon.config import Config
from millrace.guest.config import GuestConfig

Test = Callable[[Daemon], Awaitable[None]]
BOTH = (GuestConfig("alice"), GuestConfig("bob"))
TIMEOUT_S = 60


def config(folder: Path, **options: Any) -> Config:
    """A configuration with one guest, alice, unless `options` say otherwise."""
    made = {"guests": (GuestConfig("alice"),), "runtime": folder / "r", "state": folder / "s" / "state.db"} | options
    return Config("127.0.0.1:0", **made)


@asynccontextmanager
async def daemon_in(folder: Path, **options: Any) -> AsyncIterator[Daemon]:
    """Run a daemon for the duration of the block."""
    daemon = Daemon(config(folder, **options))
    try:
        await daemon.start()
        async with asyncio.timeout(TIMEOUT_S):
            yield daemon
    finally:
        await daemon.stop()


def running(
    folder: Path, test: Test, run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run, **options: Any
) -> None:
    """Run a daemon for the duration of `test`; in virtual time with `virtual.run`."""

    async def main() -> None:
        async with daemon_in(folder, **options) as daemon:
            await test(daemon)

    run(main())
