"""What the door knows of its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from millrace.doors.pulse.devices import Devices, DeviceUpdate
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.restore import Rules, RuleUpdate
from millrace.rights.grants import Subject
from millrace.units import HostNs
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Props


class Recorder(Protocol):
    """What wants to record: a client, or the client that loaded a module."""

    subject: Subject


class Host(Protocol):
    """What a guest does for its door."""

    def client_changed(self, change: str, client: Client) -> None:
        """A client is new, has changed or is gone: new, change, remove."""
        ...

    def module_failed(self, module: str, why: str) -> None:
        """A module could not be loaded."""
        ...

    def module_idle(self, module: str, why: str) -> None:
        """A module was loaded with an argument that changes nothing."""
        ...

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `InTurns`."""
        ...


class Memory(Protocol):
    """What outlives the daemon: it is kept first, and in force then."""

    def keep_rules(self, table: Rules) -> Callable[[RuleUpdate], None]:
        """See `restore.Keep`."""
        ...

    def keep_devices(self, table: Devices) -> Callable[[DeviceUpdate], None]:
        """See `devices.Keep`."""
        ...


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
