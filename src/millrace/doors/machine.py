"""The common interface of all doors to machines, whatever the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millrace.doors.pushed import PushedStream
from millrace.units import HostNs


class MachineDoor(Protocol):
    """One session's part in its guest's graph: the sound that the machine plays, or that it records.

    The door is given its wire. The code that runs the wire calls `receive` when data has arrived, and `close` at the
    end.
    """

    @property
    def streams(self) -> Sequence[PushedStream]:
        """The machine's playback streams."""
        ...

    @property
    def recording(self) -> bool:
        """Whether the machine is recording."""
        ...

    def receive(self, now_ns: HostNs) -> None:
        """Process what the wire has received; RemoteProtocolError or GraphError ends the session."""
        ...

    def close(self) -> None:
        """The session has ended: remove its streams and recorders."""
        ...


class PlayingDoor:
    """A door that only plays."""

    recording = False


class RecordingDoor:
    """A door that only records."""

    streams: Sequence[PushedStream] = ()
