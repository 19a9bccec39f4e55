"""What the door knows of its clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from millrace.doors.pulse.record import RecordStream
from millrace.rights.grants import Subject
from millrace.units import HostNs
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Props


class Recorder(Protocol):
    """Who wants to record: a client, or who loaded a module."""

    subject: Subject


class Client(Recorder, Protocol):
    """A connection of a PulseAudio client."""

    index: int
    props: Props
    closing: bool
    wake: Callable[[], None]
    now_ns: HostNs
    extensions: set[str]

    @property
    def version(self) -> int:
        """Of the protocol, that it speaks."""
        ...

    @property
    def recording(self) -> Mapping[int, RecordStream]:
        """Its recorders."""
        ...

    @property
    def name(self) -> str:
        """What the program calls itself."""
        ...

    def notice(self, command: Command, **fields: Any) -> None:
        """Tell it something that it has not asked for."""
        ...
