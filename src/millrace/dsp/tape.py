"""A queue of frames that keeps what was read, because cutting and stretching look back as well as ahead.

The memory is contiguous, so every access is a single view. Single-threaded.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import Frames


class Tape:
    """Up to `capacity` frames ahead of the head, and at least `history` frames behind it, silent at first."""

    def __init__(self, capacity: Frames, history: Frames, channels: int) -> None:
        self.capacity, self.history = capacity, history
        self._data: Samples = np.zeros((2 * (capacity + history), channels), np.float32)
        self._head = self._end = history

    @property
    def fill(self) -> Frames:
        """Frames ahead of the head."""
        return self._end - self._head

    @property
    def past(self) -> Frames:
        """Frames behind the head that are still available; going back uses them up."""
        return self._head

    def write(self, block: Samples) -> Frames:
        """Append as much of `block` as fits; return how many frames."""
        n = min(len(block), self.capacity - self.fill)
        # This happens only if the head is past `history`: up to there, head + capacity lies within the memory. So
        # `drop` is positive even after the head has gone back, and each frame is copied at most once in capacity +
        # history frames.
        # At the end of the memory, move the history and the queue to the front. The memory has twice the size that is
        # needed, so this is rare.
        if self._end + n > len(self._data):
            drop = self._head - self.history
            self._data[: self._end - drop] = self._data[drop : self._end].copy()
            self._head, self._end = self.history, self._end - drop
        self._data[self._end : self._end + n] = block[:n]
        self._end += n
        return n

    def ahead(self, frames: Frames) -> Samples:
        """A view of up to `frames` from the head on; writing to it changes the tape."""
        return self._data[self._head : min(self._head + frames, self._end)]

    def behind(self, frames: Frames) -> Samples:
        """A view of up to `frames` before the end of the tape."""
        return self._data[max(0, self._end - frames) : self._end]

    def around(self, back: Frames, ahead: Frames) -> Samples:
        """A view from `back` before the head (at most `past`) to `ahead` after it."""
        return self._data[self._head - back : min(self._head + ahead, self._end)]

    def advance(self, frames: Frames) -> None:
        """Move the head forward; a negative number goes back, by at most `past` frames."""
        assert -self.past <= frames <= self.fill
        self._head += frames

    def clear(self) -> None:
        """Discard what is ahead."""
        self._head = self._end
