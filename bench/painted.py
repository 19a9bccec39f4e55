"""`millrace` whose guest `default` has a screen that paints itself: python -m bench.painted serve …

$PAINTED is SCENE:WIDTHxHEIGHT; with $STAMPS, when each picture passed which stage is written there at the end.
`python -m bench.painted floor` writes what changes in it to standard output, as it is: the least that anything between
two processes could do.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time

import numpy as np

from bench.picturestages import stamp_daemon
from millrace.pixels.rects import Size
from millrace.sim.desktop import Desktop
from millrace.sim.painted import PaintedMachine

FPS = 30
HEAD = struct.Struct("<I")
RECT = struct.Struct("<HHHH")


def desktop() -> Desktop:
    """What $PAINTED names."""
    scene, _, size = os.environ["PAINTED"].partition(":")
    return Desktop(Size(*map(int, size.split("x"))), scene)


def serve() -> None:
    """The daemon."""
    from millrace.cli.main import main
    from millrace.daemon.app import Daemon
    from millrace.io.clock import now_ns
    from millrace.io.timer import TimerRunner

    start = Daemon.start

    async def started(self: Daemon) -> None:
        await start(self)
        guest, timer = self.worker.guests["default"], TimerRunner()
        machine = PaintedMachine(desktop(), FPS, timer.rearm)
        machine.show(guest.screens.add(machine, "painted", "painted"), now_ns())
        timer.drive(machine, asyncio.get_running_loop())
        machine.clicks(guest.graph)

    Daemon.start = started  # type: ignore[method-assign]
    if path := os.environ.get("STAMPS"):
        stamp_daemon(path)
    main()


def floor() -> None:
    """Paint, and write what changed."""
    one, out = desktop(), sys.stdout.buffer
    began, count = time.monotonic_ns(), 0
    while True:
        count += 1
        wait = (began + count * 1_000_000_000 // FPS - time.monotonic_ns()) / 1e9
        time.sleep(max(0.0, wait))
        changed = one.paint(time.monotonic_ns())
        out.write(HEAD.pack(len(changed)))
        for rect in changed:
            pixels = one.picture[rect.y : rect.bottom, rect.x : rect.right]
            out.write(RECT.pack(rect.x, rect.y, rect.width, rect.height) + np.ascontiguousarray(pixels).tobytes())
        out.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        floor()
    else:
        serve()
