"""The stream buffer: bytes with a read index and a seekable write index (pulsecore/memblockq.c).

Indices are absolute byte counts since the stream began. The store is a ring that grows with what is really
queued, up to `maxlength`. Gaps that were never written to read as silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from millrace.dsp.convert import Buffer
from millrace.wire.pulse.constants import Seek

_CAPACITY_MIN = 16 * 1024
INDEX_MAX = 1 << 62
"""Seeks end here: the protocol has positions of 64 bits."""


def capacity_for(size: int) -> int:
    """The size of the store for a queue of `size` bytes."""
    return max(_CAPACITY_MIN, 1 << (size - 1).bit_length()) if size > 0 else 0


def _never(size: int) -> bool:
    return False


@dataclass(slots=True)
class QueueState:
    """A queue as a value. `high` is where what was written ends, and `data` what is queued up to there."""

    maxlength: int
    read_index: int = 0
    write_index: int = 0
    high: int = 0
    data: bytes = b""


# Three indices. `read_index` only grows. `_high` is the end of what has been written, or passed over by reading; the
# bytes from `read_index` to `_high` are in the store. `write_index` is where the client writes next: it may be moved
# anywhere, below `read_index` (what is written there is too late and dropped) or beyond `_high` (the gap becomes
# silence). So `length` is not how much is stored, and may be 0 while bytes before `_high` wait. An index advances
# even for bytes that are dropped, since the client counts them as sent.
class ByteQueue:
    """Queued bytes of one stream. `may_hold` decides whether the store may have this size from now on.

    It starts with a new `state`, or continues from that of another queue, whose store it may have.
    """

    def __init__(self, state: QueueState, silence: int, may_hold: Callable[[int], bool] = lambda size: True) -> None:
        self.maxlength = state.maxlength
        self._may_hold = may_hold
        self.read_index = state.read_index
        self.write_index = state.write_index
        self._high = state.high
        self._silence = silence
        # A memoryview: assigning to a slice of a bytearray would copy twice.
        self._data = memoryview(bytearray(capacity_for(len(state.data))))
        if state.data:
            self._store(state.read_index, memoryview(state.data))

    def freeze(self) -> QueueState:
        """Its state, from which another can continue."""
        queued = b"".join(self._views(max(0, self._high - self.read_index)))
        return QueueState(self.maxlength, self.read_index, self.write_index, self._high, queued)

    def close(self) -> None:
        """Drop everything for good, including the reference to the owner, so no cycle is left for the collector."""
        self.flush()
        self._may_hold = _never

    @property
    def capacity(self) -> int:
        """Size of the store in bytes."""
        return len(self._data)

    @property
    def length(self) -> int:
        """Bytes from the read to the write index."""
        length = self.write_index - self.read_index
        return length if length > 0 else 0

    def begin_at(self, index: int) -> None:
        """Count from `index` instead of 0; nothing has been written yet."""
        self.read_index = self.write_index = self._high = index

    def seek(self, mode: int, offset: int) -> None:
        """Move the write index, as far as positions of 64 bits go."""
        base = {
            Seek.RELATIVE: self.write_index,
            Seek.ABSOLUTE: 0,
            Seek.RELATIVE_ON_READ: self.read_index,
            Seek.RELATIVE_END: self._high,
        }[Seek(mode)]
        self.write_index = max(-INDEX_MAX, min(INDEX_MAX, base + offset))

    def write(self, data: Buffer) -> bool:
        """Write `data` at the write index and advance it; False if it did not fit and was dropped.

        The write index advances even if the data is dropped. Data before the read index is too late, and is dropped
        silently.
        """
        view, start = memoryview(data), self.write_index
        self.write_index = end = start + len(view)
        if end - self.read_index > self.maxlength:
            return False
        if start < self.read_index:
            view = view[self.read_index - start :]
            start = self.read_index
        if start >= end:
            return True
        if not self._reserve(end - self.read_index):
            return False
        if start > self._high:
            self._fill_hole(start)
        self._store(start, view)
        if end > self._high:
            self._high = end
        return True

    def _reserve(self, needed: int) -> bool:
        if needed <= len(self._data):
            return True
        capacity = capacity_for(needed)
        if not self._may_hold(capacity):
            return False
        kept = b"".join(self._views(max(0, self._high - self.read_index)))
        self._data = memoryview(bytearray(capacity))
        self._store(self.read_index, memoryview(kept))
        return True

    def _fill_hole(self, start: int) -> None:
        """Fill the gap up to a write that starts beyond the end with silence."""
        begin = max(self._high, self.read_index)
        if start > begin:
            self._store(begin, memoryview(bytes((self._silence,)) * (start - begin)))

    def _store(self, index: int, view: memoryview) -> None:
        size, at = len(view), index % len(self._data)
        head = len(self._data) - at
        if size <= head:
            self._data[at : at + size] = view
        else:
            self._data[at:] = view[:head]
            self._data[: size - head] = view[head:]

    def _views(self, size: int) -> list[memoryview]:
        if size == 0:
            return []
        at = self.read_index % len(self._data)
        head = self._data[at : at + size]
        return [head] if len(head) == size else [head, self._data[: size - len(head)]]

    def peek(self, size: int) -> list[memoryview]:
        """Views of the next `size` queued bytes (at most `length`), with silence for unwritten parts."""
        real = self._high - self.read_index
        if real >= size:
            return self._views(size)
        real = max(0, real)
        return [*self._views(real), memoryview(bytes((self._silence,)) * (size - real))]

    def advance(self, size: int) -> None:
        """Move the read index."""
        self.read_index += size
        if self.read_index > self._high:
            self._high = self.read_index

    def flush(self) -> None:
        """Drop everything queued."""
        self.write_index = self._high = self.read_index
        self._data = memoryview(bytearray())
        self._may_hold(0)
