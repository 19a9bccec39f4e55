"""Interfaces of a listener's outputs. Outputs with a clock of their own pull; files are written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.codec.parameters import CodecParameters
from millrace.dsp.convert import Samples
from millrace.errors import OutputLost
from millrace.media.audio import AudioPacket
from millrace.units import Frames, HostNs, Positions

Pull = Callable[[Samples], None]
"""Fills (frames, channels) float32 with the sound to play now. Called from the output's own thread."""


class OutputWatch(Protocol):
    """Notified of an output's state changes, from the output's own thread."""

    def output_ended(self, why: OutputLost | None) -> None:
        """The output has ended, with the reason; None if its reader closed the pipe."""
        ...

    def device_still(self, still: bool) -> None:
        """The device asks for nothing, though it is there as far as is known; or it asks again."""
        ...

    def device_lost(self, at_ns: HostNs, what: str) -> None:
        """The device was lost at `at_ns`; the output is looking for it. `what` follows its name: what is known."""
        ...

    def device_back(self) -> None:
        """The output plays on a device again."""
        ...


class Unwatched:
    """Ignores all notifications."""

    def output_ended(self, why: OutputLost | None) -> None:
        """See `OutputWatch`."""

    def device_still(self, still: bool) -> None:
        """See `OutputWatch`."""

    def device_lost(self, at_ns: HostNs, what: str) -> None:
        """See `OutputWatch`."""

    def device_back(self) -> None:
        """See `OutputWatch`."""


class ClockedOutput(Protocol):
    """A sound card, or an output that keeps time like one."""

    name: str

    def start(self, rate: int, positions: Positions, pull: Pull, watch: OutputWatch) -> HostNs:
        """Start pulling; return the output's own latency. ConfigError if it can't be opened."""
        ...

    def stop(self) -> None:
        """Stop the output."""
        ...


class FileOutput(Protocol):
    """Follows the daemon's own clock. Frame 0 is the moment at which the listener joined; pauses are silence."""

    name: str

    def open(self, rate: int, positions: Positions) -> None:
        """Open the file, or continue in the same format; ConfigError if neither is possible."""
        ...

    def write(self, block: Samples) -> None:
        """Append (frames, channels). OutputLost if the file can't be written any further; it has then been finished."""
        ...

    def skip(self, frames: Frames) -> None:
        """Append silence."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class PacketOutput(Protocol):
    """Takes a listener's packets as they come, undecoded."""

    name: str
    lost_packets: int
    played_frames: Frames

    def set_format(self, fmt: CodecParameters) -> None:
        """The following packets have this format; ConfigError if they can't be taken."""
        ...

    def push(self, packet: AudioPacket, now_ns: HostNs) -> None:
        """A packet has arrived."""
        ...

    def silence(self) -> None:
        """A pause follows."""
        ...

    def close(self) -> None:
        """There will be no more."""
        ...
