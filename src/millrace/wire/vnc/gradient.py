"""Tight's gradient filter: each sample is told as its difference from left + above - above left, clamped.

rfbproto, "Tight Encoding". A sample depends on those to its left and above, but not on others of its own diagonal: so
numpy computes a whole diagonal at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DIAGONAL_WORK, SAMPLE_WORK = 25_000, 15
"""What a diagonal costs, and each of its samples."""


def undo_gradient(picture: NDArray[np.uint8]) -> Iterator[int]:
    """From differences (rows, columns, samples) to samples, in place; yields what each step has cost."""
    high, wide, samples = picture.shape
    flat = picture.reshape(-1, samples)
    # Diagonals by row, the two before and the one to be computed. Row 0 stands for what is above the picture.
    before, last, now = (np.zeros((high + 1, samples), np.int16) for _ in range(3))
    for diagonal in range(high + wide - 1):
        first, end = max(0, diagonal - wide + 1), min(high - 1, diagonal) + 1
        start = first * wide + diagonal - first
        places = slice(start, start + (end - first - 1) * (wide - 1) + 1, max(1, wide - 1))
        guess = last[first + 1 : end + 1] + last[first:end] - before[first:end]
        now[first + 1 : end + 1] = (np.clip(guess, 0, 255) + flat[places]) & 255
        flat[places] = now[first + 1 : end + 1]
        before, last, now = last, now, before
        yield DIAGONAL_WORK + SAMPLE_WORK * samples * (end - first)
