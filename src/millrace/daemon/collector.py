"""The cyclic collector, kept from stopping the sound.

It looks at every object there is, a microsecond each: one guest with thousands of streams would have all guests
wait for a tenth of a second. So only what is young is looked at by itself, a few thousand objects at a time; what
outlives that is set aside, and freed like everything else when nobody refers to it any more. Whole collections, for
cycles of what has lived long, are for when no sound would suffer.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

YOUNG, MIDDLE = 4_000, 2
"""Objects made between two looks at the young ones, and such looks between two at those that survived one."""
NEVER = 1 << 30
EVERY_S = 60.0
QUIET_S = 300.0
"""A whole collection at most so often while nothing plays."""
ANYWAY_S = 24 * 3600.0
"""And so often in any case."""


def calm() -> None:
    """What there is stays for good; from here on nothing but what is young is looked at."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    gc.callbacks.append(_set_aside)
    gc.enable()


def _set_aside(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] >= 1:
        gc.freeze()


def collect() -> None:
    """Look at everything."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_calm(quiet: Callable[[], bool]) -> None:
    """Collect everything now and then, while it is `quiet`."""
    since = 0.0
    while True:
        await asyncio.sleep(EVERY_S)
        since += EVERY_S
        if since >= ANYWAY_S or (since >= QUIET_S and quiet()):
            collect()
            since = 0.0
