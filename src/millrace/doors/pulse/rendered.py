"""Counts what has been rendered of a stream: how long it has played without a break, or how long it has been silent.

A client derives its clock from this (pulse/stream.c). The clock stands still while the stream does not play. When it
plays, the time until the first frame is heard is the latency minus what has been played since. So both counters must
count frames that were really rendered, silence included, and never frames that are merely scheduled.
"""

from __future__ import annotations

from dataclasses import dataclass

from millrace.units import Frames

NEVER = (1 << 64) - 1
"""`underrun_for` of a stream that has not started."""


@dataclass(slots=True)
class Rendered:
    """Counts the bytes taken from a stream's queue, and tracks the position at which it ran empty. A plain value."""

    playing_for: int = 0
    """Bytes taken since the last interruption."""
    silent: bool = True
    """Whether nothing has been rendered, ever or since the last interruption."""
    silent_from: Frames | None = None
    begun: bool = False

    def restart(self) -> None:
        """The stream was paused: what follows counts as a new start."""
        self.playing_for = 0
        self.begun, self.silent = False, True

    def taken(self, size: int) -> bool:
        """`size` bytes were rendered; True if that ended a silence."""
        self.playing_for += size
        if not self.silent:
            return False
        self.begun, self.silent_from, self.silent = True, None, False
        return True

    def broke_off(self, position: Frames) -> None:
        """There is nothing to render from `position` onwards."""
        self.playing_for = 0
        if self.begun and self.silent_from is None:
            self.silent_from, self.silent = position, True

    def underrun_frames(self, position: Frames) -> Frames | None:
        """Frames of silence rendered up to `position`, at the graph's rate; None if nothing was ever rendered."""
        if not self.begun:
            return None
        return 0 if self.silent_from is None else max(0, position - self.silent_from)
