"""What was rendered of a stream: how long it has sounded without a break, or how long it has been silent.

A client tells its own clock by this (pulse/stream.c): the clock stands while the stream does not play, and when it
plays, the time until the first frame is heard is the latency less what has sounded since. So both counters run on
frames that were really rendered, silence included, and never on intentions.
"""

from __future__ import annotations

from millrace.units import Frames

NEVER = (1 << 64) - 1
"""`underrun_for` of a stream that has not begun."""


class Rendered:
    """Counts bytes taken from a stream's queue, and since which position there was nothing to take."""

    def __init__(self) -> None:
        self.playing_for = 0
        """Bytes taken since the last break."""
        self.silent = True
        """Whether nothing has been rendered yet, or not since the last break."""
        self._silent_from: Frames | None = None
        self._begun = False

    def restart(self) -> None:
        """The stream was paused: what comes next is a beginning."""
        self.playing_for = 0
        self._begun, self.silent = False, True

    def taken(self, size: int) -> bool:
        """`size` bytes were rendered; True where that ended a silence."""
        self.playing_for += size
        if not self.silent:
            return False
        self._begun, self._silent_from, self.silent = True, None, False
        return True

    def broke_off(self, position: Frames) -> None:
        """There is nothing to render from `position` on."""
        self.playing_for = 0
        if self._begun and self._silent_from is None:
            self._silent_from, self.silent = position, True

    def underrun_frames(self, position: Frames) -> Frames | None:
        """Frames of silence rendered by `position`, at the graph's rate; None where nothing was ever rendered."""
        if not self._begun:
            return None
        return 0 if self._silent_from is None else max(0, position - self._silent_from)
