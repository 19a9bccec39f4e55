"""Malloc settings: a guest's memory is returned to the system, and what each picture needs is not fetched anew."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""See mallopt(3)."""
LARGE_BYTES = 64 * 1024
"""Blocks at least this large (lanes, queues, resamplers) go back to the system when freed. The buffers of streams are
between this and twice as large: with twice this, 1,870 streams took 358 MiB instead of 121 (`python -m bench neighbours
streams`). What a picture is compressed into is mostly smaller."""
SPARE_BYTES = 4 * 1024 * 1024
"""What each thread's heap may keep free at its end."""


def pin_malloc(spare: int = SPARE_BYTES) -> None:
    """Pin glibc's thresholds.

    By default glibc raises the first threshold when a large block is freed, so that later blocks of that size come from
    the heap and stay there: of 390 MiB used by a guest's 390 samples, 290 MiB stayed resident after they had ended. But
    once that one is pinned, the second stays at 128 KiB, and a thread that allocates and frees more than this for each
    picture has the kernel give it empty pages each time: `python -m bench encode` counts them, with these settings and
    without the second. Other C libraries have no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, spare)
