"""The interface of every door for a guest's own programs. What a door does not have keeps its default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from millrace.doors.ingress import Program
from millrace.graph.model import Sink


class DoorState(msgspec.Struct):
    """A door with its connections, each in an encoding of its own, which carries a version if it needs one."""

    own: msgspec.Raw
    """What it holds for all its connections."""
    connections: list[msgspec.Raw] = []


class FrozenDoor(NamedTuple):
    """A door that is handed on, with what can't be put into a value."""

    state: DoorState
    fds: list[int]
    """The sockets of its connections, in the same order. Whoever has this owns them."""
    nodes: frozenset[int] = frozenset()
    """Its streams and recorders in the graph, which are kept for it."""


class ProgramDoor:
    """A door that lasts as long as its guest."""

    kind: str
    """One of each kind in a guest; a frozen one continues in the door of its kind."""

    @property
    def clients(self) -> Mapping[int, Program]:
        """Its connections by number, as shown to users."""
        return {}

    def open(self) -> None:
        """The guest is starting: open the door's sockets. ConfigError says what prevents it."""

    def close(self) -> None:
        """The guest is stopping: notify the connections and close them, accept no more, and remove files."""

    def mixes(self) -> Iterable[Sink]:
        """The sinks and sources that its programs made, which may end at any time."""
        return ()

    def made(self, id_: int) -> bool:
        """Whether the door itself made this stream or recorder, on behalf of a program."""
        return False

    async def settle(self) -> None:
        """The guest is about to be frozen: accept, take and send nothing more; return when nothing is on its way."""

    def freeze(self) -> FrozenDoor | None:
        """Return the settled door as a value; nothing is left in it. None if there is nothing to be kept."""
        return None

    def resume(self, frozen: FrozenDoor) -> None:
        """Continue from a frozen door of this kind. The graph has its nodes, which must have their feeds on return."""
