"""The table of a guest's doors for programs. A new door is one row here; `doors/programs.py` is its interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from millrace.doors.native.door import NativeDoor
from millrace.doors.programs import FrozenDoor, ProgramDoor
from millrace.errors import ConfigError
from millrace.guest.pulse import Owner, PulseServer
from millrace.io.descriptors import Descriptors
from millrace.io.listeners import Listeners
from millrace.remembered.memory import Memory
from millrace.text import quoted


class Doors:
    """The doors of one guest."""

    def __init__(self, guest: Owner, listeners: Listeners, memory: Memory | None) -> None:
        self.pulse = PulseServer(guest, listeners, memory)
        self.native = NativeDoor(guest.graph)
        self.table: list[ProgramDoor] = [self.pulse, self.native]

    async def settle(self) -> None:
        """See `ProgramDoor`: all at once."""
        await asyncio.gather(*(door.settle() for door in self.table))

    def freeze(self) -> dict[str, FrozenDoor]:
        """All that have something to be kept, by kind."""
        return {door.kind: frozen for door in self.table if (frozen := door.freeze()) is not None}

    def resume(self, frozen: Mapping[str, FrozenDoor]) -> None:
        """Continue from those of another guest, whose descriptors they take over; ConfigError if one is not here."""
        unknown = frozen.keys() - {door.kind for door in self.table}
        if unknown:
            with Descriptors(fd for door in frozen.values() for fd in door.fds):
                names = ", ".join(quoted(kind) for kind in sorted(unknown))
                raise ConfigError(
                    f"a guest was frozen with doors that this Millrace does not have: {names}; start the guest anew"
                )
        for door in self.table:
            if door.kind in frozen:
                door.resume(frozen[door.kind])

    def __iter__(self) -> Iterator[ProgramDoor]:
        return iter(self.table)
