"""A stream's rate and buffer attributes, and the resampler and memory that they need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

from millrace.budget import size_of
from millrace.doors.pulse.attrs import Layout, PlaybackAttr
from millrace.doors.pulse.queue import ByteQueue, QueueState, capacity_for
from millrace.doors.pulse.state import Attr, PlaybackState, StreamState
from millrace.doors.resampled import Resampled, ResampledState
from millrace.dsp.convert import silence_byte
from millrace.dsp.resample import SINC_BYTES, holds_ns, resampler_bytes, stretched
from millrace.graph.graph import Graph
from millrace.graph.model import Node, Stream
from millrace.graph.quantum import QUANTA_NS
from millrace.media.format import AudioFormat
from millrace.units import NS_PER_MS, NS_PER_S, HostNs, frames_to_ns
from millrace.wire.pulse.tagstruct import Props

LOW_DELAY_NS = 150 * NS_PER_MS
"""A stream that requests less than this gets a resampler with low delay instead of low CPU use."""


class StreamSettings(ABC, Generic[Attr]):
    """What a playback stream and a record stream have in common. It works on its `state`."""

    state: StreamState[Attr]
    node: Node

    @property
    def channel(self) -> int:
        """The number under which its client knows it."""
        return self.state.channel

    @property
    def format(self) -> AudioFormat:
        """The format on its client's side."""
        return self.state.format

    @property
    def attr(self) -> Attr:
        """The buffer attributes in force."""
        return self.state.attr

    @property
    def props(self) -> Props:
        """Its properties, and those of its client."""
        return self.state.props

    @property
    def corked(self) -> bool:
        """Whether its client has paused it."""
        return self.state.corked

    def change_rate(self, rate: int) -> None:
        """Switch to another rate; BudgetError if there is no room for the resampler."""
        self.node.account.hold("resampler", self._resampler_bytes(rate))
        self.set_rate(rate)

    @abstractmethod
    def set_rate(self, rate: int) -> None:
        """Switch to another rate, without charging for it."""

    @abstractmethod
    def _resampler_bytes(self, rate: int) -> int: ...


class PlaybackSettings(StreamSettings[PlaybackAttr]):
    """What can be set of a playback stream, and what that costs."""

    state: PlaybackState
    node: Stream

    def __init__(self, state: PlaybackState, node: Stream, graph: Graph) -> None:
        self.state, self.node, self.graph = state, node, graph
        fmt = state.format
        self.layout = Layout(fmt.frame_bytes, fmt.rate)
        self.queue = ByteQueue(state.queue, silence_byte(fmt.sample), self._may_queue)
        self._resampled = Resampled(
            fmt.rate, graph.rate, len(fmt.positions), self._low_delay(fmt.rate), state.glide, state.resampled
        )
        # The stream's own copies are in use from now on, until it is frozen.
        state.queue, state.resampled = QueueState(0), ResampledState()
        self._ask_graph()
        node.charges = {
            "paid queue": state.paid_bytes,
            "queue": max(0, self.queue.capacity - state.paid_bytes),
            "props": size_of(state.props),
            "resampler": self._resampler_bytes(fmt.rate),
        }

    def freeze(self) -> PlaybackState:
        """Its state, from which another stream can continue."""
        self.state.queue, self.state.resampled = self.queue.freeze(), self._resampled.freeze()
        return self.state

    def _may_queue(self, size: int) -> bool:
        """Whether the queue may use this much memory. The room for `tlength` was charged at creation."""
        return self.node.account.fits("queue", max(0, size - self.state.paid_bytes))

    def begin_with(self, other: PlaybackSettings) -> None:
        """Start the indices where `other`, which is paused, will resume."""
        waiting_ns = frames_to_ns(self.graph.ahead(other.node), self.graph.rate) + other.held_ns
        heard_ns = max(0, other.layout.to_ns(other.queue.read_index) - waiting_ns)
        self.queue.begin_at(self.layout.to_bytes(heard_ns))

    def set_synchronised(self, synchronised: bool) -> None:
        """Synchronised streams play in step, sample by sample: they can't be moved alone or wait for a late client."""
        state, node = self.state, self.node
        if synchronised and not state.synchronised:
            state.own_pin, node.pinned = node.pinned, "it is synchronised with others"
        elif state.synchronised and not synchronised:
            node.pinned = state.own_pin
        state.synchronised = synchronised

    def pay_for(self, size: int) -> None:
        """Before the stream is added: charge for a queue of this size in advance."""
        self.queue.maxlength = size
        self.node.charges["paid queue"] = self.state.paid_bytes = capacity_for(size)

    def change_attr(self, attr: PlaybackAttr) -> None:
        """Change the buffer attributes; BudgetError if there is no room for them."""
        paid = capacity_for(attr.tlength)
        self.node.account.hold("paid queue", paid)
        self.state.paid_bytes = paid
        self._apply_attr(attr)
        self._may_queue(self.queue.capacity)
        self.node.account.fits("resampler", self._resampler_bytes(self.format.rate))

    def _apply_attr(self, attr: PlaybackAttr) -> None:
        state = self.state
        state.missing += attr.tlength - state.attr.tlength
        state.attr = attr
        self.queue.maxlength = attr.maxlength
        self._ask_graph()
        self._resampled.change(state.format.rate, self._low_delay(state.format.rate))

    def _ask_graph(self) -> None:
        self.node.latency_ask_ns = self.state.attr.sink_ns
        self.node.bulk_frames = self.state.attr.bulk_ns * self.graph.rate // NS_PER_S

    def set_rate(self, rate: int) -> None:
        """See `StreamSettings`."""
        fmt = self.state.format
        self.state.format = fmt = AudioFormat(fmt.sample, rate, fmt.positions)
        self.layout = Layout(fmt.frame_bytes, rate)
        self._resampled.change(rate, self._low_delay(rate))

    def _low_delay(self, rate: int) -> bool:
        """Whether the buffer is too short for the delay of the cheaper resampler."""
        layout = Layout(self.layout.frame_bytes, rate)
        tlength, minreq = layout.to_ns(self.state.attr.tlength), layout.to_ns(self.state.attr.minreq)
        spare = tlength - 2 * minreq - QUANTA_NS[-1]
        return tlength < LOW_DELAY_NS or spare < holds_ns(rate, self.graph.rate, low_delay=False)

    def _resampler_bytes(self, rate: int) -> int:
        channels = len(self.format.positions)
        if self.state.glide and not stretched(rate, self.graph.rate):
            return SINC_BYTES * channels
        return resampler_bytes(rate, self.graph.rate, channels, self._low_delay(rate))

    @property
    def resample_method(self) -> str | None:
        """The resampler's name; None if none is needed."""
        return self._resampled.method

    @property
    def held_ns(self) -> HostNs:
        """Sound that the resampler has read but not given out."""
        return self._resampled.held_ns
