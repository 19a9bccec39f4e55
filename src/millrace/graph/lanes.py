"""Lanes: the active streams' frames, side by side on the graph's own time line.

Every active stream of one channel layout has a row in one array; column p % capacity is
graph position p in all of them. So a cycle mixes all streams with one matrix product, and
Python is spent on a stream only when its lane must be refilled: as far ahead as its client's
buffer allows (`Stream.bulk_frames`), not once a cycle. Refilling is the door's side of
the real-time boundary; graph/cycle.py is the other.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.graph.model import Stream
from millrace.units import Frames, Positions

FAR = 1 << 62


class LanePool:
    """The lanes of one channel layout. `data` is (lanes, capacity × channels)."""

    def __init__(self, positions: Positions, capacity: Frames) -> None:
        self.positions = positions
        self.channels = len(positions)
        self.capacity = capacity
        self.data: Samples = np.zeros((1, capacity * self.channels), np.float32)
        self.owners: list[Stream | None] = [None]
        self.valid_until: list[Frames] = [FAR]
        self.real_until: list[Frames] = [0]
        self.due: Frames = FAR

    @property
    def empty(self) -> bool:
        """No stream is active."""
        return not any(self.owners)

    @property
    def used(self) -> int:
        """Lanes to mix: all up to the last that is taken."""
        return next((n for n in range(len(self.owners), 0, -1) if self.owners[n - 1] is not None), 0)

    def add(self, stream: Stream, position: Frames) -> None:
        """Give `stream` a lane whose first frame is heard at `position`."""
        if None not in self.owners:
            self._grow()
        lane = self.owners.index(None)
        self.owners[lane] = stream
        self.valid_until[lane] = self.real_until[lane] = position
        stream.lane = lane
        if stream.stash is not None:
            stash, stream.stash = stream.stash, None
            self._write(lane, position, stash)
            self.valid_until[lane] = self.real_until[lane] = position + len(stash)
        self.due = min(self.due, self.valid_until[lane])

    def _grow(self) -> None:
        lanes = len(self.owners)
        wider = np.zeros((lanes * 2, self.data.shape[1]), np.float32)
        wider[:lanes] = self.data
        self.data = wider
        self.owners += [None] * lanes
        self.valid_until += [FAR] * lanes
        self.real_until += [0] * lanes

    def remove(self, stream: Stream, position: Frames, keep: bool) -> None:
        """Take the lane back; with `keep`, frames pulled but not yet heard go to the stream's stash."""
        lane, stream.lane = stream.lane, -1
        ahead = self.real_until[lane] - position
        stream.stash = self._read(lane, position, ahead) if keep and ahead > 0 else None
        self.owners[lane] = None
        self.valid_until[lane] = FAR

    def ahead(self, stream: Stream, position: Frames) -> Frames:
        """Frames pulled from `stream` and not heard at `position`."""
        return max(0, self.real_until[stream.lane] - position)

    def discard(self, stream: Stream, position: Frames) -> None:
        """Forget what was pulled and not yet heard."""
        lane = stream.lane
        self.valid_until[lane] = self.real_until[lane] = position
        self.due = min(self.due, position)

    def service(self, position: Frames, frames: Frames) -> None:
        """Make every lane valid for [position, position + frames)."""
        end = position + frames
        for lane, until in enumerate(self.valid_until):
            if until < end:
                self._refill(lane, position, end)
        self.due = min(self.valid_until)

    def _refill(self, lane: int, position: Frames, end: Frames) -> None:
        stream = self.owners[lane]
        assert stream is not None
        have = max(self.valid_until[lane], position)
        goal = max(end, min(position + stream.bulk_frames, position + self.capacity))
        pulled_to = self._pull(stream, lane, have, goal)
        if pulled_to > have:
            self.real_until[lane] = pulled_to
        if pulled_to < end:
            stream.feed.short(end - pulled_to, self.real_until[lane] <= position)
            if self.owners[lane] is not stream:
                return
            self._write(lane, pulled_to, np.zeros((end - pulled_to, self.channels), np.float32))
            pulled_to = end
        self.valid_until[lane] = pulled_to

    def _pull(self, stream: Stream, lane: int, start: Frames, goal: Frames) -> Frames:
        row = self.data[lane].reshape(self.capacity, self.channels)
        while start < goal:
            at = start % self.capacity
            view = row[at : min(at + goal - start, self.capacity)]
            got = stream.feed.pull(view)
            start += got
            if got < len(view):
                break
        return start

    def _write(self, lane: int, position: Frames, block: Samples) -> None:
        row = self.data[lane].reshape(self.capacity, self.channels)
        at = position % self.capacity
        head = min(len(block), self.capacity - at)
        row[at : at + head] = block[:head]
        row[: len(block) - head] = block[head:]

    def _read(self, lane: int, position: Frames, frames: Frames) -> Samples:
        row = self.data[lane].reshape(self.capacity, self.channels)
        at = position % self.capacity
        # take(mode="wrap") would go round the ring as often as the position has since the host was started.
        return np.concatenate((row[at : at + frames], row[: max(0, at + frames - self.capacity)]))
