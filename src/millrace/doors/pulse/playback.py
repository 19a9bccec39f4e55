"""Playback streams: the client's bytes, flow control, and the graph's pull.

The rules are those of pulsecore/memblockq.c. Reading adds to `missing`; received bytes are subtracted from
`requested`. Once enough is missing, the client is sent a request for exactly that much. A request that is
never sent stalls the client for ever, so every path that changes an index ends in `ask`.
"""

from __future__ import annotations

from typing import Any, Protocol

from millrace.budget import size_of
from millrace.doors.ingress import Ingress
from millrace.doors.pulse.attrs import Layout, PlaybackAttr
from millrace.doors.pulse.queue import ByteQueue, capacity_for
from millrace.doors.pulse.rendered import NEVER, Rendered
from millrace.doors.pulse.status import PulseStatus
from millrace.doors.resampled import Resampled
from millrace.dsp.convert import Buffer, Samples, decode, silence_byte
from millrace.dsp.resample import SINC_BYTES, holds_ns, resampler_bytes, stretched
from millrace.graph.graph import Graph
from millrace.graph.model import Stream
from millrace.graph.quantum import QUANTA_NS
from millrace.media.format import AudioFormat
from millrace.rights.grants import Subject
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, frames_to_ns
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Seek
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props

LOW_DELAY_NS = 150 * NS_PER_MS
"""A stream that requests less than this gets a resampler with low delay instead of low CPU use."""
GRACE_NS = 200 * NS_PER_MS
"""How long to wait for a late client without prebuffering before the read index moves on."""


class Owner(Protocol):
    """A stream's interface to its connection."""

    index: int

    @property
    def program(self) -> Subject | None:
        """The program that owns the stream; None for streams of modules and samples."""
        ...

    @property
    def now_ns(self) -> HostNs:
        """The time of the event being processed."""
        ...

    def playback_changed(self, stream: PlaybackStream, kind: Change) -> None:
        """The graph has moved or removed the stream's node."""
        ...

    def notice(self, command: Command, **values: Any) -> None:
        """Send a notice to the client."""
        ...

    def reply(self, request: Request) -> None:
        """Acknowledge a request."""
        ...

    def fail(self, request: Request, code: Err) -> None:
        """Refuse a request."""
        ...


def _may_queue(node: Stream, size: int) -> bool:
    """Whether a queue may use this much memory. The room for `tlength` was charged when the stream was created."""
    return node.account.fits("queue", max(0, size - node.account.part("paid queue")))


