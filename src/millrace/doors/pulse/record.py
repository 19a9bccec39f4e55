"""Record streams: a source or monitor, in the client's format, in blocks of at most the fragment size."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from millrace.budget import size_of
from millrace.doors.ingress import Recorder, RecorderStatus
from millrace.doors.pulse.attrs import Layout, RecordAttr
from millrace.doors.pulse.meter import MeterState, PeriodMeter
from millrace.doors.pulse.settings import StreamSettings
from millrace.doors.pulse.state import RecordState
from millrace.dsp.convert import Samples, encode
from millrace.dsp.mix import ramp
from millrace.dsp.resample import SINC_BYTES, resampler_bytes, stretched
from millrace.dsp.resumable import ResamplerState, Resumable, make_resumable
from millrace.graph.graph import Graph
from millrace.graph.model import Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import UNKNOWN, Subject
from millrace.units import NS_PER_MS, Frames, HostNs
from millrace.wire.pulse.constants import Change, Command

DELIVER_NS = 50 * NS_PER_MS
"""Sound is delivered this often, however large the requested fragment: a recorder that is stopped with
SIGINT would lose an incomplete fragment."""


UNREAD_STEP = 64 * 1024
"""Sound queued for a client that does not read is charged in steps of this size."""


class RecordOwner(Protocol):
    """A record stream's interface to its connection."""

    subject: Subject
    congested: bool
    unread_since_ns: HostNs

    @property
    def client_index(self) -> int:
        """The index of its client; that of nothing if none owns it."""
        ...

    @property
    def program(self) -> Subject | None:
        """The program that owns the stream; None for a module's."""
        ...

    def record_changed(self, record: RecordStream, kind: Change) -> None:
        """The graph has moved or removed the stream's node."""
        ...

    def send_block(self, channel: int, data: bytes) -> None:
        """Send recorded sound."""
        ...

    def notice(self, command: Command, **values: Any) -> None:
        """Send a notice."""
        ...


