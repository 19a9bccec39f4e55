"""Keeps Python's cyclic garbage collector from interrupting sound.

A full collection visits every object, at about a microsecond each: one guest with thousands of streams would stall all
guests for a tenth of a second. So automatic collection covers only young objects, a few thousand at a time. Survivors
are frozen (moved to the permanent generation) and from then on freed by reference counting alone. Full collections,
needed for cycles of long-lived objects, run when no sound would suffer, and otherwise only if they are short, or if
memory has grown so much that the host is in danger.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

from millrace.budget import MIB
from millrace.io.load import resident_bytes

log = logging.getLogger("millrace.daemon")
YOUNG, MIDDLE = 4_000, 2
"""Allocations between collections of generation 0, and such collections between two of generation 1."""
NEVER = 1 << 30
EVERY_S = 60.0
QUIET_S = 300.0
"""Interval between full collections while nothing plays."""
FORCED_EVERY_S = 24 * 3600.0
"""Interval at which a full collection runs even while something plays, if it is short."""
SHORT_OBJECTS = 200_000
"""A collection that looks through no more objects is short."""
GROWN_FACTOR, GROWN_BYTES = 3, 1024 * MIB
"""Resident memory beyond this, compared with that after the last one, has a full collection run while something plays.
That is heard: with millions of objects it takes seconds. So no guest's budget reaches it, memory that comes and goes
does not have it run again, and it is worth it only for memory that the host would miss."""


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
    began = time.monotonic()
    gc.unfreeze()
    freed = gc.collect()
    gc.freeze()
    log.info("garbage collection took %.0f ms: %d objects freed", 1000 * (time.monotonic() - began), freed)


async def keep_calm(quiet: Callable[[], bool], resident: Callable[[], int] = resident_bytes) -> None:
    """Run full collections now and then, preferably while `quiet`; `resident` is the memory in use, in bytes."""
    since, before = 0.0, resident()
    while True:
        await asyncio.sleep(EVERY_S)
        since += EVERY_S
        if since < QUIET_S:
            continue
        due = since >= FORCED_EVERY_S and gc.get_freeze_count() <= SHORT_OBJECTS
        if quiet() or due or resident() > GROWN_FACTOR * before + GROWN_BYTES:
            collect()
            since, before = 0.0, resident()
