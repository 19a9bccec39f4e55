"""module-loopback: a recorder whose sound is fed into a playback stream.

Both are ordinary streams: listed, with levels, movable, in the requested format. Sound is queued between them for the
requested latency, so a loopback can even record its own output, as an echo. *Moving* one to where it would is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from millrace.doors.admission import permission_of
from millrace.doors.pulse.attrs import MAXLENGTH_MAX, Layout, PlaybackAttr, RecordAttr
from millrace.doors.pulse.detached import attach_record, detach_playback, detach_record, resume_playback
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import PlaybackState, RecordState, new_playback, new_record
from millrace.dsp.convert import Samples
from millrace.graph.model import Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import Subject
from millrace.units import NS_PER_MS, Frames, HostNs, ns_to_frames
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Seek
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props

LATENCY_MS, LATENCY_MS_MAX = 200, 30_000
LATENCY_MIN_NS: HostNs = 10 * NS_PER_MS
"""A lower latency can't be sustained: a cycle takes at least 2.5 ms, and several lie in between."""
PIECE_MIN_NS: HostNs = LATENCY_MIN_NS // 2
"""One piece plays while the next is recorded. Shorter ones would shorten everyone's cycles without lower latency."""
PIECE_MAX_NS: HostNs = 20 * NS_PER_MS
QUIET_NS: HostNs = 200 * NS_PER_MS
"""After its latency plus this much silence, nothing is passed on, so that an idle graph can suspend."""


class LoopbackState(msgspec.Struct, kw_only=True):
    """A loopback between two cycles. Its nodes belong to the graph."""

    tap: int
    record: RecordState
    rests_after: Frames
    quiet: Frames
    stream: int
    playback: PlaybackState
    source: int | None
    sink: int | None


