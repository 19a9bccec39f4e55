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
PATIENCE_S = 60
TRIES = 3


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
        async with asyncio.timeout(PATIENCE_S):
            yield daemon
    finally:
        await daemon.stop()


def running(
    folder: Path, test: Test, run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run, **options: Any
) -> None:
    """Run a daemon for the duration of `test`."""

    async def main() -> None:
        async with daemon_in(folder, **options) as daemon:
            await test(daemon)

    run(main())


def undisturbed(folder: Path, test: Test, **options: Any) -> None:
    """Like `running`, for a test that judges every sample while client and daemon share a processor with others.

    A stall of the machine makes a gap, which the daemon records: then the test is repeated, up to three times in all.
    """
    for attempt in range(TRIES):
        stalled: list[str] = []

        async def noting(daemon: Daemon, stalled: list[str] = stalled) -> None:
            try:
                await test(daemon)
            except BaseException:
                stalled += [one.cause for one in daemon.worker.diagnosis.incidents if one.stage == "loop"]
                raise

        own = folder / str(attempt)
        own.mkdir()
        try:
            running(own, noting, **options)
            return
        except (AssertionError, TimeoutError):
            if attempt == TRIES - 1 or not stalled:
                raise
