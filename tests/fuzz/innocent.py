"""The neighbouring guest: plays a pattern while its standard input is open, listens to it, and reports what was wrong.

`python -m tests.fuzz.innocent PULSE_SOCKET WS_URL`, with a token in $MILLRACE_TOKEN. The last line is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from millrace.client.listener import Listener, ListenerOptions
from millrace.client.pulse import PulsePlayer
from millrace.dsp.convert import SampleFormat, Samples
from millrace.units import Frames, Positions
from millrace.wire.pulse.client import Notice, playback_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

RATE = 48_000
PATTERN = np.random.default_rng(1).integers(-8_000, 8_000, (RATE, 2), np.int16)
PATTERN[0] = (8_191, -8_191)
AHEAD_BYTES = 2 * RATE * 4
"""The player is two seconds ahead, so that a gap can't be due to the player's own lateness."""


class Judge:
    """An output that compares what it gets with the pattern, from the pattern's first frame on."""

    name = "judge"

    def __init__(self) -> None:
        self.frames = self.wrong = 0
        self.events: list[str] = []
        self._at: int | None = None

    def open(self, rate: int, positions: Positions) -> None:
        """See `FileOutput`."""
        self.events.append(f"{rate} Hz, {len(positions)} channels")

    def write(self, block: Samples) -> None:
        """See `FileOutput`."""
        got = np.rint(block * 32_768).astype(np.int16)
        if self._at is None:
            loud = np.flatnonzero((got == PATTERN[0]).all(axis=1))
            if not len(loud):
                return
            self._at, got = 0, got[loud[0] :]
        wanted = PATTERN[(self._at + np.arange(len(got))) % RATE]
        bad = (np.abs(got.astype(np.int32) - wanted) > 1).any(axis=1)
        if bad.any():
            self.events.append(f"frame {self.frames + int(np.flatnonzero(bad)[0])}: {int(bad.sum())} wrong")
            self.wrong += int(bad.sum())
        self.frames += len(got)
        self._at += len(got)

    def skip(self, frames: Frames) -> None:
        """See `FileOutput`."""
        if self._at is not None:
            self.events.append(f"frame {self.frames}: a hole of {frames}")
            self.wrong += frames
            self.frames += frames
            self._at += frames

    def close(self) -> None:
        """See `FileOutput`."""


async def play(path: Path) -> None:
    """Play the pattern repeatedly."""
    player = await PulsePlayer.connect(path, "innocent")
    spec = Spec(SampleFormat.S16LE, 2, RATE)
    fields = playback_fields(spec, (1, 2), tlength=AHEAD_BYTES, maxlength=4 * AHEAD_BYTES)
    reply = await player.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
    wanted, at, data = reply["missing"], 0, PATTERN.tobytes()
    while True:
        while wanted > 0:
            piece = data[at : at + min(wanted, 16_384)]
            player._wire.send_block(reply["channel"], piece)
            at, wanted = (at + len(piece)) % len(data), wanted - len(piece)
        await player._flush()
        for event in await player._events():
            if isinstance(event, Notice) and event.command is Command.REQUEST:
                wanted += event.fields["bytes"]


async def main() -> dict[str, Any]:
    """Play and listen until standard input ends."""
    judge = Judge()
    options = ListenerOptions(name="innocent", settings={"codec": "s16"}, token=os.environ.get("MILLRACE_TOKEN", ""))
    listener = Listener(sys.argv[2], judge, options, lambda kind, text: judge.events.append(f"{kind}: {text}"))
    listening = asyncio.create_task(listener.run())
    await asyncio.sleep(1)
    playing = asyncio.create_task(play(Path(sys.argv[1])))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait({listening, playing, ended}, return_when=asyncio.FIRST_COMPLETED)
    failed = [repr(task.exception()) for task in done if task is not ended]
    listener.stop()
    playing.cancel()
    return {"frames": judge.frames, "wrong": judge.wrong, "failed": failed, "lost": listener.report().lost,
            "connections": listener.connections, "events": judge.events[:50]}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())), flush=True)
    os._exit(0)
