"""Keeps Python's cyclic garbage collector from interrupting sound.

A full collection visits every object, at about a microsecond each: one guest with thousands of streams would stall all
guests for a tenth of a second. So automatic collection covers only young objects, a few thousand at a time. Survivors
are frozen (moved to the permanent generation) and from then on freed by reference counting alone. Full collections,
needed for cycles of long-lived objects, run when no sound would suffer, and otherwise once a day or when memory has
grown so much that it may be garbage.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

from millrace.budget import MIB
from millrace.io.load import resident_bytes

YOUNG, MIDDLE = 4_000, 2
"""Allocations between collections of generation 0, and such collections between two of generation 1."""
NEVER = 1 << 30
EVERY_S = 60.0
QUIET_S = 300.0
"""Interval between full collections while nothing plays."""
FORCED_EVERY_S = 24 * 3600.0
"""Interval at which a full collection runs even while something plays."""
GROWN_FACTOR, GROWN_BYTES = 1.5, 128 * MIB
"""Resident memory beyond this, compared with that after the last one, has a full collection run while something plays.
A factor, so that a host whose guests grow for good pays for few of them."""


def calm() -> None:
    """Freeze all existing objects and restrict automatic collection to young ones."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    gc.callbacks.append(_set_aside)
    gc.enable()


# Called by the collector itself. After a collection of generation 1, everything that is still alive is taken to live
# long: freezing it costs nothing and takes it out of every later collection. If it becomes garbage in a cycle, its
# memory returns only with the next full collection, which is why there are any.
def _set_aside(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] >= 1:
        gc.freeze()


def collect() -> None:
    """Run a full collection. The collector skips frozen objects, so they are unfrozen first."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_calm(quiet: Callable[[], bool], resident: Callable[[], int] = resident_bytes) -> None:
    """Run full collections now and then, preferably while `quiet`; `resident` is the memory in use, in bytes."""
    since, before = 0.0, resident()
    while True:
        await asyncio.sleep(EVERY_S)
        since += EVERY_S
        now = resident()
        before = min(before, now)
        grown = now > GROWN_FACTOR * before + GROWN_BYTES
        if since >= FORCED_EVERY_S or (since >= QUIET_S and (grown or quiet())):
            collect()
            since, before = 0.0, resident()
