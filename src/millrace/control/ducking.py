"""Ducking: streams that connections attenuate for as long as they last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from millrace.graph.graph import Graph
from millrace.graph.model import Stream


# An attenuation belongs to the connection that asked for it and ends with it, so a session manager that crashes
# leaves nothing quiet. It is a factor of its own (`trim`), apart from the volume that users set and that is
# remembered. It is kept with the stream (`ducked`), and so ends with that as well.
class Ducking:
    """Attenuations by connection and stream. Where several apply to one stream, the strongest wins."""

    def __init__(self, graphs: Callable[[], Iterable[Graph]]) -> None:
        self._graphs = graphs
        self._who: set[object] = set()
        """Connections that have ducked something."""

    def duck(self, who: object, graph: Graph, stream: Stream, db: float) -> None:
        """Attenuate a stream by `db` (negative); 0 releases it."""
        self._attenuate(who, graph, stream, 10 ** (db / 20) if db else None)

    def of(self, who: object) -> dict[int, float]:
        """A connection's attenuations: linear gain by stream number."""
        return {stream.id: stream.ducked[who] for _, stream in self._ducked_by(who)}

    def resume(self, who: object, trims: Mapping[int, float]) -> None:
        """Restore a connection's attenuations after it moved here, for the streams that still exist."""
        for graph in self._graphs():
            for id_ in trims.keys() & graph.streams.keys():
                self._attenuate(who, graph, graph.streams[id_], trims[id_])

    def release(self, who: object) -> None:
        """A connection has closed: drop its attenuations; those of others remain."""
        for graph, stream in self._ducked_by(who):
            self._attenuate(who, graph, stream, None)
        self._who.discard(who)

    def _ducked_by(self, who: object) -> list[tuple[Graph, Stream]]:
        if who not in self._who:
            return []
        return [(graph, one) for graph in self._graphs() for one in graph.streams.values() if who in one.ducked]

    def _attenuate(self, who: object, graph: Graph, stream: Stream, trim: float | None) -> None:
        if trim is None:
            stream.ducked.pop(who, None)
        else:
            self._who.add(who)
            stream.ducked[who] = trim
        graph.set_trim(stream, min(stream.ducked.values(), default=1.0))
