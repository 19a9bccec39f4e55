"""Ducking: streams that connections attenuate for as long as they last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from millrace.graph.graph import Graph
from millrace.graph.model import Stream


# An attenuation belongs to the connection that asked for it and ends with it, so a session manager that crashes
# leaves nothing quiet. It is a factor of its own (`trim`), apart from the volume that users set and that is
# remembered.
class Ducking:
    """Attenuations by connection and stream. Where several apply to one stream, the strongest wins."""

    def __init__(self) -> None:
        self._trims: dict[object, dict[int, float]] = {}

    def duck(self, who: object, graph: Graph, stream: Stream, db: float) -> None:
        """Attenuate a stream by `db` (negative); 0 releases it."""
        own = self._trims.setdefault(who, {})
        own.pop(stream.id, None)
        if db:
            own[stream.id] = 10 ** (db / 20)
        self._apply(graph, stream)

    def of(self, who: object) -> dict[int, float]:
        """A connection's attenuations: linear gain by stream number."""
        return dict(self._trims.get(who, {}))

    def resume(self, who: object, trims: Mapping[int, float], graphs: Iterable[Graph]) -> None:
        """Restore a connection's attenuations after it moved here, for the streams that still exist."""
        there = {id_: (graph, graph.streams[id_]) for graph in graphs for id_ in trims.keys() & graph.streams.keys()}
        for id_, (graph, stream) in there.items():
            self._trims.setdefault(who, {})[id_] = trims[id_]
            self._apply(graph, stream)

    def release(self, who: object, graphs: Iterable[Graph]) -> None:
        """A connection has closed: drop its attenuations; those of others remain."""
        own = self._trims.pop(who, {})
        for graph in graphs:
            for id_ in own.keys() & graph.streams.keys():
                self._apply(graph, graph.streams[id_])

    def _apply(self, graph: Graph, stream: Stream) -> None:
        trims = (own[stream.id] for own in self._trims.values() if stream.id in own)
        graph.set_trim(stream, min(trims, default=1.0))
