"""Malloc settings that return a guest's memory to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
"""See mallopt(3)."""
LARGE_BYTES = 64 * 1024
"""Blocks at least this large (lanes, queues, resamplers) go back to the system when freed."""


def give_back() -> None:
    """Pin glibc's mmap threshold.

    By default glibc raises the threshold when a large block is freed, so that later blocks of that size come from the
    heap and stay there: of 390 MiB used by a guest's 390 samples, 290 MiB stayed resident after they had ended. Other C
    libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