# A loopback may record its own output when it is loaded (an echo, delayed by the queue), but no later move may bring
# that about unasked. A move that a client requests is refused beforehand. A move that follows from something else,
# such as a new default or a removed sink, is noticed afterwards and undone; where it can't be, because the old sink
# is leaving, the module is unloaded. `_source` and `_sink` are where the two streams were last accepted.
class Loopback:
    """Owner of the two streams."""

    client_index = NO_INDEX
    program = None
    congested = False
    unread_since_ns: HostNs = 0

    def __init__(self, door: PulseDoor, module: Module, subject: Subject) -> None:
        self._door, self.module, self.subject = door, module, subject
        self._record: Heard | None = None
        self._playback: PlaybackStream | None = None
        self._source: Sink | None = None
        self._sink: Sink | None = None

    @property
    def now_ns(self) -> HostNs:
        """See `Owner`."""
        return self._door.graph.now_ns

    def begin(
        self, tap: Tap, stream: Stream, source: Sink, sink: Sink, fmt: AudioFormat, latency_ns: HostNs,
        props: tuple[Props, Props],
    ) -> None:  # fmt: skip
        """Record `source` through `tap` and play it on `sink` through `stream`; `props` are those of each."""
        graph, layout = self._door.graph, Layout(fmt.frame_bytes, fmt.rate)
        self._record = Heard(self, new_record(0, fmt, _pieces(layout, latency_ns), props[0]), tap, graph)
        self._record.rests_after = ns_to_frames(QUIET_NS + latency_ns, graph.rate)
        self._record.state.keeps_awake = False
        self._record.set_active(True)
        self._playback = PlaybackStream(
            self, new_playback(0, fmt, _waiting(layout, latency_ns), props[1]), stream, graph
        )
        self._playback.state.end_is_drain = True
        self._source = source
        self._door.begin_playback(self._playback, sink)
        self._sink = stream.sink
        self._door.begin_record(self._record, source)

    def end(self) -> None:
        """Remove both streams."""
        # Cleared first: removing the streams calls `playback_changed` and `record_changed`.
        playback, record, self._playback, self._record = self._playback, self._record, None, None
        if playback is not None:
            playback.remove()
        if record is not None:
            record.remove()

    # -- handing on ------------------------------------------------------------------------------

    def freeze(self) -> LoopbackState:
        """Detach both streams and return the state."""
        playback, record, self._playback, self._record = self._playback, self._record, None, None
        assert playback is not None and record is not None
        return LoopbackState(
            tap=record.node.id, record=detach_record(self._door, record), rests_after=record.rests_after,
            quiet=record.quiet, stream=playback.node.id, playback=detach_playback(self._door, playback),
            source=_id(self._source), sink=_id(self._sink),
        )  # fmt: skip

    def resume(self, state: LoopbackState) -> None:
        """Continue from the state of another one."""
        door, mixes = self._door, {mix.id: mix for mix in self._door.graph.mixes()}
        if state.source is not None and state.sink is not None:
            self._source, self._sink = mixes.get(state.source), mixes.get(state.sink)
        self._record = Heard(self, state.record, door.graph.taps[state.tap], door.graph)
        self._record.rests_after, self._record.quiet = state.rests_after, state.quiet
        attach_record(door, self._record)
        self._playback = resume_playback(door, state.stream, state.playback, self)

    # -- moves -----------------------------------------------------------------------------------

    def demand_no_echo(self, source: Sink | None = None, sink: Sink | None = None) -> None:
        """PulseAudio's INVALID if a move would make it record its own output."""
        if (source or self._source) is (sink or self._sink):
            raise CommandError(Err.INVALID, "the loopback would hear itself there")

    def playback_changed(self, stream: PlaybackStream, kind: Change) -> None:
        """See `Owner`. Without its stream the module is unloaded. A move that would make it record itself is undone."""
        if self._playback is None or kind is Change.NEW:
            return
        if kind is Change.REMOVE:
            self._door.unload(self.module)
            return
        if stream.held_back:
            stream.flush()
        before, now = self._sink, stream.node.sink
        if now is before or before is None:
            return
        graph = self._door.graph
        if now is not self._source:
            self._sink = now
        elif before.id in graph.sinks and before not in graph.leaving:
            graph.move_stream(stream.node, before)
        else:
            self._door.unload(self.module)

    def record_changed(self, record: RecordStream, kind: Change) -> None:
        """See `RecordOwner`."""
        if self._record is None or kind is Change.NEW:
            return
        if kind is Change.REMOVE:
            self._door.unload(self.module)
            return
        before, now = self._source, record.node.sink
        if now is None or now is before or before is None:
            return
        if now is self._sink:
            # If its old source is being removed, moving back is harmless: the module is unloaded with its master.
            self._door.graph.move_tap(record.node, before)
            return
        self._source, self.module.masters = now, [now]
        self.module.recorder = permission_of(now), self.subject

    # -- sound -----------------------------------------------------------------------------------

    # Nothing limits the recorder, as requests limit a client. While the playback stream is held back, what is recorded
    # is dropped, and so is what is queued in excess of the buffer, whatever the cause. In both cases the stream begins
    # anew with what comes next, at its latency, as in PulseAudio.
    def send_block(self, channel: int, data: bytes) -> None:
        """See `RecordOwner`: play what was recorded."""
        del channel
        playback = self._playback
        if playback is None:
            return
        if playback.held_back or playback.queue.length + len(data) > playback.attr.maxlength:
            playback.flush()
        if not playback.held_back:
            playback.write(Seek.RELATIVE, 0, data)

    def notice(self, command: Command, **values: Any) -> None:
        """See `Owner`: there is no client to notify."""

    def reply(self, request: Request) -> None:
        """See `Owner`."""

    def fail(self, request: Request, code: Err) -> None:
        """See `Owner`."""


# A loopback that records silence and plays it would keep its graph running for ever. So the recorder rests after the
# queue between the two streams (its latency) has drained and `QUIET_NS` has passed: it passes nothing on and lets the
# graph be suspended. Sound itself brings it back, since something else must be running for sound to arrive.
class Heard(RecordStream):
    """The loopback's recorder. It keeps the graph running only while recorded sound has yet to be played."""

    rests_after: Frames = 0
    quiet: Frames = 0

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer`."""
        self.quiet = 0 if level > 0.0 else self.quiet + len(block)
        awake = self.quiet <= self.rests_after
        if awake and (level > 0.0 or self.node.clocked):
            super().consume(block, position, level)
        if awake != self.node.clocked and (level > 0.0 or not awake):
            self.node.clocked = awake
            self.graph.touch(self.node)


def _id(mix: Sink | None) -> int | None:
    return None if mix is None else mix.id


def _pieces(layout: Layout, latency_ns: HostNs) -> RecordAttr:
    piece = layout.to_bytes(max(PIECE_MIN_NS, min(latency_ns // 4, PIECE_MAX_NS)))
    return RecordAttr(MAXLENGTH_MAX, piece)


def _waiting(layout: Layout, latency_ns: HostNs) -> PlaybackAttr:
    """Prebuffering makes playback start once the latency is queued."""
    queued = layout.to_bytes(max(latency_ns, LATENCY_MIN_NS))
    ask_ns = max(PIECE_MIN_NS, latency_ns // 4)
    return PlaybackAttr(2 * queued, queued, queued, layout.frame_bytes, ask_ns, 0, 2 * queued)
