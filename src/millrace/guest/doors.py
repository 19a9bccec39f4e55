"""The table of a guest's doors for programs. A new door is one row here; `doors/programs.py` is its interface."""

from __future__ import annotations

from collections.abc import Iterator

from millrace.doors.native.door import NativeDoor
from millrace.doors.programs import ProgramDoor
from millrace.guest.pulse import Owner, PulseServer
from millrace.io.listeners import Listeners
from millrace.remembered.memory import Memory


class Doors:
    """The doors of one guest."""

    def __init__(self, guest: Owner, listeners: Listeners, memory: Memory | None, cookie: bytes | None) -> None:
        """`cookie` is that of PulseAudio, if the guest has one already."""
        self.pulse = PulseServer(guest, listeners, memory, cookie)
        self.native = NativeDoor(guest.graph)
        self.table: list[ProgramDoor] = [self.pulse, self.native]

    def __iter__(self) -> Iterator[ProgramDoor]:
        return iter(self.table)
