"""`millrace` with switches for the faults that can't be injected from outside.

Each is triggered by a real-time signal; the time at which it began is written to the file named by FAULT_TRUTH.
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
    """Record that a fault begins now."""
    with open(os.environ["FAULT_TRUTH"], "a") as file:
        file.write(f"{time.monotonic_ns()}\n")


def burn() -> None:
    """Busy-wait."""
    told()
    end = time.monotonic() + BURN_S
    while time.monotonic() < end:
        pass


def if_armed(switch: int) -> None:
    """Busy-wait once if the switch was set."""
    if switch in armed:
        armed.discard(switch)
        burn()


mix, encode, wall_ns = graph.run_cycle, opus.OpusEncoder.encode, worker.wall_ns


def slow_mix(*args: Any) -> Iterator[None]:
    """A mix that takes too long if the switch was set."""
    if_armed(MIX)
    return mix(*args)


def slow_encode(self: opus.OpusEncoder, block: Samples) -> bytes:
    """An encoder that takes too long if the switch was set."""
    if_armed(ENCODE)
    return encode(self, block)


def jump(*_: object) -> None:
    """Set the wall clock, as this daemon sees it."""
    global jumped_ns
    told()
    jumped_ns += JUMP_NS


def arm() -> None:
    """Install the switches."""
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