class PlaybackStream(Ingress):
    """One sink-input; the graph's `Feed`."""

    def __init__(
        self, owner: Owner, channel: int, fmt: AudioFormat, attr: PlaybackAttr, node: Stream, graph: Graph,
        props: Props, glide: bool = False,
    ) -> None:  # fmt: skip
        self.owner, self.channel, self.format, self.glide = owner, channel, fmt, glide
        self.node, self.graph, self.props = node, graph, props
        self.layout = Layout(fmt.frame_bytes, fmt.rate)
        self.corked = False
        self.fail_on_suspend = False
        self.sync_id = NO_INDEX
        self._synchronised = False
        self._own_pin = node.pinned
        self.queue = ByteQueue(attr.maxlength, silence_byte(fmt.sample), lambda size: _may_queue(node, size))
        self.missing = attr.tlength
        self.requested = 0
        self.prebuffering = True
        self.drain: Request | None = None
        self.rendered = Rendered()
        self.removed = False
        self.end_is_drain = False
        self._underflow_told = True
        self._grace_frames = self._grace_frames_max = GRACE_NS * graph.rate // NS_PER_S
        self._missed_part = 0
        self._pulled_at: Frames = 0
        self._pulled_frames: Frames = 0
        """Frames pulled so far in the cycle at that position."""
        self._wrote_ns: HostNs = 0
        self._asked_ns: HostNs = 0
        self._every_ns: HostNs = 0
        self.goes_when_heard = False
        """Whether the stream ends when all of it has been played."""
        self.attr = attr
        self._resampled = Resampled(fmt.rate, graph.rate, len(fmt.positions), self._low_delay(fmt.rate), glide)
        self.apply_attr(attr)
        node.asks = {
            "paid queue": capacity_for(attr.tlength),
            "props": size_of(props),
            "resampler": self._resampler_bytes(fmt.rate),
        }

    # -- settings ------------------------------------------------------------------------

    def begin_with(self, other: PlaybackStream) -> None:
        """Start the indices where `other`, which is paused, will resume."""
        waiting_ns = frames_to_ns(self.graph.ahead(other.node), self.graph.rate) + other.held_ns
        heard_ns = max(0, other.layout.to_ns(other.queue.read_index) - waiting_ns)
        self.queue.begin_at(self.layout.to_bytes(heard_ns))

    def set_synchronised(self, synchronised: bool) -> None:
        """Synchronised streams play in step, sample by sample: they can't be moved alone or wait for a late client."""
        self._synchronised = synchronised
        self.node.pinned = "it is synchronised with others" if synchronised else self._own_pin

    def pay_for(self, size: int) -> None:
        """Before the stream is added: charge for a queue of this size in advance."""
        self.queue.maxlength = size
        self.node.asks["paid queue"] = capacity_for(size)

    def change_attr(self, attr: PlaybackAttr) -> None:
        """Change the buffer attributes; BudgetError if there is no room for them."""
        self.node.account.hold("paid queue", capacity_for(attr.tlength))
        self.apply_attr(attr)
        _may_queue(self.node, self.queue.capacity)
        self.node.account.fits("resampler", self._resampler_bytes(self.format.rate))

    def apply_attr(self, attr: PlaybackAttr) -> None:
        """Apply buffer attributes."""
        self.missing += attr.tlength - self.attr.tlength
        self.attr = attr
        self.queue.maxlength = attr.maxlength
        self.node.latency_ask_ns = attr.sink_ns
        self.node.bulk_frames = attr.bulk_ns * self.graph.rate // NS_PER_S
        self._resampled.change(self.format.rate, self._low_delay(self.format.rate))

    def change_rate(self, rate: int) -> None:
        """Switch to another rate; BudgetError if there is no room for the resampler."""
        self.node.account.hold("resampler", self._resampler_bytes(rate))
        self.set_rate(rate)

    def set_rate(self, rate: int) -> None:
        """Switch to another rate, without charging for it."""
        self.format = AudioFormat(self.format.sample, rate, self.format.positions)
        self.layout = Layout(self.format.frame_bytes, rate)
        self._resampled.change(rate, self._low_delay(rate))

    def _low_delay(self, rate: int) -> bool:
        """Whether the buffer is too short for the delay of the cheaper resampler."""
        layout = Layout(self.layout.frame_bytes, rate)
        tlength, minreq = layout.to_ns(self.attr.tlength), layout.to_ns(self.attr.minreq)
        spare = tlength - 2 * minreq - QUANTA_NS[-1]
        return tlength < LOW_DELAY_NS or spare < holds_ns(rate, self.graph.rate, low_delay=False)

    def _resampler_bytes(self, rate: int) -> int:
        channels = len(self.format.positions)
        if self.glide and not stretched(rate, self.graph.rate):
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

    def status(self) -> PulseStatus:
        """See `Ingress`."""
        to_ns, attr, program = self.layout.to_ns, self.attr, self.owner.program
        identity = None if program is None else program.identity
        return PulseStatus(
            "pulse", self.format, to_ns(self.queue.length), 0 if identity is None else identity.pid,
            to_ns(max(0, self.requested)), self.corked, self.drain is not None, self.resample_method,
            identity=identity, tlength_ns=to_ns(attr.tlength), prebuf_ns=to_ns(attr.prebuf),
        )  # fmt: skip

    # -- the client's side ---------------------------------------------------------------

    def write(self, seek: int, offset: int, data: Buffer) -> None:
        """A memory block has arrived."""
        if seek != Seek.RELATIVE or offset:
            before = self.queue.write_index
            self.queue.seek(seek, offset)
            self._account(self.queue.write_index - before, received=seek == Seek.RELATIVE)
        now = self.owner.now_ns
        if now > self._wrote_ns:
            self._every_ns, self._wrote_ns = now - self._wrote_ns, now
        self._asked_ns = 0
        if len(data):
            self.requested -= len(data)
            if not self.queue.write(data):
                self.graph.troubled(self.node, "overrun", 0)
                self.owner.notice(Command.OVERFLOW, channel=self.channel)
        self._resampled.tail_done = False
        self.check_ready()
        self.ask()

    def _account(self, delta: int, received: bool) -> None:
        if received:
            self.requested -= delta
        else:
            self.missing -= delta

    def ask(self) -> None:
        """Request what is missing, once there is enough for a request."""
        if (self.missing >= self.attr.ask or self.prebuffering) and self.missing > 0 and not self.removed:
            self.requested += self.missing
            size, self.missing = self.missing, 0
            if not self._asked_ns:
                self._asked_ns = max(self.graph.now_ns, self.owner.now_ns)
            self.owner.notice(Command.REQUEST, channel=self.channel, bytes=size)

    def take_first_request(self) -> int:
        """`missing` for the create reply: all of tlength."""
        self.requested += self.missing
        size, self.missing = self.missing, 0
        return size

    def check_ready(self) -> None:
        """Start playing if prebuffering is over and nothing holds the stream back."""
        if self.prebuffering and self.queue.length >= self.attr.prebuf:
            self.prebuffering = False
        if self.prebuffering or self.node.active:
            return
        held = self.corked or self.node.sink.suspended or self.removed
        has_sound = self.queue.length or self.attr.prebuf == 0 or (self.drain is not None and self._resampled.held_ns)
        if not held and has_sound:
            self.graph.activate(self.node)

    def set_corked(self, corked: bool) -> None:
        """Pause or resume."""
        if corked != self.corked:
            self.corked = corked
            if self.drain is None:
                self._force_prebuf()
            self.rendered.restart()
            self._underflow_told = True
            if corked:
                self.graph.deactivate(self.node, "corked")
                self._finish_drain_if_empty()
            self.graph.touch(self.node)
        self.check_ready()
        self.ask()

    def flush(self) -> None:
        """Discard what is queued, and request as much again from the client."""
        before = self.queue.write_index
        self.graph.discard(self.node)
        self.queue.flush()
        self._resampled.clear()
        self._break_off()
        self._tell_underflow(fault=False)
        self._account(self.queue.write_index - before, received=False)
        self._force_prebuf()
        self._finish_drain_if_empty()
        self.ask()

    def trigger(self) -> None:
        """Play what is queued, however little."""
        self.prebuffering = False
        self.check_ready()

    def prebuf(self) -> None:
        """Start prebuffering again."""
        self._force_prebuf()
        self.check_ready()
        self.ask()

    def _force_prebuf(self) -> None:
        if self.attr.prebuf > 0:
            self.prebuffering = True
            if self.queue.length < self.attr.prebuf:
                self.graph.deactivate(self.node, "prebuffering")

    def begin_drain(self, request: Request) -> None:
        """Acknowledge `request` when the last frame has been played."""
        if self.drain is not None:
            self.owner.fail(self.drain, Err.BADSTATE)
        self.drain = request
        self.prebuffering = False
        if self._empty():
            self._finish_drain()
        else:
            self.check_ready()

    def _empty(self) -> bool:
        """Whether nothing is left to play. That includes what the resampler held back when the stream ran dry."""
        paused = self.corked or self.node.sink.suspended
        left = self._resampled.pending if paused else self._resampled.held_ns
        return self.queue.length == 0 and not left and self.graph.ahead(self.node) == 0

    def _finish_drain_if_empty(self) -> None:
        if self.drain is not None and self._empty():
            self._finish_drain()

    def _finish_drain(self) -> None:
        if self.drain is not None:
            request, self.drain = self.drain, None
            self.owner.reply(request)

    def remove(self) -> None:
        """Remove the stream."""
        self.graph.remove_stream(self.node)

    def ended(self) -> None:
        """The graph has removed the stream, whatever the cause. A pending drain fails."""
        self.removed = True
        self.queue.close()
        self._resampled.clear()
        if self.drain is not None:
            request, self.drain = self.drain, None
            self.owner.fail(request, Err.NOENTITY)

    # -- the graph's side ----------------------------------------------------------------

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        if self._resampled.direct:
            got = self._pull_direct(out)
        else:
            got = self._resampled.pull(out, self._pull_direct, self._due(len(out)))
            self._pulled_frames += got
        if got:
            self._underflow_told = False
            self._grace_frames = self._grace_frames_max
            self.ask()
        return got

    def _due(self, most: Frames) -> Frames:
        """How many frames to produce even when the queue runs out: all of them, or those that silence would replace.

        So a word is played to its end before a pause, instead of its last milliseconds just before the next word.
        """
        if self.drain is not None or self.end_is_drain:
            return most
        if self._pulled_at != self.graph.position:
            self._pulled_at, self._pulled_frames = self.graph.position, 0
        ahead = self.graph.ahead(self.node) + self._pulled_frames
        return self.graph.quantum_frames - ahead

    def _pull_direct(self, out: Samples) -> Frames:
        frame = self.layout.frame_bytes
        frames = min(self.queue.length // frame, len(out))
        if frames == 0:
            return 0
        at, views = 0, self.queue.peek(frames * frame)
        if len(views) > 1 and len(views[0]) % frame:
            views = [memoryview(b"".join(views))]
        for view in views:
            end = at + len(view) // frame
            decode(self.format.sample, view, out[at:end].reshape(-1))
            at = end
        self._advance(frames * frame)
        return frames

    def _advance(self, size: int) -> None:
        if self.rendered.silent:
            # Not reported yet: the client was late by less than a cycle, but that was a dropout all the same.
            self._tell_underflow(fault=True)
        self.queue.advance(size)
        self.missing += size
        if self.rendered.taken(size):
            self.owner.notice(Command.STARTED, channel=self.channel)

    def _break_off(self) -> None:
        self.rendered.broke_off(self.graph.position + self.graph.ahead(self.node))

    @property
    def playing(self) -> bool:
        """Whether the stream's clock runs: it is active, and some of it has been rendered."""
        return self.rendered.playing_for > 0 and self.node.active

    def underrun_for(self, now_ns: HostNs) -> int:
        """Bytes of silence rendered since the stream ran dry."""
        frames = self.rendered.underrun_frames(self.graph.rendered_at(now_ns))
        if frames is None:
            return NEVER
        return frames * self.format.rate // self.graph.rate * self.layout.frame_bytes

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`: the client did not deliver in time, or the stream has ended."""
        if self.attr.prebuf == 0 and self.drain is None:
            self._let_time_go_on(frames)
        else:
            self._break_off()
        if not played_out:
            return
        self._tell_underflow(fault=self.drain is None and not self.end_is_drain)
        self._finish_drain()
        if self.attr.prebuf > 0 or self.queue.length == 0:
            self.prebuffering = self.attr.prebuf > 0
            self._stop_if_prebuffering()
        if self.goes_when_heard and not self.removed:
            self.remove()

    @property
    def silent_since_ns(self) -> HostNs:
        """When the client stopped writing: halfway from its last write to the next request, or the next write due."""
        expected = self._wrote_ns + self._every_ns
        return (self._wrote_ns + min(self._asked_ns or expected, expected)) // 2

    def _let_time_go_on(self, frames: Frames) -> None:
        """Without prebuffering, the read index advances through an underrun, and late data is dropped.

        But a whole quantum is taken at once here, and several if the machine has stalled, so a client that is slightly
        late did not miss its time by that much. For the first `GRACE_NS` of a shortage, the read index therefore waits.
        """
        waited = 0 if self._synchronised else min(frames, self._grace_frames)
        if waited:
            self._break_off()
        self._grace_frames -= waited
        missed, self._missed_part = divmod((frames - waited) * self.format.rate + self._missed_part, self.graph.rate)
        if missed:
            self._advance(missed * self.layout.frame_bytes)
            self.ask()

    def _stop_if_prebuffering(self) -> None:
        if self.prebuffering:
            self.graph.deactivate(self.node, "underrun")
            self.ask()

    def _tell_underflow(self, fault: bool) -> None:
        """Notify the client, once each time the stream runs dry. After a flush or drain it was intended: no `fault`."""
        if self._underflow_told:
            return
        self._underflow_told = True
        if fault:
            self.node.underruns += 1
            self.graph.troubled(self.node, "underrun", self.silent_since_ns)
        self.owner.notice(Command.UNDERFLOW, channel=self.channel, offset=self.queue.read_index)
