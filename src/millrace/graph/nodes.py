"""The nodes of one graph: what there is, its levels, and who is told of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from millrace.errors import GraphError
from millrace.graph.model import Levelled, Node, Sink, Stream, Tap
from millrace.units import Positions

Observer = Callable[[str, Node], None]


class Nodes:
    """One graph's."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self.sinks: dict[int, Sink] = {}
        self.sources: dict[int, Sink] = {}
        self.streams: dict[int, Stream] = {}
        self.taps: dict[int, Tap] = {}
        self.default: Sink | None = None
        self.observers: list[Observer] = []

    def nodes(self) -> Iterator[Node]:
        """All nodes: sinks, sources, streams, taps."""
        yield from self.mixes()
        yield from self.streams.values()
        yield from self.taps.values()

    def mixes(self) -> Iterator[Sink]:
        """Everything that mixes: sinks, and sources."""
        yield from self.sinks.values()
        yield from self.sources.values()

    def name_taken(self, name: str) -> bool:
        """Whether a sink or source is called so, or was."""
        return any(name == mix.name or name in mix.aliases for mix in self.mixes())

    def _demand_free(self, name: str, kind: str) -> None:
        if self.name_taken(name):
            raise GraphError(f"a {kind} named {name!r} exists already")

    def set_gains(self, node: Levelled, gains: tuple[float, ...]) -> None:
        """Set linear gains, one per channel (or one for all); the next cycle ramps to them."""
        if len(gains) == 1:
            gains = gains * len(node.positions)
        if len(gains) != len(node.positions):
            raise GraphError(f"{node.key} has {len(node.positions)} channels, not {len(gains)}")
        if gains != node.gains:
            node.gains = gains
            self._changed("change", node)

    def set_mute(self, node: Levelled, mute: bool) -> None:
        """Mute or unmute; the next cycle ramps."""
        if mute != node.mute:
            node.mute = mute
            self._changed("change", node)

    def set_trim(self, node: Levelled, trim: float) -> None:
        """Duck, or with 1.0 let go; the next cycle ramps."""
        if trim != node.trim:
            node.trim = trim
            self._changed("change", node)

    def touch(self, node: Node) -> None:
        """Something about `node` that observers show has changed."""
        self._changed("change", node)

    def _changed(self, change: str, node: Node) -> None:
        for observer in list(self.observers):
            observer(change, node)
