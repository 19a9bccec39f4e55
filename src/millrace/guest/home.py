"""The interface of a guest that listener sessions and machines use."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from millrace.clock.allowance import Allowances
from millrace.doors.admission import Admission
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.graph.screens import Screens
from millrace.graph.tracks import Tracks
from millrace.guest.config import GuestConfig
from millrace.io.turns import Turns
from millrace.outlets.subscribers import Subscribers
from millrace.rights.model import Principal
from millrace.symptoms import Report


class MachineView(msgspec.Struct, frozen=True):
    """A machine as shown to clients. `reads`, only for QEMU, counts its reads of recorded sound.

    `kept`: the door is opened again when the daemon starts.
    """

    id: str
    door: str
    state: str
    error: str
    machine: str
    sessions: int
    recording: bool
    hint: str
    kept: bool = False
    reads: int | UnsetType = UNSET


class Machine(Protocol):
    """A machine of a guest: connected, or being looked for."""

    id: int

    @property
    def key(self) -> str:
        """Its name for users and the API."""
        ...

    def view(self) -> MachineView:
        """The machine as shown to clients."""
        ...

    def failed(self, error: Exception) -> None:
        """An error of the daemon in something that a viewer has asked for: it ends the session."""
        ...

    async def stop(self, why: str) -> None:
        """Disconnect from the machine and stop looking for it; viewers of its screens are told why."""
        ...


class Home(Protocol):
    """A guest, as seen by its members."""

    name: str
    config: GuestConfig
    admission: Admission
    graph: Graph
    screens: Screens
    tracks: Tracks
    outlets: Subscribers
    microphone: Sink
    turns: Turns
    report: Report
    troubles: Allowances
    """How many dropouts listeners may report, by principal."""

    machines: list[Machine]

    @property
    def recording(self) -> bool:
        """Whether anything in the guest records the microphone."""
        ...

    def has_listener(self, key: str, principal: Principal) -> bool:
        """Whether it has this listener, and that is the same principal's."""
        ...

    def make_room(self, kind: str, who: Principal, more: int) -> bool:
        """If there is no room for so many bytes more of a listener, others give something up, as far as is fair.

        Returns what `make_room` of guest/places.py does.
        """
        ...

    def latency_changed(self) -> None:
        """A listener's latency has changed."""
        ...

    def machine_changed(self, change: str, machine: Machine) -> None:
        """A machine was added, changed or removed: new, change, remove."""
        ...
