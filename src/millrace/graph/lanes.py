"""Lanes: the frames of the active streams, side by side on the graph's own time line.

All active streams of one channel layout have a row each in one array; graph position p is column p % capacity in all of
them. A cycle can therefore mix all streams with one matrix product. Python code runs for a stream only when its lane
must be refilled: not in every cycle, but as far ahead as its client's buffer allows (`Stream.bulk_frames`). Refilling
is the protocol side of the real-time boundary; graph/cycle.py is the other side.

Pools are small, and a guest with many streams has many of them. So a growing pool copies little, and the cost of mixing
a few streams does not depend on how many others there are.

A plan refers to lanes by number, and is built while another plan plays. So the lane of a stream that ended is silent
from then on, and the lane of a new stream is silent until a plan is in force that mixes it for that stream.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import numpy as np

from millrace.dsp.convert import Samples
from millrace.graph.model import Stream
from millrace.units import Frames, Positions

FAR = 1 << 62
POOL_BYTES = 8 * 1024 * 1024
WIDE_LANES = 64
"""This many streams of a guest are pulled far ahead, if its budget has room; the others get short lanes."""


# For each lane, columns up to `valid_until` may be mixed. Those up to `real_until`, which is never later, hold the
# client's own frames; the others are silence that stood in for missing ones. FAR means never due: the lane is free, or
# taken and waiting for its plan. `due` is never later than the earliest `valid_until`; it may be earlier, then
# `service` finds nothing to do.
#
# Nothing is pulled beyond position + capacity, so a frame is never overwritten before it is heard. A lane that is free
# or waiting contains zeros, so mixing it is harmless.
class LanePool:
    """Some lanes of one channel layout. `data` has the shape (lanes, capacity × channels)."""

    def __init__(self, positions: Positions, capacity: Frames) -> None:
        self.positions = positions
        self.channels = len(positions)
        self.capacity = capacity
        self.lanes_max = max(1, POOL_BYTES // (capacity * self.channels * 4))
        self.data: Samples = np.zeros((1, capacity * self.channels), np.float32)
        self.owners: list[Stream | None] = [None]
        self.valid_until: list[Frames] = [FAR]
        self.real_until: list[Frames] = [0]
        self.due: Frames = FAR
        self._free = [0]
        self._shift: Frames = 0

    @property
    def taken(self) -> int:
        """How many streams have a lane here."""
        return len(self.owners) - len(self._free)

    @property
    def empty(self) -> bool:
        """No stream has a lane here."""
        return not self.taken

    @property
    def full(self) -> bool:
        """There is no room for another stream."""
        return self.taken == self.lanes_max

    def holds(self, stream: Stream) -> bool:
        """Whether `stream` has its lane here."""
        return 0 <= stream.lane < len(self.owners) and self.owners[stream.lane] is stream

    def at(self, position: Frames) -> int:
        """The column of a position."""
        return (position + self._shift) % self.capacity

    def add(self, stream: Stream) -> None:
        """Give `stream` a lane, which waits to begin."""
        if not self._free:
            self._grow()
        # The lowest one: a sink mixes all lanes from its first to its last in one product, so they should lie close
        # together.
        stream.lane = lane = heapq.heappop(self._free)
        self.owners[lane] = stream
        self.valid_until[lane] = FAR

    def waits(self, lane: int) -> bool:
        """Whether the lane is taken and has not begun yet."""
        return self.owners[lane] is not None and self.valid_until[lane] == FAR

    def begin(self, lane: int, stream: Stream, position: Frames) -> None:
        """Start a waiting lane at `position`, if it still belongs to `stream`."""
        if self.owners[lane] is not stream:
            return
        self.valid_until[lane] = self.real_until[lane] = position
        if stream.stash is not None:
            stash, stream.stash = stream.stash, None
            self._write(lane, position, stash)
            self.valid_until[lane] = self.real_until[lane] = position + len(stash)
        self.due = min(self.due, self.valid_until[lane])

    def _grow(self) -> None:
        lanes = len(self.owners)
        more = min(lanes * 2, self.lanes_max) - lanes
        assert more > 0
        wider = np.zeros((lanes + more, self.data.shape[1]), np.float32)
        wider[:lanes] = self.data
        self.data = wider
        self.owners += [None] * more
        self.valid_until += [FAR] * more
        self.real_until += [0] * more
        self._free = list(range(lanes, lanes + more))

    def remove(self, stream: Stream, position: Frames, keep: bool) -> None:
        """Take the lane back and silence it; with `keep`, frames not yet heard go to the stream's stash."""
        lane, stream.lane = stream.lane, -1
        ahead = self.real_until[lane] - position
        if not keep:
            stream.stash = None
        # A lane that still waits has not taken over its stream's stash, which stays as it is.
        elif not self.waits(lane):
            stream.stash = self._read(lane, position, ahead) if ahead > 0 else None
        self.owners[lane] = None
        self.valid_until[lane] = FAR
        self.data[lane] = 0.0
        heapq.heappush(self._free, lane)

    def ahead(self, stream: Stream, position: Frames) -> Frames:
        """Frames pulled from `stream` and not heard at `position`."""
        lane = stream.lane
        if self.valid_until[lane] == FAR:
            # It waits: see `waits`.
            return 0 if stream.stash is None else len(stream.stash)
        ahead = self.real_until[lane] - position
        return ahead if ahead > 0 else 0

    def discard(self, stream: Stream, position: Frames) -> None:
        """Discard what was pulled and not yet heard."""
        lane = stream.lane
        if self.waits(lane):
            return
        self.valid_until[lane] = self.real_until[lane] = position
        self.due = min(self.due, position)

    def jump(self, before: Frames, after: Frames) -> None:
        """Move the pending frames: what was due from position `before` on is due from `after` on."""
        # The frames stay where they are in memory; only the column that a position maps to changes.
        self._shift += before - after
        for lane, owner in enumerate(self.owners):
            if owner is not None and not self.waits(lane):
                # Silence that stood in belonged to the time before the jump, and is not taken along.
                until = max(after, self.real_until[lane] + after - before)
                self.valid_until[lane] = self.real_until[lane] = until
        self.due = min(self.valid_until)

    def service(self, position: Frames, frames: Frames, failed: Callable[[Stream, Exception], None]) -> Iterator[None]:
        """Make every lane valid for [position, position + frames), one per step.

        `failed` is called for a stream whose feed raises, and must take its lane away.
        """
        end = position + frames
        for lane in [lane for lane, until in enumerate(self.valid_until) if until < end]:
            # The stream may have ended while another lane was refilled.
            if self.valid_until[lane] < end:
                stream = self.owners[lane]
                assert stream is not None
                try:
                    self._refill(lane, stream, position, end)
                except Exception as error:
                    failed(stream, error)
                yield
        self.due = min(self.valid_until)

    def _refill(self, lane: int, stream: Stream, position: Frames, end: Frames) -> None:
        have = max(self.valid_until[lane], position)
        goal = max(end, min(position + stream.bulk_frames, position + self.capacity))
        pulled_to = self._pull(stream, lane, have, goal)
        if pulled_to > have:
            self.real_until[lane] = pulled_to
        # Missing frames are written as silence, so the lane is valid for the whole cycle and mixing needs no special
        # case. `real_until` remembers where the client's own frames end: only those are kept over a pause.
        if pulled_to < end:
            stream.feed.short(end - pulled_to, self.real_until[lane] <= position)
            # `short` may have paused or ended the stream, and freed its lane.
            if self.owners[lane] is not stream:
                return
            self._write(lane, pulled_to, np.zeros((end - pulled_to, self.channels), np.float32))
            pulled_to = end
        self.valid_until[lane] = pulled_to

    # A feed may do much in `pull`, but not start a stream: the pool could grow, and `row` would be a view of the array
    # that it had before. `short` may, since nothing is kept across that call.
    def _pull(self, stream: Stream, lane: int, start: Frames, goal: Frames) -> Frames:
        row = self.data[lane].reshape(self.capacity, self.channels)
        while start < goal:
            at = (start + self._shift) % self.capacity
            view = row[at : min(at + goal - start, self.capacity)]
            got = stream.feed.pull(view)
            start += got
            if got < len(view):
                break
        return start

    def _write(self, lane: int, position: Frames, block: Samples) -> None:
        row = self.data[lane].reshape(self.capacity, self.channels)
        at = self.at(position)
        head = min(len(block), self.capacity - at)
        row[at : at + head] = block[:head]
        row[: len(block) - head] = block[head:]

    def _read(self, lane: int, position: Frames, frames: Frames) -> Samples:
        row = self.data[lane].reshape(self.capacity, self.channels)
        at = self.at(position)
        # Not take(mode="wrap"): it would go round the ring once for every wrap of the position since the host started.
        return np.concatenate((row[at : at + frames], row[: max(0, at + frames - self.capacity)]))


