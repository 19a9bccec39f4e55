"""The native door of one guest: its streams and recorders, of all connections."""

from __future__ import annotations

from millrace.doors.native.playback import NativePlayback
from millrace.doors.native.record import NativeRecord
from millrace.doors.programs import ProgramDoor
from millrace.graph.graph import Graph
from millrace.graph.model import Node, Sink


class NativeDoor(ProgramDoor):
    """Passes the graph's changes on to its streams and recorders: their removal, and a sink that resumes.

    Its sockets are those of `server/native`, as commands come in by them too; they are also frozen there.
    """

    kind = "native"

    def __init__(self, graph: Graph) -> None:
        self.playback: dict[int, NativePlayback] = {}
        self.records: dict[int, NativeRecord] = {}
        graph.observers.append(self._graph_changed)

    def forget(self, id_: int) -> None:
        """Drop a stream or recorder that has ended."""
        self.playback.pop(id_, None)
        self.records.pop(id_, None)

    def _graph_changed(self, change: str, node: Node) -> None:
        gone = (self.playback.get(node.id) or self.records.get(node.id)) if change == "remove" else None
        if gone is not None:
            gone.removed()
        if change == "resume" and isinstance(node, Sink):
            for stream in self.playback.values():
                if not stream.node.active and stream.node.links and stream.node.sink is node:
                    stream.resume()
