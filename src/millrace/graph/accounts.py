"""How many nodes and links a graph may have, and what each costs of its guest's budget.

A stream is let in only with its queue, its resampler and its lane paid for, so one that was let in can always be heard.
"""

from __future__ import annotations

import sys

from millrace.budget import Budget, size_of
from millrace.dsp.channels import Mapping, Matrix, mapped
from millrace.errors import GraphError
from millrace.graph.model import NOTHING, Link, Node, Sink, Stream, Tap
from millrace.units import Frames

STREAMS_MAX = 2048
"""Streams one guest may have; PulseAudio stops at 256 per sink."""
MIXES_MAX = 256
"""Sinks and sources of one guest."""
LINKS_MAX = 64
"""Links out of one stream or sink."""
TAPS_MAX = 256
"""Recorders and encoders of one guest."""
NODE_BYTES = 12 * 1024
"""A node with its trace, its door's object, and what the registry and the flight recorder note of it."""
SAMPLE_BYTES = 4
SINK_BUFFERS, TAP_BUFFERS = 3, 1
"""Blocks of the longest quantum: a sink's mix, the one before and the latest."""


def _turn_away(node: Node) -> None:
    """Let go of what feeds or hears a node that does not come in: see `Nothing`."""
    if isinstance(node, Stream):
        node.feed = NOTHING
    elif isinstance(node, Tap):
        node.consumer = NOTHING


class NodeAccounts:
    """Opens those of one guest. `block` is the frames of the longest cycle, `lane` those of the shortest lane."""

    def __init__(self, guest: str, budget: Budget, block: Frames, lane: Frames) -> None:
        self._guest, self._budget, self._block, self._lane = guest, budget, block, lane

    def admit(self, node: Node, others: int) -> None:
        """Open the account of a node that comes to so many others of its kind; GraphError where there is no room."""
        limit, kind = self._limit(node)
        try:
            if others >= limit:
                raise GraphError(f"guest {self._guest} has its {limit:.0f} {kind} already")
            node.account = self._budget.open(node.kind, node.asks | {"node": self.weight(node)}, node.reach)
        except GraphError:
            _turn_away(node)
            raise

    @staticmethod
    def _limit(node: Node) -> tuple[float, str]:
        if isinstance(node, Stream):
            return STREAMS_MAX, "streams"
        # Listeners find room where recorders have used up theirs.
        return (TAPS_MAX * node.reach, "recorders") if isinstance(node, Tap) else (MIXES_MAX, "sinks and sources")

    def weight(self, node: Node) -> int:
        """Bytes that `node` takes from the day it comes: the worst that playing it can need."""
        frame = len(node.positions) * SAMPLE_BYTES
        words = sys.getsizeof(node.name) + size_of(node.props)
        if isinstance(node, Stream):
            return NODE_BYTES + words + self._lane * frame
        if isinstance(node, Sink):
            return NODE_BYTES + words + sys.getsizeof(node.description) + SINK_BUFFERS * self._block * frame
        return NODE_BYTES + words + TAP_BUFFERS * self._block * frame


def check_movable(node: Stream | Tap) -> None:
    """GraphError for what is to stay where it is."""
    if node.pinned:
        raise GraphError(f"{node.key} can't be moved: {node.pinned}")


def linked(source: Stream | Sink, sink: Sink) -> bool:
    """Whether there is a link into `sink`."""
    return any(link.target is sink for link in source.links)


def link_to(source: Stream | Sink, sink: Sink, matrix: Matrix | None = None) -> Link:
    """A link with the matrix asked for, or with what the stream's own way of mapping channels gives."""
    if matrix is None and isinstance(source, Stream) and source.mapping is not Mapping.MIX:
        matrix = mapped(source.positions, sink.positions, source.mapping)
    return Link(sink, matrix)


def bytes_of(links: list[Link]) -> int:
    """What the matrices of links take: as told, as planned, and as they were."""
    return sum(3 * link.matrix.nbytes for link in links if link.matrix is not None)


def set_links(source: Stream | Sink, links: list[Link]) -> None:
    """Give a node other links; GraphError, and it has those it had, where they are too many."""
    if len(links) > LINKS_MAX:
        raise GraphError(f"{source.key} has its {LINKS_MAX} links already")
    source.account.hold("links", bytes_of(links))
    source.links = links
