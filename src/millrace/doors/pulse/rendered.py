"""Counts what has been rendered of a stream: how long it has played without a break, or how long it has been silent.

A client derives its clock from this (pulse/stream.c). The clock stands still while the stream does not play. When it
plays, the time until the first frame is heard is the latency minus what has been played since. So both counters must
count frames that were really rendered, silence included, and never frames that are merely scheduled.
"""

from __future__ import annotations

from millrace.units import Frames

NEVER = (1 << 64) - 1
"""`underrun_for` of a stream that has not started."""


class Rendered:
    """Counts the bytes taken from a stream's queue, and tracks the position at which it ran empty."""

    def __init__(self) -> None:
        self.playing_for = 0
        """Bytes taken since the last interruption."""
        self.silent = True
        """Whether nothing has been rendered, ever or since the last interruption."""
        self._silent_from: Frames | None = None
        self._begun = False

    def restart(self) -> None:
        """The stream was paused: what follows counts as a new start."""
        self.playing_for = 0
        self._begun, self.silent = False, True

    def taken(self, size: int) -> bool:
        """`size` bytes were rendered; True if that ended a silence."""
        self.playing_for += size
        if not self.silent:
            return False
        self._begun, self._silent_from, self.silent = True, None, False
        return True

    def broke_off(self, position: Frames) -> None:
        """There is nothing to render from `position` onwards."""
        self.playing_for = 0
        if self._begun and self._silent_from is None:
            self._silent_from, self.silent = position, True

    def underrun_frames(self, position: Frames) -> Frames | None:
        """Frames of silence rendered up to `position`, at the graph's rate; None if nothing was ever rendered."""
        if not self._begun:
            return None
        return 0 if self._silent_from is None else max(0, position - self._silent_from)
