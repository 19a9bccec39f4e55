"""Playback streams: the client's bytes, flow control, and the graph's pull.

The rules are those of pulsecore/memblockq.c. Reading adds to `missing`; received bytes are subtracted from
`requested`. Once enough is missing, the client is sent a request for exactly that much. A request that is
never sent stalls the client for ever, so every path that changes an index ends in `ask`.
"""

from __future__ import annotations

from typing import Any, Protocol

from millrace.doors.ingress import Ingress
from millrace.doors.pulse.rendered import NEVER
from millrace.doors.pulse.settings import PlaybackSettings
from millrace.doors.pulse.state import PlaybackState
from millrace.doors.pulse.status import PulseStatus
from millrace.dsp.convert import Buffer, Samples, decode
from millrace.graph.graph import Graph
from millrace.graph.model import Stream
from millrace.rights.grants import Subject
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs
from millrace.wire.pulse.constants import Change, Command, Err, Seek
from millrace.wire.pulse.session import Request

GRACE_NS = 200 * NS_PER_MS
"""How long to wait for a late client without prebuffering before the read index moves on."""


class Owner(Protocol):
    """A stream's interface to its connection."""

    @property
    def client_index(self) -> int:
        """The index of its client; that of nothing if none owns it."""
        ...

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


def drain_request(tag: int) -> Request:
    """The request with that tag, as far as its answer depends on it."""
    return Request(Command.DRAIN_PLAYBACK_STREAM, tag, {})


