"""Limits on the nodes and links of a graph, and what each one costs of its guest's memory budget.

A stream is admitted only if the budget covers its queue, its resampler and its lane, so that every admitted stream can
be played.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from millrace.budget import CONNECTIONS, LISTENERS, Budget, size_of
from millrace.dsp.channels import Mapping as ChannelMapping
from millrace.dsp.channels import Matrix, mapped
from millrace.errors import GraphError
from millrace.graph.model import NOTHING, Link, Node, Sink, Stream, Tap
from millrace.units import Frames

STREAMS_MAX = 2048
"""Streams per guest; PulseAudio allows 256 per sink."""
MIXES_MAX = 256
"""Sinks and sources together, per guest."""
LINKS_MAX = 64
"""Links out of one stream or sink."""
TAPS_MAX = 256
"""Recorders per guest, and encoders of sound: neither takes the other's places."""
NODE_BYTES = 12 * 1024
"""A node with its state trace, its door's object, and its entries in the registry and the flight recorder."""
SAMPLE_BYTES = 4
SINK_BUFFERS, TAP_BUFFERS = 3, 1
"""Blocks of the longest quantum. A sink has three: its mix, the previous one and the latest."""


def _turn_away(node: Node) -> None:
    """Drop the feed or consumer of a node that is not admitted (see `Nothing` for why)."""
    if isinstance(node, Stream):
        node.feed = NOTHING
    elif isinstance(node, Tap):
        node.consumer = NOTHING


class NodeAccounts:
    """Opens the accounts of one guest's nodes.

    `block` is the length of the longest cycle, `lane` that of the shortest lane.
    """

    def __init__(self, guest: str, budget: Budget, block: Frames, lane: Frames) -> None:
        self._guest, self._budget, self._block, self._lane = guest, budget, block, lane

    def admit(self, node: Node, others: int) -> None:
        """Open the account of a new node; `others` nodes of its kind exist. GraphError if there is no room."""
        limit, kind = self._limit(node)
        try:
            if others >= limit:
                raise GraphError(f"guest {self._guest} already has {limit} {kind}, the maximum")
            parts = node.charges | {"node": self.weight(node)}
            node.account = self._budget.open(node.kind, parts, node.reach, always=node.always)
        except GraphError:
            _turn_away(node)
            raise

    def needs(self, node: Node) -> int:
        """Bytes for which there must be room to admit a node."""
        return sum(node.charges.values()) + self.weight(node)

    def has_place(self, tap: Tap, taps: Iterable[Tap], leaving: int) -> bool:
        """Whether there are few enough of its kind to admit a tap, once so many have left."""
        return alike(tap, taps) - leaving < self._limit(tap)[0]

    def has_room(self, tap: Tap, taps: Iterable[Tap], leaving: Tap | None) -> bool:
        """Whether a tap could be admitted, once one of its kind has left."""
        left, freed = (0, 0) if leaving is None else (1, leaving.account.held)
        fits = self._budget.would_fit(self.needs(tap), tap.reach, freed, tap.always)
        return fits and self.has_place(tap, taps, left)

    def readmit(self, node: Node, parts: Mapping[str, int]) -> None:
        """Open the account of a node that was admitted before, and held these `parts`."""
        reach = LISTENERS if node.reach == LISTENERS else CONNECTIONS
        node.account = self._budget.open(node.kind, parts, reach, always=node.always)

    @staticmethod
    def _limit(node: Node) -> tuple[int, str]:
        if isinstance(node, Stream):
            return STREAMS_MAX, "streams"
        if isinstance(node, Tap):
            return TAPS_MAX, "encoders of sound" if node.reach == LISTENERS else "recorders"
        return MIXES_MAX, "sinks and sources"

    # A stream is charged for the shortest lane when it is admitted, so an admitted stream can always be played. A
    # longer lane is a convenience (fewer refills), is asked for when the stream starts, and may be refused then without
    # an audible effect.
    def weight(self, node: Node) -> int:
        """Bytes charged for `node` from the start: the most that playing it can need."""
        frame = len(node.positions) * SAMPLE_BYTES
        words = sys.getsizeof(node.name) + size_of(node.props)
        if isinstance(node, Stream):
            return NODE_BYTES + words + self._lane * frame
        if isinstance(node, Sink):
            return NODE_BYTES + words + sys.getsizeof(node.description) + SINK_BUFFERS * self._block * frame
        return NODE_BYTES + words + TAP_BUFFERS * self._block * frame


def alike(tap: Tap, taps: Iterable[Tap]) -> int:
    """How many of these are recorders, or encoders for listeners, as this one is."""
    return sum(one.reach == tap.reach for one in taps)


def check_movable(node: Stream | Tap) -> None:
    """Raise GraphError for a node that must stay where it is."""
    if node.pinned:
        raise GraphError(f"{node.key} can't be moved: {node.pinned}")


def linked(source: Stream | Sink, sink: Sink) -> bool:
    """Whether `source` has a link into `sink`."""
    return any(link.target is sink for link in source.links)


def link_to(source: Stream | Sink, sink: Sink, matrix: Matrix | None = None) -> Link:
    """A link with the given matrix, or else with the one that the stream's channel mapping implies."""
    if matrix is None and isinstance(source, Stream) and source.mapping is not ChannelMapping.MIX:
        matrix = mapped(source.positions, sink.positions, source.mapping)
    return Link(sink, matrix)


def bytes_of(links: list[Link]) -> int:
    """Bytes held by the matrices of links: three copies each, as given, as planned, and as last applied."""
    return sum(3 * link.matrix.nbytes for link in links if link.matrix is not None)


# The budget is asked before the links are replaced, so a refusal leaves a stream where it was and audible.
def set_links(source: Stream | Sink, links: list[Link]) -> None:
    """Replace the links of a node; if they are too many or too large, raise GraphError and keep the old ones."""
    if len(links) > LINKS_MAX:
        raise GraphError(f"{source.key} already has {LINKS_MAX} links, the maximum")
    source.account.hold("links", bytes_of(links))
    source.links = links
