"""A two-phase FIFO of frames: get a readable or writable block, then commit.

One producer, one consumer. Blocks are views into the ring, so nothing is copied twice.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples


class Ring:
    """Holds up to `capacity` frames of `channels` float32 channels."""

    def __init__(self, capacity: int, channels: int) -> None:
        self._data: Samples = np.zeros((capacity, channels), np.float32)
        self._capacity = capacity
        self._read = 0
        self._fill = 0

    @property
    def fill_frames(self) -> int:
        """Frames queued."""
        return self._fill

    @property
    def space_frames(self) -> int:
        """Frames that may still be written."""
        return self._capacity - self._fill

    def readable(self) -> Samples:
        """The oldest contiguous block, (frames, channels); call `commit_read` when done with it."""
        return self._data[self._read : min(self._read + self._fill, self._capacity)]

    def commit_read(self, frames: int) -> None:
        """Give the first `frames` of the readable block back."""
        assert 0 <= frames <= self._fill
        self._read = (self._read + frames) % self._capacity
        self._fill -= frames

    def writable(self) -> Samples:
        """The next contiguous free block, (frames, channels); call `commit_write` when filled."""
        start = (self._read + self._fill) % self._capacity
        return self._data[start : min(start + self.space_frames, self._capacity)]

    def commit_write(self, frames: int) -> None:
        """Make the first `frames` of the writable block readable."""
        assert 0 <= frames <= self.space_frames
        self._fill += frames

    def write(self, block: Samples) -> int:
        """Copy in as many frames of `block` as fit; returns how many."""
        done = 0
        while done < len(block) and self.space_frames:
            free = self.writable()
            n = min(len(free), len(block) - done)
            free[:n] = block[done : done + n]
            self.commit_write(n)
            done += n
        return done

    def read(self, out: Samples) -> int:
        """Copy out up to `len(out)` frames; returns how many."""
        done = 0
        while done < len(out) and self._fill:
            ready = self.readable()
            n = min(len(ready), len(out) - done)
            out[done : done + n] = ready[:n]
            self.commit_read(n)
            done += n
        return done

    def skip(self, frames: int) -> int:
        """Throw away up to `frames` of the oldest; returns how many."""
        n = min(frames, self._fill)
        self.commit_read(n)
        return n
