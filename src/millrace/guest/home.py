"""What a listener's session and a machine know of the guest that they are in."""

from __future__ import annotations

from typing import Any, Protocol

from millrace.doors.admission import Admission
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.guest.config import GuestConfig
from millrace.io.turns import Turns
from millrace.outlets.peer import Subscribers
from millrace.symptoms import Report


class Machine(Protocol):
    """A machine that a guest looks for, or has."""

    id: int

    @property
    def key(self) -> str:
        """The name users and the API use."""
        ...

    def view(self) -> dict[str, Any]:
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
