"""The nodes of one graph: which exist, their levels and links, and the observers of changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping

from millrace.dsp.channels import Matrix
from millrace.errors import GraphError
from millrace.graph.accounts import check_movable, link_to, linked, set_links
from millrace.graph.model import FIRST_SINK, FIRST_SINK_ALIASES, Levelled, Node, Sink, Stream, Tap
from millrace.graph.plan import check_loops
from millrace.graph.reports import Reports
from millrace.graph.state import (
    GraphState,
    SinkState,
    StreamState,
    TapState,
    mixes_of,
    sink_state,
    stream_of,
    stream_state,
    tap_of,
    tap_state,
)
from millrace.units import Positions

Observer = Callable[[str, Node], None]


class Nodes(ABC):
    """The nodes of one graph; `Graph` runs them."""

    def __init__(self, positions: Positions, reports: Reports) -> None:
        self.positions = positions
        self._reports, self.report_node = reports, reports.report_node
        self.sinks: dict[int, Sink] = {}
        self.sources: dict[int, Sink] = {}
        self.streams: dict[int, Stream] = {}
        self.taps: dict[int, Tap] = {}
        self.default: Sink | None = None
        self.leaving: set[Sink] = set()
        """Sinks being removed: nothing may be moved to them."""
        self.observers: list[Observer] = []

    def nodes(self) -> Iterator[Node]:
        """All nodes: sinks, sources, streams, taps."""
        yield from self.mixes()
        yield from self.streams.values()
        yield from self.taps.values()

    def client_node(self, id_: int) -> Stream | Tap | None:
        """The stream or tap with this number, if there is one."""
        return self.streams.get(id_) or self.taps.get(id_)

    def mixes(self) -> Iterator[Sink]:
        """Everything that mixes: sinks, and sources."""
        yield from self.sinks.values()
        yield from self.sources.values()

    def heir(self, sink: Sink) -> Sink:
        """The sink that takes over from `sink`; GraphError if no other one stays."""
        others = [other for other in self.sinks.values() if other is not sink and other not in self.leaving]
        if not others:
            raise GraphError("this is the guest's only sink; add another first")
        return self.default if self.default in others else others[0]

    def name_taken(self, name: str) -> bool:
        """Whether a sink or source has this name, or had it."""
        return any(name == mix.name or name in mix.aliases for mix in self.mixes())

    def _former_names(self, name: str) -> tuple[str, ...]:
        """Under which other names a sink with this one is found, however it was made."""
        names = FIRST_SINK_ALIASES if name == FIRST_SINK else ()
        return tuple(former for former in names if not self.name_taken(former))

    def _demand_free(self, name: str, kind: str) -> None:
        if self.name_taken(name):
            raise GraphError(f"a {kind} named {name!r} already exists")

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
        """Duck, or with 1.0 end ducking; the next cycle ramps."""
        if trim != node.trim:
            node.trim = trim
            self._changed("change", node)

    def touch(self, node: Node) -> None:
        """Tell the observers that something they show about `node` has changed."""
        self._changed("change", node)

    # A copy, because an observer may remove itself or others. Observers are called after the change, so they see the
    # new state, and may change the graph in turn.
    # An observer may remove the node, and all are told of that at once: nothing may follow about it.
    def _changed(self, change: str, node: Node) -> None:
        there = self._has(node)
        for observer in list(self.observers):
            try:
                observer(change, node)
            except Exception as error:
                # The change has been made, so the others must be told.
                self._reports.failed(node, error)
            if there and not self._has(node):
                return

    # Feeds and consumers belong to doors and outlets. The cycle calls them, and must reach the others whatever happens.
    def _fail(self, node: Stream | Tap, error: Exception) -> None:
        """The feed of a stream, or the consumer of a tap, has raised: remove that node and nothing else."""
        if isinstance(node, Stream):
            self.remove_stream(node)
        else:
            self.remove_tap(node)
        self._reports.failed(node, error)

    @abstractmethod
    def remove_stream(self, stream: Stream) -> None:
        """Remove a stream at once."""
        ...

    @abstractmethod
    def remove_tap(self, tap: Tap) -> None:
        """Remove a tap."""
        ...

    def _has(self, node: Node) -> bool:
        return any(node.id in nodes for nodes in (self.streams, self.taps, self.sinks, self.sources))

    def set_default(self, sink: Sink) -> None:
        """The sink for streams that name none: new ones, and those on the old default that nobody has moved."""
        for _ in self.take_default(sink):
            pass

    def take_default(self, sink: Sink) -> Iterator[None]:
        """As `set_default`, one stream per step; if the default changes between steps, the rest go to the new one."""
        before, self.default = self.default, sink
        if before is sink:
            return
        self._changed("default", sink)
        for stream in list(self.streams.values()):
            alone = len(stream.links) == 1 and stream.links[0].target is before
            bound = stream.placed or stream.pinned
            if alone and not bound and "sink" not in stream.chosen:
                self._relink(stream, self.default)
                yield

    # -- handing on ---------------------------------------------------------------------

    def _freeze_nodes(self, kept: Container[int]) -> tuple[list[SinkState], list[StreamState], list[TapState]]:
        """The states of all sinks and sources, and of the streams and taps in `kept`. None is left."""
        mixes = [sink_state(mix) for mix in self.mixes()]
        streams = [stream_state(stream) for stream in self.streams.values() if stream.id in kept]
        heard = {state.id for state in (*mixes, *streams)}
        taps = [
            tap_state(tap, tap.source)
            for tap in self.taps.values()
            if tap.id in kept and tap.source is not None and tap.source.id in heard
        ]
        for node in self.nodes():
            node.account.close()
        for nodes in (self.sinks, self.sources, self.streams, self.taps):
            nodes.clear()
        self.default = None
        return mixes, streams, taps

    def _resume_nodes(self, state: GraphState, readmit: Callable[[Node, Mapping[str, int]], None]) -> None:
        """Take over the nodes of `state`."""
        mixes = mixes_of(state.mixes)
        for mix in mixes.values():
            (self.sources if mix.capture else self.sinks)[mix.id] = mix
        self.default = None if state.default is None else self.sinks[state.default]
        self.streams.update({one.id: stream_of(one, mixes) for one in state.streams})
        for one in state.taps:
            tap = self.taps[one.id] = tap_of(one)
            tap.hear(mixes.get(one.hears) or self.streams[one.hears])
        parts = {one.id: one.parts for one in (*state.mixes, *state.streams, *state.taps)}
        for node in self.nodes():
            readmit(node, parts[node.id])

    # -- suspension ---------------------------------------------------------------------

    # A suspended sink or source takes nothing: its streams are inactive, wherever they came from, and the plan leaves
    # out every other link into it. On "resume" the doors reactivate those of their streams that have sound.
    def suspend(self, sink: Sink, suspended: bool) -> None:
        """Stop or resume playing what is linked into `sink`."""
        resumed, sink.suspended = sink.suspended and not suspended, suspended
        if suspended:
            for stream in self.streams.values():
                if stream.links and stream.sink is sink:
                    self.deactivate(stream, "sink suspended")
        self._changed("change", sink)
        if resumed:
            self._changed("resume", sink)

    @abstractmethod
    def deactivate(self, stream: Stream, cause: str, keep: bool = True) -> None:
        """`stream` pauses; frames pulled but not yet heard are kept for its return, unless `keep` is false."""
        ...

    # -- links --------------------------------------------------------------------------

    def move_stream(self, stream: Stream, sink: Sink) -> None:
        """Link `stream` to `sink` instead, with a fade. Moved to the default sink, it follows the default again."""
        check_movable(stream)
        stream.placed = sink is not self.default
        if len(stream.links) != 1 or not stream.links[0].same(link_to(stream, sink)):
            self._relink(stream, sink)

    def _relink(self, stream: Stream, sink: Sink) -> None:
        held_back = bool(stream.links) and stream.sink.suspended
        set_links(stream, [link_to(stream, sink)])
        if sink.suspended:
            self.deactivate(stream, "sink suspended")
        for tap in stream.taps:
            tap.sink = sink
            self._changed("change", tap)
        self._changed("change", stream)
        if held_back and not sink.suspended:
            self._changed("resume", sink)

    def move_tap(self, tap: Tap, sink: Sink) -> None:
        """Let `tap` hear `sink` instead."""
        check_movable(tap)
        if tap.sink is not sink:
            tap.hear(sink)
            self._changed("change", tap)

    def link(self, source: Stream | Sink, sink: Sink, matrix: Matrix | None = None) -> None:
        """Add or replace a link into `sink`, with its own mix matrix if given."""
        shape = (len(source.positions), len(sink.positions))
        if matrix is not None and matrix.shape != shape:
            has = " x ".join(map(str, matrix.shape))
            raise GraphError(f"the matrix must be {shape[0]} rows of {shape[1]} numbers, not {has}")
        # Checked with the new link in place, and undone if it closes a loop; nothing else runs in between. Undoing
        # can't fail: the budget had room for the old links a moment ago.
        before = source.links
        set_links(source, [link for link in before if link.target is not sink] + [link_to(source, sink, matrix)])
        try:
            check_loops(self.mixes())
        except GraphError:
            set_links(source, before)
            raise
        self._changed("change", source)

    def unlink(self, source: Stream | Sink, sink: Sink) -> None:
        """Remove the link into `sink`; GraphError if there is none."""
        if not linked(source, sink):
            raise GraphError(f"{source.key} is not linked to {sink.key}")
        set_links(source, [link for link in source.links if link.target is not sink])
        self._changed("change", source)
