"""Idle PulseAudio clients: connected, named and subscribed. Reads socket paths from stdin."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import uvloop

from millrace.client.pulse import PulsePlayer
from millrace.wire.pulse.constants import Command


async def main(paths: list[str]) -> None:
    """Connect them all, and keep the connections open."""
    players = []
    for path in paths:
        player = await PulsePlayer.connect(Path(path), "idle")
        await player.ask(Command.SUBSCRIBE, mask=0x2FF)
        players.append(player)
    await asyncio.sleep(600)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(sys.stdin.read().split()))
