"""A queue of frames that remembers what was read: cutting and stretching look back as well as ahead.

Memory is contiguous, so every look is one view. One user at a time.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import Frames


class Tape:
    """Up to `capacity` frames ahead of the head; behind it silence at first, then at least `history` frames."""

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
        """Frames behind the head that are still known; going back uses them up."""
        return self._head

    def write(self, block: Samples) -> Frames:
        """Append as much of `block` as fits; returns how many frames."""
        n = min(len(block), self.capacity - self.fill)
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
        """Move the head on; a negative number goes back, at most by `past`, to where there is room for it."""
        assert -self.past <= frames <= self.fill
        self._head += frames

    def clear(self) -> None:
        """Forget what is ahead."""
        self._head = self._end
