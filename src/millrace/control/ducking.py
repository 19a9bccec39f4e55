"""Streams that programs have turned down for as long as they are connected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from millrace.graph.graph import Graph
from millrace.graph.model import Stream


class Ducking:
    """Who has which stream how far down. Where several have, it is as quiet as the one that takes most has it."""

    def __init__(self) -> None:
        self._trims: dict[object, dict[int, float]] = {}

    def duck(self, who: object, graph: Graph, stream: Stream, db: float) -> None:
        """Take it back by so much; with 0 let it go."""
        own = self._trims.setdefault(who, {})
        own.pop(stream.id, None)
        if db:
            own[stream.id] = 10 ** (db / 20)
        self._apply(graph, stream)

    def of(self, who: object) -> dict[int, float]:
        """By number of the stream: what a connection leaves of it, linear."""
        return dict(self._trims.get(who, {}))

    def resume(self, who: object, trims: Mapping[int, float], graphs: Iterable[Graph]) -> None:
        """A connection goes on with what it had turned down elsewhere, as far as that is there."""
        there = {id_: (graph, graph.streams[id_]) for graph in graphs for id_ in trims.keys() & graph.streams.keys()}
        for id_, (graph, stream) in there.items():
            self._trims.setdefault(who, {})[id_] = trims[id_]
            self._apply(graph, stream)

    def release(self, who: object, graphs: Iterable[Graph]) -> None:
        """A connection has gone: what it had turned down is as the others have it."""
        own = self._trims.pop(who, {})
        for graph in graphs:
            for id_ in own.keys() & graph.streams.keys():
                self._apply(graph, graph.streams[id_])

    def _apply(self, graph: Graph, stream: Stream) -> None:
        trims = (own[stream.id] for own in self._trims.values() if stream.id in own)
        graph.set_trim(stream, min(trims, default=1.0))
