"""A machine's SPICE sound in a guest's graph."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from millrace.absent import nothing
from millrace.clock.jitter import JitterProfile
from millrace.clock.pace import RateController
from millrace.codec.opus import OPUS_RATE, OpusDecoder
from millrace.doors.capture import CaptureQueue
from millrace.doors.ingress import UNKNOWN_ORIGIN
from millrace.doors.machine import PlayingDoor, RecordingDoor
from millrace.doors.pushed import PROFILE, PushedStream, fitted, new_stream
from millrace.doors.soundroom import SoundRoom
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.dsp.mix import cubic_to_gain
from millrace.errors import CodecError, RemoteProtocolError
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.media.format import AudioFormat
from millrace.units import Frames, HostNs, default_map
from millrace.wire.spice.channel import SpiceChannel
from millrace.wire.spice.messages import (
    MODE_OPUS,
    MODE_RAW,
    RECORD_DATA,
    RECORD_MODE,
    RECORD_START_MARK,
    Data,
    Mode,
    Mute,
    SoundEvent,
    Start,
    Stop,
    Volume,
    playback_event,
    record_data,
    record_event,
)

RECORD_FRAMES: Frames = 512
"""spice-server 0.15.1 garbles a message that wraps in its ring of 8192 frames. Messages of this size never do."""
MM_GAP_MS = 200
_MM_MODULO = 1 << 32


class _Before(NamedTuple):
    """What a stream had that there was before: to the user it is the same machine."""

    sink: Sink
    gains: tuple[float, ...]
    mute: bool
    pace: RateController


# The server may send a mode at any time, but it governs the data only from the next Start on: a Start creates the
# decoder, and everything up to the next one goes through it. A Start in the same format continues the stream. In
# another format the stream is replaced, and the new one takes over sink, volume, mute and the measured clock, because
# to the user it is the same machine.
class SpicePlayback(PlayingDoor):
    """The playback channel: sound that the machine plays."""

    def __init__(
        self,
        graph: Graph,
        channel: SpiceChannel,
        name: str,
        profile: JitterProfile = PROFILE,
        origin: str = UNKNOWN_ORIGIN,
    ) -> None:
        self.graph, self.channel, self.name, self._origin = graph, channel, name, origin
        self.stream: PushedStream | None = None
        self._profile = profile
        self._mode = MODE_RAW
        self._opus: OpusDecoder | None = None
        self._channels = 2
        self._gains: tuple[float, ...] = (1.0,)
        self._mute = False
        self._expected_ms: int | None = None
        self._before: _Before | None = None
        self.room = SoundRoom(name, "sound", graph.budget)

    @property
    def streams(self) -> list[PushedStream]:
        """See `MachineDoor`."""
        return [] if self.stream is None else [self.stream]

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        for message in self.channel.events():
            event = playback_event(message)
            if event is not None:
                self._handle(event, now_ns)

    def _handle(self, event: SoundEvent, now_ns: HostNs) -> None:
        if isinstance(event, Data):
            self._data(event, now_ns)
        elif isinstance(event, Mode):
            if event.mode not in (MODE_RAW, MODE_OPUS):
                raise RemoteProtocolError(f"unsupported SPICE audio mode: {event.mode}")
            self._mode = event.mode
        elif isinstance(event, Start):
            self._start(event)
        elif isinstance(event, Stop):
            if self.stream is not None:
                self.stream.stop()
        elif isinstance(event, Volume | Mute):
            self._level(event)

    def _start(self, event: Start) -> None:
        if self._mode == MODE_OPUS and event.rate != OPUS_RATE:
            raise RemoteProtocolError(f"unsupported rate for SPICE Opus: {event.rate} Hz")
        if self._mode == MODE_OPUS and event.channels > 2:
            raise RemoteProtocolError(f"too many channels for SPICE Opus: {event.channels}")
        sample, coded = (SampleFormat.F32LE, "opus") if self._mode == MODE_OPUS else (SampleFormat.S16LE, "")
        fmt = AudioFormat(sample, event.rate, default_map(event.channels), coded)
        self._opus = OpusDecoder(event.channels) if self._mode == MODE_OPUS else None
        self._expected_ms = None
        if self.stream is not None and self.stream.format == fmt:
            return
        self.room.begin(0, partial(self._make, fmt))

    def _make(self, fmt: AudioFormat) -> None:
        """A stream of this format, in place of the one before."""
        old = self.stream
        if old is not None:
            self._before = _Before(old.node.sink, old.node.gains, old.node.mute, old.pace)
        before, default = self._before, self.graph.default
        assert default is not None
        sink = before.sink if before and before.sink.id in self.graph.sinks else default
        props = {"application.name": self.name, "media.name": "SPICE"}
        try:
            node = new_stream(self.graph, sink, self.name, fmt, props)
        finally:
            # What comes now is of this format, whether there is room for it or not.
            self.stream = None
            if old is not None:
                old.remove()
        if before is not None:
            node.mute, node.gains = before.mute, fitted(before.gains, len(node.gains))
        pace = before.pace if before else None
        self.stream = PushedStream(self.graph, node, fmt, self._profile, pace, self._origin)
        self.stream.set_volume(self._gains, self._mute)

    def _data(self, event: Data, now_ns: HostNs) -> None:
        stream = self.stream
        if stream is None:
            return
        block = self._decoded(event.payload, stream.format)
        self._check_time(event.mm_time, len(block), stream)
        stream.write(block, now_ns)

    # Multimedia time is in whole milliseconds modulo 2^32 and comes from the server's clock, so from one message to
    # the next it never agrees exactly with the count of frames. Only a jump counts, in either direction: `ahead` is
    # taken modulo 2^32, where a small step backwards appears as a number just below it. Sound that was left out must
    # not look like a clock that suddenly runs fast, which is what a count of frames would make of it.
    def _check_time(self, mm_time: int, frames: Frames, stream: PushedStream) -> None:
        """If multimedia time has jumped, the server has left out sound: restart the stream's clock."""
        if self._expected_ms is not None:
            ahead = (mm_time - self._expected_ms) % _MM_MODULO
            if MM_GAP_MS < ahead < _MM_MODULO - MM_GAP_MS:
                stream.stop()
        self._expected_ms = (mm_time + frames * 1000 // stream.format.rate) % _MM_MODULO

    def _decoded(self, payload: bytes, fmt: AudioFormat) -> Samples:
        if self._opus is not None:
            try:
                return self._opus.decode(payload)
            except CodecError as error:
                raise RemoteProtocolError(f"SPICE Opus can't be decoded: {error}") from None
        return fmt.decode(payload)

    def _level(self, event: Volume | Mute) -> None:
        if isinstance(event, Mute):
            self._mute = event.mute
        else:
            self._gains = tuple(cubic_to_gain(v * 65536 // 65535) for v in event.volume) or (1.0,)
        if self.stream is not None:
            self.stream.set_volume(self._gains, self._mute)

    def close(self) -> None:
        """See `MachineDoor`."""
        self.room.close()
        if self.stream is not None:
            self.stream.remove()
            self.stream = None


class SpiceRecord(RecordingDoor):
    """The record channel: sound that the machine records."""

    def __init__(self, graph: Graph, source: Sink, channel: SpiceChannel, name: str, wake: Callable[[], None]) -> None:
        self.graph, self.source, self.channel, self.name = graph, source, channel, name
        self.queue: CaptureQueue | None = None
        self.sent_frames: Frames = 0
        self._wake = wake
        self.room = SoundRoom(name, "recording", graph.budget)

    @property
    def recording(self) -> bool:
        """See `MachineDoor`."""
        return self.queue is not None and self.queue.running

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        del now_ns
        for message in self.channel.events():
            event = record_event(message)
            if isinstance(event, Start):
                self._start(event)
            elif isinstance(event, Stop):
                self.room.end(0)
                if self.queue is not None:
                    self.queue.run(False)

    def _start(self, event: Start) -> None:
        self._stop()
        self.room.begin(0, partial(self._make, event))

    def _make(self, event: Start) -> None:
        positions = default_map(event.channels)
        self.queue = CaptureQueue(self.graph, self.source, self.name, event.rate, positions, self._send)
        self.sent_frames = 0
        self.channel.send_message(RECORD_MODE, struct.pack("<IH", 0, MODE_RAW))
        self.channel.send_message(RECORD_START_MARK, struct.pack("<I", 0))
        self.queue.run(True)

    def _send(self) -> None:
        queue = self.queue
        assert queue is not None
        while queue.fill_frames >= RECORD_FRAMES:
            pcm = encode(SampleFormat.S16LE, np.ascontiguousarray(queue.take(RECORD_FRAMES)))
            mm_time = self.sent_frames * 1000 // queue.rate
            self.channel.send_message(RECORD_DATA, record_data(mm_time, pcm))
            self.sent_frames += RECORD_FRAMES
            self._wake()

    def close(self) -> None:
        """See `MachineDoor`."""
        self._stop()
        self._wake = nothing

    def _stop(self) -> None:
        self.room.end(0)
        if self.queue is not None:
            self.queue.remove()
            self.queue = None
