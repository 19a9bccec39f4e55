"""When a picture of a SPICE video was made."""

from __future__ import annotations

from millrace.units import NS_PER_MS, HostNs

JUMP_NS: HostNs = 1_000 * NS_PER_MS
"""A stamp that is off by more starts the mapping of times anew."""
_MODULO = 1 << 32


# The stamp's clock is the server's, and has another origin. The least delay that was seen is taken for the path's, so
# what varies above it (a queue, a stall) does not shift the picture against the sound.
class StampMap:
    """Maps a server's stamps (ms, modulo 2^32) to host time: arrival, less what the picture waited on its way."""

    def __init__(self) -> None:
        self._ms: int | None = None
        self._offset_ns: HostNs = 0
        self._newest_ns: HostNs = 0

    def host_ns(self, stamp_ms: int, arrived_ns: HostNs) -> HostNs:
        """The host time of a picture. It never goes back."""
        ahead = 0 if self._ms is None else (stamp_ms - self._ms + _MODULO // 2) % _MODULO - _MODULO // 2
        self._ms = (0 if self._ms is None else self._ms) + ahead if self._ms is not None else stamp_ms
        offset_ns = arrived_ns - self._ms * NS_PER_MS
        if not self._newest_ns or abs(offset_ns - self._offset_ns) > JUMP_NS:
            self._offset_ns = offset_ns
        self._offset_ns = min(self._offset_ns, offset_ns)
        self._newest_ns = max(self._newest_ns, self._ms * NS_PER_MS + self._offset_ns)
        return self._newest_ns