class Lanes:
    """All lanes of one graph, in pools."""

    def __init__(self, capacity: Frames, capacity_short: Frames) -> None:
        self.pools: list[LanePool] = []
        self.capacity, self.capacity_short = capacity, capacity_short
        self._of: dict[int, LanePool] = {}

    def __len__(self) -> int:
        return len(self._of)

    def streams(self) -> list[Stream]:
        """Those that have a lane, in the order of the lanes."""
        return [stream for pool in self.pools for stream in pool.owners if stream is not None]

    def add(self, stream: Stream) -> None:
        """Give `stream` a lane, which waits until a plan mixes it."""
        pool = self._roomy(stream)
        pool.add(stream)
        self._of[stream.id] = pool

    def _roomy(self, stream: Stream) -> LanePool:
        """A pool of the stream's layout with room for it and for its stash."""
        pulled = 0 if stream.stash is None else len(stream.stash)
        capacity = self.capacity if pulled > self.capacity_short or self._wide(stream) else self.capacity_short
        for pool in self.pools:
            if pool.positions == stream.positions and pool.capacity == capacity and not pool.full:
                return pool
        pool = LanePool(stream.positions, capacity)
        self.pools.append(pool)
        return pool

    def _wide(self, stream: Stream) -> bool:
        """Whether the stream may be pulled far ahead. Its short lane was charged when the stream was admitted."""
        more = (self.capacity - self.capacity_short) * len(stream.positions) * 4
        return len(self._of) < WIDE_LANES and stream.account.fits("lane", more)

    def remove(self, stream: Stream, position: Frames, keep: bool) -> None:
        """Take the lane back and silence it; with `keep`, frames not yet heard go to the stream's stash."""
        pool = self._of.pop(stream.id)
        pool.remove(stream, position, keep)
        # A stash longer than a short lane came from a wide one and still takes its room: it goes on being paid for.
        if stream.stash is None or len(stream.stash) <= self.capacity_short:
            stream.account.hold("lane", 0)
        if pool.empty and len(self.pools) > 1:
            self.pools.remove(pool)

    def ahead(self, stream: Stream, position: Frames) -> Frames:
        """Frames pulled from `stream` and not heard at `position`."""
        return self._of[stream.id].ahead(stream, position)

    def discard(self, stream: Stream, position: Frames) -> None:
        """Discard what was pulled and not yet heard, also if the stream has no lane now."""
        stream.stash = None
        if (pool := self._of.get(stream.id)) is not None:
            pool.discard(stream, position)
        else:
            # A long stash went on taking the room of the wide lane that it came from.
            stream.account.hold("lane", 0)

    def jump(self, before: Frames, after: Frames) -> None:
        """Move the pending frames: what was due from position `before` on is due from `after` on."""
        for pool in self.pools:
            pool.jump(before, after)
