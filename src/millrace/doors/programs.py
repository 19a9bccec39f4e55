"""The interface of every door for a guest's own programs. What a door does not have keeps its default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from millrace.doors.ingress import Program
from millrace.graph.model import Sink


class ProgramDoor:
    """A door that lasts as long as its guest."""

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
