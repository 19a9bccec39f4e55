"""Puts packets back in order, for networks and proxies that do not preserve it."""

from __future__ import annotations

from millrace.media.audio import AudioPacket

HELD_MAX = 64
HELD_BYTES_MAX = 4 * 1024 * 1024
_WRAP = 1 << 32


# At most 64 packets or 4 MiB are held; beyond that the oldest gap is given up. How long to wait otherwise is up to the
# player (`release`), because it depends on how much there is left to play.
#
# `_next` is the number after the last one handed out. It never goes back, so packets are handed out in order, and each
# at most once.
class Reorder:
    """Holds packets that arrived early, until it is their turn or the player can't wait any longer."""

    def __init__(self) -> None:
        self._held: dict[int, AudioPacket] = {}
        self._bytes = 0
        self._next: int | None = None

    def add(self, packet: AudioPacket) -> list[AudioPacket]:
        """The packets that can be decoded now that `packet` has arrived, in order."""
        if self._next is None:
            self._next = packet.sequence
        # Sequence numbers wrap around: half the range ahead of `_next` is the future, the other half the past.
        ahead = (packet.sequence - self._next) % _WRAP
        if ahead >= _WRAP // 2 or packet.sequence in self._held:
            # Too late, or a duplicate.
            return []
        self._held[packet.sequence] = packet
        self._bytes += len(packet.payload)
        if len(self._held) > HELD_MAX or self._bytes > HELD_BYTES_MAX:
            return self.release()
        return self._run()

    def _run(self) -> list[AudioPacket]:
        out: list[AudioPacket] = []
        while self._next in self._held:
            packet = self._held.pop(self._next)
            self._bytes -= len(packet.payload)
            out.append(packet)
            self._next = (self._next + 1) % _WRAP
        return out

    @property
    def waiting(self) -> bool:
        """Packets are held back because one before them is missing."""
        return bool(self._held)

    def release(self) -> list[AudioPacket]:
        """Stop waiting: continue at the first packet held."""
        if self._held and self._next is not None:
            start = self._next
            self._next = min(self._held, key=lambda sequence: (sequence - start) % _WRAP)
        return self._run()

    def clear(self) -> None:
        """Start over: another stream follows."""
        self._held.clear()
        self._bytes = 0
        self._next = None
