"""What a listener's session and a machine know of the guest that they are in."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from millrace.doors.admission import Admission
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.guest.config import GuestConfig
from millrace.io.turns import Turns
from millrace.outlets.peer import Subscribers
from millrace.symptoms import Report


class MachineView(msgspec.Struct, frozen=True):
    """What is shown of a machine. `reads` is only of QEMU: how often it has taken what is recorded."""

    id: str
    door: str
    state: str
    error: str
    machine: str
    sessions: int
    recording: bool
    hint: str
    reads: int | UnsetType = UNSET


class Machine(Protocol):
    """A machine that a guest looks for, or has."""

    id: int

    @property
    def key(self) -> str:
        """The name users and the API use."""
        ...

    def view(self) -> MachineView:
        """What `ls` shows."""
        ...

    async def stop(self) -> None:
        """Let go of the machine."""
        ...


class Home(Protocol):
    """A guest, as its members see it."""

    name: str
    config: GuestConfig
    admission: Admission
    graph: Graph
    outlets: Subscribers
    microphone: Sink
    turns: Turns
    report: Report

    @property
    def recording(self) -> bool:
        """Whether anything in the guest records the microphone."""
        ...

    def latency_changed(self) -> None:
        """A listener's latency is another now."""
        ...

    def machine_changed(self, change: str, machine: Machine) -> None:
        """A machine is new, has changed or is let go: new, change, remove."""
        ...