class RecordStream(StreamSettings[RecordAttr], Recorder):
    """One source-output; the graph's `Consumer`. It starts with a new `state`, or continues from another stream's."""

    state: RecordState
    node: Tap

    def __init__(self, owner: RecordOwner, state: RecordState, node: Tap, graph: Graph) -> None:
        self.owner, self.state, self.node, self.graph = owner, state, node, graph
        self.layout = Layout(state.format.frame_bytes, state.format.rate)
        self._applied: Samples | None = None
        """The gains in force: `state.levelled` is the volume and mute they came from, `_unity` whether all are 1."""
        if state.applied:
            self._applied = np.asarray(state.applied, np.float32)
        self._unity = all(gain == 1.0 for gain in state.applied)
        self._queue, state.queue = bytearray(state.queue), b""
        self._meter: PeriodMeter | None = None
        self._resampler: Resumable | None = None
        self._threshold = 0
        self.apply_attr(state.attr)
        self._begin(state.meter, state.resampler)
        node.records = True
        node.charges = {"props": size_of(state.props), "resampler": self._resampler_bytes(state.format.rate)}

    def freeze(self) -> RecordState:
        """Its state, from which another stream can continue."""
        state = self.state
        state.queue = bytes(self._queue)
        state.applied = () if self._applied is None else tuple(self._applied.tolist())
        if self._meter is not None:
            state.meter = self._meter.freeze()
        if self._resampler is not None:
            state.resampler = self._resampler.freeze()
        return state

    def apply_attr(self, attr: RecordAttr) -> None:
        """Apply buffer attributes."""
        self.state.attr = attr
        fragment_ns = self.layout.to_ns(attr.fragsize)
        self.node.latency_ask_ns = max(2_500_000, min(fragment_ns, 40 * NS_PER_MS))
        self._threshold = min(attr.fragsize, self.layout.to_bytes(DELIVER_NS))

    def _resampler_bytes(self, rate: int) -> int:
        channels = len(self.format.positions)
        if self._metered(rate):
            return 0
        if self.state.glide:
            return SINC_BYTES * channels
        return resampler_bytes(self.graph.rate, rate, channels, self._low_delay(rate))

    def _metered(self, rate: int) -> bool:
        """Whether each frame summarises its period: for peak meters, or where a resampler would delay by minutes."""
        return self.state.peaks or stretched(rate, self.graph.rate)

    def _low_delay(self, rate: int) -> bool:
        return Layout(self.format.frame_bytes, rate).to_ns(self.attr.fragsize) < 150 * NS_PER_MS

    def set_rate(self, rate: int) -> None:
        """See `StreamSettings`."""
        state, resampler = self.state, self._resampler
        state.format = AudioFormat(state.format.sample, rate, state.format.positions)
        self.layout = Layout(state.format.frame_bytes, rate)
        if resampler is not None and state.glide and not self._metered(rate):
            resampler.glide((self.graph.rate, rate))
        else:
            state.low_delay = None
            self._begin(MeterState(), ResamplerState())

    def _begin(self, meter: MeterState, resampler: ResamplerState) -> None:
        """Make what converts to its rate, continuing from these states."""
        state, graph_rate, rate = self.state, self.graph.rate, self.format.rate
        self._meter = self._resampler = None
        if self._metered(rate):
            self._meter = PeriodMeter(graph_rate, rate, state.peaks, meter)
        else:
            state.low_delay = self._low_delay(rate) if state.low_delay is None else state.low_delay
            channels = len(state.format.positions)
            self._resampler = make_resumable((graph_rate, rate), channels, state.low_delay, state.glide, resampler)

    @property
    def queued_bytes(self) -> int:
        """Bytes recorded but not sent."""
        return len(self._queue)

    def status(self) -> RecorderStatus:
        """See `Recorder`."""
        program = self.owner.program
        return RecorderStatus("pulse", self.format, UNKNOWN if program is None else program.identity)

    def set_corked(self, corked: bool) -> None:
        """Pause or resume. A corked recorder does not keep the graph running."""
        self.set_active(not corked)
        self.graph.touch(self.node)

    def set_active(self, active: bool) -> None:
        """Start or stop recording."""
        self.state.corked = not active
        self.node.active, self.node.clocked = active, active and self.state.keeps_awake

    def flush(self) -> None:
        """Discard what has not been sent."""
        self._queue.clear()
        self.node.account.hold("queue", 0)

    def remove(self) -> None:
        """Remove the stream."""
        self.graph.remove_tap(self.node)

    def ended(self) -> None:
        """The graph has removed the stream, whatever the cause."""
        self._queue.clear()

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        del position, level
        if self._meter is not None:
            block = self._meter.feed(block)
        elif self._resampler is not None:
            block = self._resampler.process(block)
        if not len(block):
            return
        state = self.state
        data = encode(state.format.sample, self._levelled(block))
        state.write_index += len(data)
        self._queue += data
        self._deliver()

    def _levelled(self, block: Samples) -> Samples:
        """Apply the recorder's own level; its source's is already applied. A change ramps over the block."""
        state = self.state
        asked = state.gains, state.mute
        before, gains = self._applied, self._applied
        if gains is None or asked != state.levelled:
            self._applied = gains = np.asarray((0.0,) * len(state.gains) if state.mute else state.gains, np.float32)
            state.levelled, self._unity = asked, bool((gains == 1.0).all())
            if before is not None and not np.array_equal(before, gains):
                return block * (before + ramp(len(block)) * (gains - before))
        return block if self._unity else block * gains

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`: a running recorder keeps the graph clocked, so this one is corked."""
        del position

    def _room(self) -> int:
        """How many bytes may be queued for a client that does not read."""
        paid = self.node.account.part("queue")
        wanted = min(len(self._queue), self.attr.maxlength)
        if wanted <= paid or self.node.account.fits("queue", paid := -(-wanted // UNREAD_STEP) * UNREAD_STEP):
            return self.attr.maxlength
        return self.node.account.part("queue")

    # Sound is sent as soon as there is enough of it, with no request from the client, so a client that stops reading
    # would make the queue grow without end. While the connection is congested nothing is handed to it; the newest
    # sound is kept, as a recorder that resumes wants to be current.
    def _deliver(self) -> None:
        """Send once enough is queued. While the client does not read, keep the newest sound, up to maxlength and to
        what the guest's budget allows."""
        if self.owner.congested:
            excess = len(self._queue) - self._room()
            if excess > 0:
                frame = self.layout.frame_bytes
                excess = -(-excess // frame) * frame
                del self._queue[:excess]
                self.graph.report_node(self.node, "unread", self.owner.unread_since_ns)
            return
        if len(self._queue) < self._threshold:
            return
        data, self._queue = bytes(self._queue), bytearray()
        self.node.account.hold("queue", 0)
        for at in range(0, len(data), self.attr.fragsize):
            self.owner.send_block(self.channel, data[at : at + self.attr.fragsize])
