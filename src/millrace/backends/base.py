"""What a listener plays on. Two shapes: outputs with a clock of their own pull; files take what comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.dsp.convert import Samples
from millrace.errors import OutputLost
from millrace.units import Frames, HostNs, Positions

Pull = Callable[[Samples], None]
"""Fills (frames, channels) float32 with the sound to play now. Called from the output's own thread."""


class OutputWatch(Protocol):
    """Who hears what becomes of an output. Called from the output's own thread."""

    def output_ended(self, why: OutputLost | None) -> None:
        """It can't go on, and why; None where its reader has ended."""
        ...

    def device_lost(self, at_ns: HostNs) -> None:
        """Its device went then, and it looks for it."""
        ...

    def device_back(self) -> None:
        """It has found one."""
        ...


class Unwatched:
    """Nobody."""

    def output_ended(self, why: OutputLost | None) -> None:
        """See `OutputWatch`."""

    def device_lost(self, at_ns: HostNs) -> None:
        """See `OutputWatch`."""

    def device_back(self) -> None:
        """See `OutputWatch`."""


class ClockedOutput(Protocol):
    """A sound card, or something that keeps time as one does."""

    name: str

    def start(self, rate: int, positions: Positions, pull: Pull, watch: OutputWatch) -> HostNs:
        """Begin to pull; returns the output's own latency. ConfigError where it can't be opened."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class FileOutput(Protocol):
    """Follows the daemon's own clock: frame n of the file is media position base + n."""

    name: str

    def open(self, rate: int, positions: Positions) -> None:
        """Begin, or go on in the same format; ConfigError where that can't be."""
        ...

    def write(self, block: Samples) -> None:
        """Append (frames, channels); OutputLost where the file takes no more, and it is finished then."""
        ...

    def skip(self, frames: Frames) -> None:
        """Append silence."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...
