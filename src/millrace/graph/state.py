"""The state of a graph as a plain value, with which another graph can continue.

Streams and taps come without their feeds and consumers, which their doors freeze. Their numbers stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

from millrace.dsp.channels import Mapping as ChannelMapping
from millrace.dsp.convert import Samples
from millrace.graph.model import NOTHING, Link, Node, NodeState, Recorded, Sink, StateChange, Stream, Tap
from millrace.units import Frames, HostNs, Positions

AnyNode = TypeVar("AnyNode", Stream, Sink, Tap)


class ArrayState(msgspec.Struct, frozen=True):
    """An array of float32."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: Samples) -> Self:
        """A copy of an array."""
        assert array.dtype == np.float32
        return cls(array.shape, array.tobytes())

    @property
    def array(self) -> Samples:
        """The array again."""
        return np.frombuffer(bytearray(self.data), np.float32).reshape(self.shape)


class LinkState(msgspec.Struct, frozen=True):
    """A link, by the number of its target."""

    target: int
    matrix: ArrayState | None = None

    @classmethod
    def of(cls, link: Link) -> Self:
        """The state of a link."""
        return cls(link.target.id, None if link.matrix is None else ArrayState.of(link.matrix))


class OfNode(msgspec.Struct, kw_only=True):
    """What all nodes have. Fields of a state have the names that they have in the node."""

    id: int
    name: str
    positions: Positions
    props: dict[str, str]
    state: NodeState
    changes: list[StateChange]
    """The node's trace."""
    reach: float
    always: bool = False
    parts: dict[str, int]
    """What its account holds."""


class OfLevelled(OfNode, kw_only=True):
    """What streams and sinks have."""

    gains: tuple[float, ...]
    mute: bool
    trim: float
    onto: list[LinkState]
    """Its links."""


class StreamState(OfLevelled, kw_only=True):
    """A stream between two cycles."""

    active: bool
    starved: bool
    underruns: int
    chosen: tuple[str, ...]
    placed: bool
    mapping: ChannelMapping
    pinned: str
    latency_ask_ns: HostNs
    bulk_frames: Frames
    ahead: ArrayState | None
    """Frames pulled from its client and not heard yet."""


class SinkState(OfLevelled, kw_only=True):
    """A sink or source between two cycles."""

    description: str
    level: float
    suspended: bool
    outlet_latency_ns: HostNs
    capture: bool
    aliases: tuple[str, ...]
    recorded: Recorded
    origin: int | None
    """Its master."""


class TapState(OfNode, kw_only=True):
    """A tap between two cycles."""

    before_volume: bool
    records: bool
    clocked: bool
    placed: bool
    mapping: ChannelMapping
    pinned: str
    latency_ask_ns: HostNs
    active: bool
    hears: int
    """The sink, source or stream that it consumes."""


class AppliedState(msgspec.Struct):
    """What the last cycle applied, for the next to ramp from: see `plan.Applied`."""

    sink_gains: dict[int, ArrayState] = {}
    limiters: dict[int, float] = {}
    stream_gains: dict[int, dict[int, ArrayState | float]] = {}
    tap_gains: list[tuple[int, int, ArrayState]] = []


class GraphState(msgspec.Struct, kw_only=True):
    """A graph between two cycles. Its position is host time, so it holds in every process of the host."""

    position: Frames
    now_ns: HostNs
    """When its last cycle ran."""
    running: bool
    idle_since_ns: HostNs
    late_cycles: int
    skipped_frames: Frames
    quantum: Frames
    default: int | None
    mixes: list[SinkState]
    streams: list[StreamState]
    taps: list[TapState]
    lanes: list[int]
    """Active streams in the order of their lanes, so that sums stay the same to the last bit."""
    applied: AppliedState


def _frozen(node: Node, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields that a node and the `kind` of its state have in common, and what all nodes have besides."""
    own = {name: getattr(node, name) for name in kind.__struct_fields__ if hasattr(node, name)}
    own |= {"changes": list(node.trace), "parts": node.account.parts}
    if isinstance(node, Stream | Sink):
        own["onto"] = [LinkState.of(link) for link in node.links]
    return own


def _thawed(state: OfNode, kind: type[AnyNode]) -> AnyNode:
    own = {one.name: getattr(state, one.name) for one in fields(kind) if one.init and hasattr(state, one.name)}
    node = kind(**own)
    node.trace.extend(state.changes)
    return node


def stream_state(stream: Stream) -> StreamState:
    """The state of a stream. Frames not heard yet are in its stash."""
    ahead = None if stream.stash is None else ArrayState.of(stream.stash)
    return StreamState(**_frozen(stream, StreamState), ahead=ahead)


def sink_state(sink: Sink) -> SinkState:
    """The state of a sink or source."""
    return SinkState(**_frozen(sink, SinkState), origin=None if sink.master is None else sink.master.id)


def tap_state(tap: Tap, source: Sink | Stream) -> TapState:
    """The state of a tap that consumes `source`."""
    return TapState(**_frozen(tap, TapState), hears=source.id)


def mixes_of(states: Iterable[SinkState]) -> dict[int, Sink]:
    """The sinks and sources again, linked to each other."""
    made = {state.id: _thawed(state, Sink) for state in states}
    for state in states:
        mix = made[state.id]
        # Whole: not for display, but what PulseAudio clients read back.
        mix.props = state.props
        mix.recorded, mix.links = state.recorded, links_of(state, made)
        mix.master = None if state.origin is None else made[state.origin]
    return made


def stream_of(state: StreamState, mixes: Mapping[int, Sink]) -> Stream:
    """The stream again. Frames not heard yet are in its stash."""
    stream = _thawed(state, Stream)
    stream.links = links_of(state, mixes)
    stream.feed, stream.stash = NOTHING, None if state.ahead is None else state.ahead.array
    return stream


def tap_of(state: TapState) -> Tap:
    """The tap again, without what it consumes."""
    tap = _thawed(state, Tap)
    tap.consumer = NOTHING
    return tap


def links_of(state: OfLevelled, mixes: Mapping[int, Sink]) -> list[Link]:
    """The links of a stream or sink."""
    return [Link(mixes[one.target], None if one.matrix is None else one.matrix.array) for one in state.onto]
