"""What every door to a machine looks like, whatever protocol the machine's sound comes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millrace.doors.pushed import PushedStream
from millrace.units import HostNs


class MachineDoor(Protocol):
    """What one session with a machine has in its guest's graph: what the machine plays, or records.

    It is given its wire. Whoever runs that calls `receive` when something has come, and `close` at the end.
    """

    @property
    def streams(self) -> Sequence[PushedStream]:
        """What the machine plays."""
        ...

    @property
    def recording(self) -> bool:
        """Whether the machine records."""
        ...

    def receive(self, now_ns: HostNs) -> None:
        """Take what has come by the wire; RemoteProtocolError or GraphError ends the session."""
        ...

    def close(self) -> None:
        """The session has ended: its streams and recorders go."""
        ...


class PlayingDoor:
    """One by which nothing is recorded."""

    recording = False


class RecordingDoor:
    """One by which nothing is played."""

    streams: Sequence[PushedStream] = ()
