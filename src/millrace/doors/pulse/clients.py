"""Interfaces between the door, its clients and its guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from millrace.doors.pulse.record import RecordStream
from millrace.rights.grants import Subject
from millrace.units import HostNs
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Props


class Recorder(Protocol):
    """The party that records: a client, or for a module the client that loaded it."""

    subject: Subject


class Host(Protocol):
    """What the door needs from its guest."""

    def client_changed(self, change: str, client: Client) -> None:
        """A client is new, has changed or has gone; `change` is new, change or remove."""
        ...

    def module_failed(self, module: str, why: str) -> None:
        """A module could not be loaded."""
        ...

    def module_idle(self, module: str, why: str) -> None:
        """A module was loaded with an argument that has no effect here."""
        ...

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `InTurns`."""
        ...


class Client(Recorder, Protocol):
    """A connection of a PulseAudio client."""

    index: int
    """The daemon's number of it."""
    props: Props
    closing: bool
    wake: Callable[[], None]
    now_ns: HostNs
    extensions: set[str]

    @property
    def client_index(self) -> int:
        """Its index in this guest, as PulseAudio clients know it."""
        ...

    @property
    def version(self) -> int:
        """The protocol version it speaks."""
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
        """Send an unsolicited message."""
        ...