class PlaybackStream(PlaybackSettings, Ingress):
    """One sink-input; the graph's `Feed`. It starts with a new `state`, or continues from another stream's."""

    def __init__(self, owner: Owner, state: PlaybackState, node: Stream, graph: Graph) -> None:
        super().__init__(state, node, graph)
        self.owner = owner
        self.removed = False
        self._grace_frames_max = GRACE_NS * graph.rate // NS_PER_S

    def status(self) -> PulseStatus:
        """See `Ingress`."""
        state, to_ns, program = self.state, self.layout.to_ns, self.owner.program
        identity = None if program is None else program.identity
        return PulseStatus(
            "pulse", state.format, to_ns(self.queue.length), 0 if identity is None else identity.pid,
            to_ns(max(0, state.requested)), state.corked, state.drain is not None, self.resample_method,
            identity=identity, tlength_ns=to_ns(state.attr.tlength), prebuf_ns=to_ns(state.attr.prebuf),
        )  # fmt: skip

    # -- the client's side ---------------------------------------------------------------

    def write(self, seek: int, offset: int, data: Buffer) -> None:
        """A memory block has arrived."""
        state = self.state
        if seek != Seek.RELATIVE or offset:
            before = self.queue.write_index
            self.queue.seek(seek, offset)
            self._account(self.queue.write_index - before, received=seek == Seek.RELATIVE)
        now = self.owner.now_ns
        if now > state.wrote_ns:
            # One write says nothing of how often there will be any.
            state.every_ns = now - state.wrote_ns if state.wrote_ns else 0
            state.wrote_ns = now
        state.asked_ns = 0
        if len(data):
            state.requested -= len(data)
            if not self.queue.write(data):
                self.graph.report_node(self.node, "overrun", 0)
                self.owner.notice(Command.OVERFLOW, channel=state.channel)
        self._resampled.tail_done = False
        self.check_ready()
        self.ask()

    def _account(self, delta: int, received: bool) -> None:
        if received:
            self.state.requested -= delta
        else:
            self.state.missing -= delta

    def ask(self) -> None:
        """Request what is missing, once there is enough for a request."""
        state = self.state
        if (state.missing >= state.attr.ask or state.prebuffering) and state.missing > 0 and not self.removed:
            state.requested += state.missing
            size, state.missing = state.missing, 0
            if not state.asked_ns:
                state.asked_ns = max(self.graph.now_ns, self.owner.now_ns)
            self.owner.notice(Command.REQUEST, channel=state.channel, bytes=size)

    def take_first_request(self) -> int:
        """`missing` for the create reply: all of tlength."""
        state = self.state
        state.requested += state.missing
        size, state.missing = state.missing, 0
        return size

    def check_ready(self) -> None:
        """Start playing if prebuffering is over and nothing holds the stream back."""
        state = self.state
        if state.prebuffering and self.queue.length >= state.attr.prebuf:
            state.prebuffering = False
        if state.prebuffering or self.node.active:
            return
        held = self.held_back or self.removed
        tail = state.drain is not None and self._resampled.held_ns
        # What the graph had taken when the stream was paused counts: nothing else may come.
        has_sound = self.queue.length or self.graph.ahead(self.node) or state.attr.prebuf == 0 or tail
        if not held and has_sound:
            self.graph.activate(self.node)

    @property
    def held_back(self) -> bool:
        """Whether it may not play, however much is queued."""
        return self.state.corked or self.node.sink.suspended

    def set_corked(self, corked: bool) -> None:
        """Pause or resume."""
        state = self.state
        if corked != state.corked:
            state.corked = corked
            if state.drain is None:
                self._force_prebuf()
            state.rendered.restart()
            state.underflow_told = True
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
        self.state.prebuffering = False
        self.check_ready()

    def prebuf(self) -> None:
        """Start prebuffering again."""
        self._force_prebuf()
        self.check_ready()
        self.ask()

    def _force_prebuf(self) -> None:
        state = self.state
        if state.attr.prebuf > 0:
            state.prebuffering = True
            if self.queue.length < state.attr.prebuf:
                self.graph.deactivate(self.node, "prebuffering")

    def begin_drain(self, request: Request) -> None:
        """Acknowledge `request` when the last frame has been played."""
        state = self.state
        if state.drain is not None:
            self.owner.fail(drain_request(state.drain), Err.BADSTATE)
        state.drain = request.tag
        state.prebuffering = False
        if self._empty():
            self._finish_drain()
        else:
            self.check_ready()

    def _empty(self) -> bool:
        """Whether nothing is left to play. That includes what the resampler held back when the stream ran dry."""
        left = self._resampled.pending if self.held_back else self._resampled.held_ns
        return self.queue.length == 0 and not left and self.graph.ahead(self.node) == 0

    def _finish_drain_if_empty(self) -> None:
        if self.state.drain is not None and self._empty():
            self._finish_drain()

    def _finish_drain(self) -> None:
        state = self.state
        if state.drain is not None:
            tag, state.drain = state.drain, None
            self.owner.reply(drain_request(tag))

    def remove(self) -> None:
        """Remove the stream."""
        self.graph.remove_stream(self.node)

    def ended(self) -> None:
        """The graph has removed the stream, whatever the cause. A pending drain fails."""
        state = self.state
        self.removed = True
        self.queue.close()
        self._resampled.clear()
        if state.drain is not None:
            tag, state.drain = state.drain, None
            self.owner.fail(drain_request(tag), Err.NOENTITY)

    # -- the graph's side ----------------------------------------------------------------

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        state, resampled = self.state, self._resampled
        if resampled.direct:
            got = self._pull_direct(out)
        else:
            got = resampled.pull(out, self._pull_direct, self._due(len(out)))
            state.pulled_frames += got
        if got:
            state.underflow_told = False
            state.waited_frames = 0
            self.ask()
        return got

    def _due(self, most: Frames) -> Frames:
        """How many frames to produce even when the queue runs out: all of them, or those that silence would replace.

        So a word is played to its end before a pause, instead of its last milliseconds just before the next word.
        """
        state = self.state
        if state.drain is not None or state.end_is_drain:
            return most
        if state.pulled_at != self.graph.position:
            state.pulled_at, state.pulled_frames = self.graph.position, 0
        ahead = self.graph.ahead(self.node) + state.pulled_frames
        return self.graph.quantum_frames - ahead

    def _pull_direct(self, out: Samples) -> Frames:
        frame = self.layout.frame_bytes
        frames = min(self.queue.length // frame, len(out))
        if frames == 0:
            return 0
        at, sample, views = 0, self.state.format.sample, self.queue.peek(frames * frame)
        if len(views) > 1 and len(views[0]) % frame:
            views = [memoryview(b"".join(views))]
        if len(views) == 1:
            decode(sample, views[0], out[:frames].reshape(-1))
        else:
            for view in views:
                end = at + len(view) // frame
                decode(sample, view, out[at:end].reshape(-1))
                at = end
        self._advance(frames * frame)
        return frames

    def _advance(self, size: int) -> None:
        state = self.state
        if state.rendered.silent:
            # Not reported yet: the client was late by less than a cycle, but that was a dropout all the same.
            self._tell_underflow(fault=True)
        self.queue.advance(size)
        state.missing += size
        if state.rendered.taken(size):
            self.owner.notice(Command.STARTED, channel=state.channel)

    def _break_off(self) -> None:
        self.state.rendered.broke_off(self.graph.position + self.graph.ahead(self.node))

    @property
    def playing(self) -> bool:
        """Whether the stream's clock runs: it is active, and some of it has been rendered."""
        return self.state.rendered.playing_for > 0 and self.node.active

    def underrun_for(self, now_ns: HostNs) -> int:
        """Bytes of silence rendered since the stream ran dry."""
        frames = self.state.rendered.underrun_frames(self.graph.rendered_at(now_ns))
        if frames is None:
            return NEVER
        return frames * self.state.format.rate // self.graph.rate * self.layout.frame_bytes

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`: the client did not deliver in time, or the stream has ended."""
        state = self.state
        if state.attr.prebuf == 0 and state.drain is None:
            self._let_time_go_on(frames)
        else:
            self._break_off()
        if not played_out:
            return
        self._tell_underflow(fault=state.drain is None and not state.end_is_drain)
        self._finish_drain()
        if state.attr.prebuf > 0 or self.queue.length == 0:
            state.prebuffering = state.attr.prebuf > 0
            self._stop_if_prebuffering()
        if state.goes_when_heard and not self.removed:
            self.remove()

    @property
    def silent_since_ns(self) -> HostNs:
        """When the client stopped writing: halfway from its last write to the next request, or the next write due."""
        state = self.state
        # After a long pause the next write seems to be due in the future.
        expected = min(state.wrote_ns + state.every_ns, max(self.graph.now_ns, state.wrote_ns))
        return (state.wrote_ns + min(state.asked_ns or expected, expected)) // 2

    def _let_time_go_on(self, frames: Frames) -> None:
        """Without prebuffering, the read index advances through an underrun, and late data is dropped.

        But a whole quantum is taken at once here, and several if the machine has stalled, so a client that is slightly
        late did not miss its time by that much. For the first `GRACE_NS` of a shortage, the read index therefore waits.
        """
        state = self.state
        waited = 0 if state.synchronised else min(frames, self._grace_frames_max - state.waited_frames)
        if waited:
            self._break_off()
        state.waited_frames += waited
        due = (frames - waited) * state.format.rate + state.missed_part
        missed, state.missed_part = divmod(due, self.graph.rate)
        if missed:
            self._advance(missed * self.layout.frame_bytes)
            self.ask()

    def _stop_if_prebuffering(self) -> None:
        if self.state.prebuffering:
            self.graph.deactivate(self.node, "underrun")
            self.ask()

    def _tell_underflow(self, fault: bool) -> None:
        """Notify the client, once each time the stream runs dry. After a flush or drain it was intended: no `fault`."""
        state = self.state
        if state.underflow_told:
            return
        state.underflow_told = True
        if fault:
            self.node.underruns += 1
            self.graph.report_node(self.node, "underrun", self.silent_since_ns)
        self.owner.notice(Command.UNDERFLOW, channel=state.channel, offset=self.queue.read_index)
