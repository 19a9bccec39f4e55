"""Nodes, their states and links: what the graph is made of.

There are three kinds of node. A `Stream` produces; a `Sink` mixes and has a monitor; a `Tap` consumes a sink's monitor
or one stream. Links go stream → sink, sink → sink, sink → tap, stream → tap.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import msgspec
import numpy as np

from millrace.budget import ENDED, PROGRAMS, Account
from millrace.dsp.channels import Mapping, Matrix
from millrace.dsp.convert import Samples
from millrace.errors import GraphError
from millrace.text import cut_name, cut_props
from millrace.units import Frames, HostNs, Positions


class NodeState(Enum):
    """What a node is doing."""

    SUSPENDED = "suspended"
    IDLE = "idle"
    RUNNING = "running"
    ERROR = "error"


_S = NodeState
# Which state may follow which.
TRANSITIONS: dict[NodeState, frozenset[NodeState]] = {
    _S.SUSPENDED: frozenset({_S.IDLE, _S.RUNNING, _S.ERROR}),
    _S.IDLE: frozenset({_S.RUNNING, _S.SUSPENDED, _S.ERROR}),
    _S.RUNNING: frozenset({_S.IDLE, _S.SUSPENDED, _S.ERROR}),
    _S.ERROR: frozenset({_S.SUSPENDED}),
}
TRACE_LENGTH = 32
FIRST_SINK = "millrace"
"""The first sink of every guest."""
FIRST_SINK_ALIASES = ("default",)
"""Former names. SoX, ALSA and others treat `default` as no name at all, and would record something else."""


class StateChange(msgspec.Struct, frozen=True):
    """One entry of a node's state trace."""

    at_ns: HostNs
    old: NodeState
    new: NodeState
    cause: str


class Feed(Protocol):
    """The source of a stream's frames."""

    def pull(self, out: Samples) -> Frames:
        """Fill the head of `out` (frames, channels) with what is ready; return the number of frames."""
        ...

    def short(self, frames: Frames, played_out: bool) -> None:
        """`frames` of silence had to be substituted; `played_out` if everything that was pulled has been heard."""
        ...


class Consumer(Protocol):
    """The destination of a tap's frames."""

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """Take one quantum (frames, channels), a view to be copied; `level` is its peak, 0.0 for silence."""
        ...

    def idle(self, position: Frames) -> None:
        """The sink stopped: no more frames from `position` on until the next `consume`."""
        ...


class Nothing:
    """Feed and consumer of removed nodes.

    A node and its feed refer to each other. If this cycle were not broken, their buffers would stay until the cyclic
    garbage collector runs, which is rare here.
    """

    def pull(self, out: Samples) -> Frames:
        """See `Feed`."""
        del out
        return 0

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed`."""

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer`."""

    def idle(self, position: Frames) -> None:
        """See `Consumer`."""


NOTHING = Nothing()


# Compared by identity: two nodes with equal fields are two nodes, and nodes are keys of sets and dictionaries while
# their fields change.
#
# Name and properties are cut here, whichever door they come through. A door whose clients read their own texts back
# keeps those itself, whole.
@dataclass(eq=False)
class Node:
    """A vertex of the graph. Its name and properties are for display."""

    id: int
    name: str
    positions: Positions
    props: dict[str, str] = field(default_factory=dict)
    state: NodeState = NodeState.SUSPENDED
    trace: deque[StateChange] = field(default_factory=lambda: deque(maxlen=TRACE_LENGTH))
    charges: dict[Hashable, int] = field(default_factory=dict)
    """Bytes that its door needs for it from the start, by part; it is admitted only if they fit."""
    reach: float = PROGRAMS
    """The share of its guest's budget up to which it may be admitted."""
    always: bool = False
    """Whether it may fill all of that, see `Budget.is_free`."""
    account: Account = ENDED
    """What is held for it. The graph opens the account when it admits the node and closes it on removal."""

    kind = "node"

    def __post_init__(self) -> None:
        self.name, self.props = cut_name(self.name), cut_props(self.props)

    def rename(self, name: str) -> None:
        """Its client has given it another name."""
        name = cut_name(name)
        self.account.hold("name", sys.getsizeof(name))
        self.name = name

    @property
    def key(self) -> str:
        """The name used by users and the API: kind/id."""
        return f"{self.kind}/{self.id}"

    def enter(self, state: NodeState, cause: str, now_ns: HostNs) -> None:
        """Change state and record it in the trace; a forbidden transition is a bug."""
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.key}: {self.state} -> {state}"
        self.trace.append(StateChange(now_ns, self.state, state, cause))
        self.state = state


@dataclass(eq=False)
class Levelled(Node):
    """A node with a volume: linear gain per channel, and mute.

    `trim` is a temporary reduction by a session manager (ducking); it is not part of the volume that people set.
    """

    gains: tuple[float, ...] = ()
    mute: bool = False
    trim: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gains:
            self.gains = (1.0,) * len(self.positions)

    @property
    def effective_gains(self) -> tuple[float, ...]:
        """The factors applied to the sound."""
        if self.mute:
            return (0.0,) * len(self.gains)
        return self.gains if self.trim == 1.0 else tuple(gain * self.trim for gain in self.gains)


@dataclass(eq=False)
class Link:
    """A link from a stream or sink into a sink, with an optional matrix of its own (source × target channels)."""

    target: Sink
    matrix: Matrix | None = None

    def same(self, other: Link) -> bool:
        """Whether both links do the same thing."""
        if self.matrix is None or other.matrix is None:
            return self.target is other.target and self.matrix is other.matrix
        return self.target is other.target and np.array_equal(self.matrix, other.matrix)


