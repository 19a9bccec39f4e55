"""A queue of frames that remembers what was read: cutting and stretching look back as well as ahead.

Memory is contiguous, so every look is one view. One user at a time.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import Frames


class Tape:
    """Up to `capacity` frames ahead of the head, `history` frames behind it."""

    def __init__(self, capacity: Frames, history: Frames, channels: int) -> None:
        self.capacity, self.history = capacity, history
        self._data: Samples = np.zeros((2 * (capacity + history), channels), np.float32)
        self._head = self._end = history

    @property
    def fill(self) -> Frames:
        """Frames ahead of the head."""
        return self._end - self._head

    def write(self, block: Samples) -> Frames:
        """Append as much of `block` as fits; returns how many frames."""
        n = min(len(block), self.capacity - self.fill)
        if self._end + n > len(self._data):
            kept = self._data[self._head - self.history : self._end]
            self._data[: len(kept)] = kept.copy() if len(kept) > self._head - self.history else kept
            self._end -= self._head - self.history
            self._head = self.history
        self._data[self._end : self._end + n] = block[:n]
        self._end += n
        return n

    def ahead(self, frames: Frames) -> Samples:
        """A view of up to `frames` from the head on; writing to it changes the tape."""
        return self._data[self._head : min(self._head + frames, self._end)]

    def behind(self, frames: Frames) -> Samples:
        """A view of the `frames` before the end of the tape (at most `history`)."""
        return self._data[max(0, self._end - frames) : self._end]

    def around(self, back: Frames, ahead: Frames) -> Samples:
        """A view from `back` before the head (at most `history`) to `ahead` after it."""
        return self._data[self._head - back : min(self._head + ahead, self._end)]

    def advance(self, frames: Frames) -> None:
        """Move the head on; a negative number goes back into the history."""
        assert -self.history <= frames <= self.fill
        self._head += frames
        if self._head < self.history:
            # Going back has used up the room before the data: move it all up.
            shift = self.history - self._head
            self._data[shift : self._end + shift] = self._data[: self._end].copy()
            self._head, self._end = self._head + shift, self._end + shift

    def clear(self) -> None:
        """Forget what is ahead."""
        self._head = self._end
