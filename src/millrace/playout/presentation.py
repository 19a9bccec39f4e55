"""When pictures are shown: the newest one that is not later than the sound being heard; without sound, at once."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from millrace.units import NS_PER_MS, HostNs, MediaNs

T = TypeVar("T")

HOLD_MAX_NS: HostNs = 700 * NS_PER_MS
"""No picture waits longer for its sound."""
WAITING_BYTES_MAX = 64 * 1024 * 1024
"""What may wait; beyond that the oldest are shown early."""


class Waiting(Generic[T]):
    """A picture that waits for its sound."""

    __slots__ = ("arrived_ns", "painted_ns", "picture", "size")

    def __init__(self, picture: T, painted_ns: MediaNs, arrived_ns: HostNs, size: int) -> None:
        self.picture, self.painted_ns, self.arrived_ns, self.size = picture, painted_ns, arrived_ns, size


# Each picture builds on the one before, so none is left out: those that are late are applied together and drawn once.
class Presentation(Generic[T]):
    """Pictures in order, until it is time. `lead_ns` is how long drawing takes: so much earlier they are due."""

    def __init__(self, lead_ns: HostNs = 0) -> None:
        self.lead_ns = lead_ns
        self._waiting: deque[Waiting[T]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, picture: T, painted_ns: MediaNs, now_ns: HostNs, size: int = 0) -> None:
        """A picture has arrived; `painted_ns` is on the clock of the sound's capture times."""
        self._waiting.append(Waiting(picture, painted_ns, now_ns, size))
        self._bytes += size

    def clear(self) -> None:
        """Forget those that wait."""
        self._waiting.clear()
        self._bytes = 0

    def due(self, now_ns: HostNs, heard_ns: MediaNs | None) -> list[Waiting[T]]:
        """Take those that are due, oldest first. The last one is to be drawn."""
        out = []
        while self._waiting and self._is_due(now_ns, heard_ns):
            first = self._waiting.popleft()
            self._bytes -= first.size
            out.append(first)
        return out

    def _is_due(self, now_ns: HostNs, heard_ns: MediaNs | None) -> bool:
        return self._bytes > WAITING_BYTES_MAX or self._due_ns(now_ns, heard_ns) <= now_ns

    def _due_ns(self, now_ns: HostNs, heard_ns: MediaNs | None) -> HostNs:
        first = self._waiting[0]
        if heard_ns is None:
            return first.arrived_ns
        return min(now_ns + first.painted_ns - heard_ns - self.lead_ns, first.arrived_ns + HOLD_MAX_NS)

    def next_timeout(self, now_ns: HostNs, heard_ns: MediaNs | None) -> HostNs | None:
        """When the oldest is due; None if none waits."""
        return self._due_ns(now_ns, heard_ns) if self._waiting else None
