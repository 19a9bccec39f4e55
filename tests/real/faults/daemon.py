"""`millrace`, with switches for the faults that can't be made from outside.

A real-time signal brings one about; when it began is written to the file that FAULT_TRUTH names.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import millrace.codec.opus as opus
import millrace.control.worker as worker
import millrace.graph.graph as graph
from millrace.cli.main import main
from millrace.dsp.convert import Samples

BUSY, MIX, ENCODE, CLOCK = (signal.SIGRTMIN + n for n in range(1, 5))
BURN_S, JUMP_NS = 0.08, 5_000_000_000
armed: set[int] = set()
jumped_ns = 0


def told() -> None:
    """It begins now."""
    with open(os.environ["FAULT_TRUTH"], "a") as file:
        file.write(f"{time.monotonic_ns()}\n")


def burn() -> None:
    """Do nothing useful, and keep the processor for it."""
    told()
    end = time.monotonic() + BURN_S
    while time.monotonic() < end:
        pass


def if_armed(switch: int) -> None:
    """Once, where the switch was set."""
    if switch in armed:
        armed.discard(switch)
        burn()


mix, encode, wall_ns = graph.run_cycle, opus.OpusEncoder.encode, worker.wall_ns


def slow_mix(*args: Any) -> Iterator[None]:
    """A mix that takes long, if it is to."""
    if_armed(MIX)
    return mix(*args)


def slow_encode(self: opus.OpusEncoder, block: Samples) -> bytes:
    """An encoder that takes long, if it is to."""
    if_armed(ENCODE)
    return encode(self, block)


def jump(*_: object) -> None:
    """Set the wall clock, as this daemon sees it."""
    global jumped_ns
    told()
    jumped_ns += JUMP_NS


def arm() -> None:
    """Put the switches in."""
    graph.run_cycle = slow_mix
    opus.OpusEncoder.encode = slow_encode  # type: ignore[method-assign]
    worker.wall_ns = lambda: wall_ns() + jumped_ns
    signal.signal(BUSY, lambda *_: burn())
    signal.signal(MIX, lambda *_: armed.add(MIX))
    signal.signal(ENCODE, lambda *_: armed.add(ENCODE))
    signal.signal(CLOCK, jump)


if __name__ == "__main__":
    arm()
    main()
