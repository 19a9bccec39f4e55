"""The ring buffer in shared memory through which a stream's sound moves without passing through the socket.

It consists of one page of 64-bit words in native byte order, each in a cache line of its own, then `capacity` frames. A
position counts frames since the stream began; only the side that owns it advances it. But either side can write
anything into the memory at any time. So each side keeps its own position privately, checks the other's position
whenever it reads it, and copies data before relying on it.
"""

from __future__ import annotations

from mmap import mmap

from millrace.units import Frames

PAGE = 4096
_WRITTEN, _READ, _WRITER_WAITS, _READER_WAITS, _LATENCY = 8, 16, 24, 32, 40


def ring_bytes(capacity: Frames, frame_bytes: int) -> int:
    """The memory that a ring buffer takes, in whole pages."""
    return PAGE + -(-capacity * frame_bytes // PAGE) * PAGE


# Neither side blocks on the other, and no wake-up is sent while both are busy. A side that finds nothing to do sets its
# `waits` word, looks at the other's position once more, and only then sleeps. The other side advances its position
# first and looks at the word afterwards; if it is set, it clears it and wakes. So one of the two always sees what the
# other did, provided that a store takes effect before the load after it (in C, a full barrier). Looking before setting
# the word would leave a moment in which a wake-up is lost for good.
#
# The words are native 64-bit integers, aligned, so each is read and written whole. A position is published after the
# frames were copied, by the writer so that the reader never finds old frames, by the reader so that they are not
# overwritten under it.
class Ring:
    """A view of the shared memory. It treats frames as opaque bytes."""

    def __init__(self, memory: mmap, capacity: Frames, frame_bytes: int) -> None:
        self.capacity, self.frame_bytes = capacity, frame_bytes
        self._whole = memoryview(memory)
        self._words = self._whole[:PAGE].cast("Q")
        self._data = self._whole[PAGE : PAGE + capacity * frame_bytes]

    def close(self) -> None:
        """Release the memory."""
        self._data.release()
        self._words.release()
        self._whole.release()

    @property
    def written(self) -> Frames:
        """Frames written so far, according to the writer."""
        return self._words[_WRITTEN]

    @written.setter
    def written(self, position: Frames) -> None:
        self._words[_WRITTEN] = position

    @property
    def read(self) -> Frames:
        """Frames read so far, according to the reader."""
        return self._words[_READ]

    @read.setter
    def read(self, position: Frames) -> None:
        self._words[_READ] = position

    @property
    def writer_waits(self) -> bool:
        """Whether the writer wants to be woken when there is room."""
        return bool(self._words[_WRITER_WAITS])

    @writer_waits.setter
    def writer_waits(self, waits: bool) -> None:
        self._words[_WRITER_WAITS] = waits

    @property
    def reader_waits(self) -> bool:
        """Whether the reader wants to be woken when there is data."""
        return bool(self._words[_READER_WAITS])

    @reader_waits.setter
    def reader_waits(self, waits: bool) -> None:
        self._words[_READER_WAITS] = waits

    @property
    def latency_ns(self) -> int:
        """The delay from the ring to the slowest listener's ear, according to the daemon."""
        return self._words[_LATENCY]

    @latency_ns.setter
    def latency_ns(self, value: int) -> None:
        self._words[_LATENCY] = value

    # The callers make sure of `frames`: it comes from positions that they have checked.
    def views(self, position: Frames, frames: Frames) -> tuple[memoryview, ...]:
        """The bytes of [position, position + frames), in one or two pieces; `frames` is at most `capacity`."""
        at = position % self.capacity
        head = min(frames, self.capacity - at)
        size = self.frame_bytes
        first = self._data[at * size : (at + head) * size]
        return (first,) if head == frames else (first, self._data[: (frames - head) * size])

    def put(self, position: Frames, data: memoryview) -> None:
        """Write whole frames at `position`."""
        offset = 0
        for view in self.views(position, len(data) // self.frame_bytes):
            view[:] = data[offset : offset + len(view)]
            offset += len(view)