@dataclass(eq=False)
class Stream(Levelled):
    """One client's flow into the graph, at the graph's rate.

    `latency_ask_ns` is the latency that its client asks for; `bulk_frames` is how far ahead the graph may pull. Streams
    that are `active` have a lane and are mixed.
    """

    feed: Feed = None  # type: ignore[assignment]
    latency_ask_ns: HostNs = 40_000_000
    bulk_frames: Frames = 0
    links: list[Link] = field(default_factory=list)
    active: bool = False
    starved: bool = False
    """It waits for its client to write, so its client's latency request still counts."""
    lane: int = -1
    stash: Samples | None = None
    underruns: int = 0
    chosen: tuple[str, ...] = ()
    """Which of volume, mute and sink its client has set itself: session managers leave those alone."""
    placed: bool = False
    """Somebody moved it here. A stream that was never moved, and named no sink, follows the default sink."""
    mapping: Mapping = Mapping.MIX
    pinned: str = ""
    """Why it must not be moved, or empty. A pinned stream ends with its sink."""
    taps: list[Tap] = field(default_factory=list)
    ducked: dict[object, float] = field(default_factory=dict)
    """Who attenuates it, and by which factor; `trim` is the strongest."""

    kind = "stream"

    @property
    def sink(self) -> Sink:
        """The sink of its first link."""
        if not self.links:
            raise GraphError(f"{self.key} is not linked to a sink")
        return self.links[0].target

    @property
    def feeds_source(self) -> bool:
        """Whether it feeds a source (a microphone, a tone) rather than a sink."""
        return bool(self.links) and self.links[0].target.capture


@dataclass(slots=True)
class Recorded:
    """The level at which a source, or a sink's monitor, is recorded; separate from the sink's own volume."""

    gains: tuple[float, ...]
    mute: bool = False

    @property
    def effective_gains(self) -> tuple[float, ...]:
        """The factors applied to the sound that recorders get."""
        return (0.0,) * len(self.gains) if self.mute else self.gains


@dataclass(eq=False)
class Sink(Levelled):
    """Mixes what is linked into it; its monitor feeds taps and other sinks.

    With `capture` it is what guests call a source: listeners' microphones are linked into it, and applications record
    its monitor, at the level `recorded`. `outlet_latency_ns` is the reported latency after the monitor, of its slowest
    listener.
    """

    description: str = ""
    links: list[Link] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)
    level: float = 0.0
    """Peak of the last metered cycle, linear."""
    latest: Samples | None = None
    """The output of that cycle, for further measurements."""
    suspended: bool = False
    outlet_latency_ns: HostNs = 0
    capture: bool = False
    master: Sink | None = None
    """The source that a remapped source is made from."""
    aliases: tuple[str, ...] = ()
    """Former names, which still find it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.description = cut_name(self.description)
        self.recorded = Recorded((1.0,) * len(self.positions))

    @property
    def kind(self) -> str:  # type: ignore[override]
        """What users call it."""
        return "source" if self.capture else "sink"

    def is_called(self, name: str) -> bool:
        """Whether `name` is its name or an alias."""
        return name == self.name or name in self.aliases

    def answers_to(self, name: str) -> bool:
        """Whether `name` means this one: its name, an alias, or its number."""
        return self.is_called(name) or name == str(self.id)

    @property
    def rms(self) -> float:
        """Root mean square of the loudest channel in the last metered cycle, linear."""
        if self.level == 0.0 or self.latest is None:
            return 0.0
        return float(np.sqrt(np.square(self.latest).mean(axis=0).max()))


@dataclass(eq=False)
class Tap(Node):
    """Consumes a sink's monitor, or one stream alone, in its own channel layout.

    A tap of a stream gets what the stream sounds like, or with `before_volume` what its client sent: a stem keeps its
    level when somebody turns the stream down or mutes it. A `clocked` tap keeps the graph running while nothing plays,
    because a recorder wants the silence too.
    """

    consumer: Consumer = None  # type: ignore[assignment]
    source: Sink | Stream | None = None
    """What it consumes."""
    sink: Sink | None = None
    """The sink it consumes, or that the stream it consumes plays to."""
    before_volume: bool = False
    records: bool = False
    """It gets the recording level of its sink or source. Listeners don't."""
    clocked: bool = False
    placed: bool = False
    """Its client named its source, or somebody moved it here: it does not follow the default source."""
    mapping: Mapping = Mapping.MIX
    pinned: str = ""
    """Why it must not be moved, or empty. A pinned tap ends with what it consumes."""
    latency_ask_ns: HostNs = 40_000_000
    active: bool = True

    kind = "tap"

    @property
    def stream(self) -> Stream | None:
        """The stream it consumes, if it is a tap of one stream."""
        return self.source if isinstance(self.source, Stream) else None

    # A tap is in the list of exactly one source, so it is taken out of the old one first. A tap of a stream follows it
    # from sink to sink (`sink` is only where the stream plays) and can't be moved by itself.
    def hear(self, source: Sink | Stream) -> None:
        """Consume a sink's monitor, or one stream, from now on."""
        self.leave()
        source.taps.append(self)
        self.source = source
        if isinstance(source, Stream):
            self.sink, self.pinned = source.sink, "it records one stream"
        else:
            self.sink = source

    def leave(self) -> None:
        """Stop consuming."""
        if self.source is not None:
            self.source.taps.remove(self)


class Ids:
    """Hands out the numbers of a daemon's objects; never the same one twice."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        """A number that no other node has had."""
        value = self._next
        self._next += 1
        return value


__all__ = ["Consumer", "Feed", "Ids", "Levelled", "Link", "Node", "NodeState", "Sink", "Stream", "Tap"]
