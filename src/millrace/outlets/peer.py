"""The peer outlet: sends a sink's monitor to any number of listeners, encoded once per distinct settings.

`SharedEncoder` is a tap with one encoder. All listeners with the same settings share it, and get the same packet bytes
(outlets/subscribers.py). Each listener has its own queue (outlets/queue.py), so one that can't keep up does not affect
the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.absent import nothing
from millrace.budget import LISTENERS
from millrace.codec.opus import OPUS_RATE, OpusEncoder, wire_order
from millrace.codec.parameters import CodecParameters
from millrace.codec.pcm import encode_pcm
from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import Samples
from millrace.dsp.resample import Resampler, make_resampler, resampler_bytes
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Tap
from millrace.media.packet import WHOLE_KEY, Packet
from millrace.outlets.queue import SendQueue, Write
from millrace.rights.model import NOBODY, Principal
from millrace.units import NS_PER_MS, Frames, HostNs, Positions, default_map, frames_to_ns
from millrace.wire.peer.messages import Silence, encode_message, pack_media
from millrace.wire.peer.tracks import SOUND_TRACK, pack_track

HOLD_NS = 200 * NS_PER_MS
"""After this much digital silence, sending stops. By then the codec's tail has been sent."""
ENCODER_BYTES = 64 * 1024
"""Memory of an encoder per channel, including its packets."""
REQUESTED_LATENCY_NS: dict[str, HostNs] = {"low": 5 * NS_PER_MS, "normal": 40 * NS_PER_MS, "robust": 40 * NS_PER_MS}


class Subscriber(SendQueue):
    """One listener: its settings, and its send queue."""

    def __init__(
        self, id_: int, name: str, write: Write, room: Callable[[], bool],
        may_queue: Callable[[int], bool] = lambda size: True, dropped: Callable[[], None] = nothing,
        failed: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        super().__init__(write, room, may_queue, dropped, failed)
        self.id, self.name = id_, name
        self.principal = NOBODY
        self.settings = CodecSettings()
        """What it wants; `shares` is what it has."""
        self.codecs: tuple[str, ...] = ("opus",)
        self.latency = "normal"
        self.tracks = False
        """Whether it takes media packets in the track layout."""
        self.group: SharedEncoder | None = None
        self.loss_percent = 0
        self.left = False
        """It never joins a group again."""

    @property
    def key(self) -> str:
        """The name users and the API use."""
        return f"listener/{self.id}"

    @property
    def shares(self) -> CodecSettings:
        """The settings of its encoder: others than its own, if that made room for another listener's."""
        return self.settings if self.group is None else self.group.settings


def _layout(sink: Sink, settings: CodecSettings) -> Positions:
    if settings.channels == "mono":
        return default_map(1)
    if settings.channels == "stereo":
        return default_map(2)
    return sink.positions


def encoder_tap(id_: int, graph: Graph, sink: Sink, settings: CodecSettings) -> Tap:
    """The tap of an encoder, with what it is charged."""
    positions = _layout(sink, settings)
    tap = Tap(id_, f"listeners of {sink.name}", positions, reach=LISTENERS)
    low = resampler_bytes(graph.rate, OPUS_RATE, len(positions), low_delay=True)
    tap.charges = {"encoder": ENCODER_BYTES * len(positions), "resampler": low}
    return tap


class SharedEncoder:
    """One encoder on one sink; the graph's `Consumer`."""

    def __init__(
        self, graph: Graph, sink: Sink, settings: CodecSettings, generation: int, clock: Callable[[], HostNs]
    ) -> None:
        self.graph, self.settings, self.generation, self.clock = graph, settings, generation, clock
        self.outlets: list[Subscriber] = []
        self.tap = encoder_tap(graph.ids.take(), graph, sink, settings)
        self.tap.consumer, positions = self, self.tap.positions
        self._expected_loss = settings.loss
        self._sequence = 0
        self._quiet_frames = 0
        self._quiet = False
        self._encoder: OpusEncoder | None = None
        self._resampler: Resampler | None = None
        self._order: tuple[int, ...] = tuple(range(len(positions)))
        self.rate = graph.rate
        if settings.codec == "opus":
            family, self._order = wire_order(positions)
            self._encoder = OpusEncoder(len(positions), settings, family)
            self.rate = OPUS_RATE
            self._resampler = make_resampler(graph.rate, OPUS_RATE, len(positions), low_delay=True)
        self._reorder = self._order != tuple(range(len(positions)))
        self._pending: Samples = np.zeros((0, len(positions)), np.float32)
        """An incomplete packet; as large as a packet once there is sound."""
        self._fill = 0
        self._next_position: Frames | None = None
        self._continues_at: Frames | None = None
        """The graph's position after the last block."""
        self._quantum = 0
        self._packet_frames = 0
        self._packets: list[bytes] = []
        self._tracked: list[bytes] = []
        """The same packets in the track layout, while a listener wants them."""
        self.spent_ns: HostNs = 0
        """Time spent in the last cycle."""
        self.broken = False
        """It failed: nobody may join it."""

    @property
    def sink(self) -> Sink:
        """The sink that is encoded."""
        assert self.tap.sink is not None
        return self.tap.sink

    @property
    def principal(self) -> Principal:
        """That of the listener that has shared it for longest, as whose it counts."""
        return self.outlets[0].principal if self.outlets else NOBODY

    def format(self) -> CodecParameters:
        """The format of the packets, as sent to listeners."""
        encoder = self._encoder
        return CodecParameters(
            self.generation, self.settings.codec, self.rate, list(self.tap.positions),
            lookahead=encoder.lookahead_frames if encoder else 0, streams=encoder.streams if encoder else 1,
            coupled=encoder.coupled if encoder else 0, mapping=list(encoder.mapping) if encoder else [],
            order=list(self._order),
        )  # fmt: skip

    def configure(self, settings: CodecSettings) -> None:
        """Change settings of the running encoder."""
        self.settings = settings
        if self._encoder is not None:
            self._encoder.configure(settings)
            self._expected_loss = settings.loss
            self.update_loss()
        self._quantum = 0

    def close(self) -> None:
        """Free the encoder now: group and tap refer to each other, so it would wait long for the cyclic collector."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def update_loss(self) -> None:
        """Expect the highest loss that any listener reports, or the configured loss if that is higher."""
        expected = max([self.settings.loss, *(outlet.loss_percent for outlet in self.outlets)])
        if self._encoder is not None and expected != self._expected_loss:
            self._expected_loss = expected
            self._encoder.expect_loss(expected)

    def update_latency(self) -> None:
        """The graph's quantum follows the most demanding listener."""
        requested = [REQUESTED_LATENCY_NS[outlet.latency] for outlet in self.outlets]
        ask = min(requested, default=REQUESTED_LATENCY_NS["normal"])
        if ask != self.tap.latency_ask_ns:
            self.tap.latency_ask_ns = ask
            self.graph.touch(self.tap)

    # -- the graph's side --------------------------------------------------------------------

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        began = self.clock()
        try:
            self._consume(block, position, level)
        except Exception as error:
            # The graph removes the tap, so these listeners would wait for ever.
            self.broken = True
            for outlet in self.outlets:
                outlet.fail(error)
            raise
        self.spent_ns = self.clock() - began

    def _consume(self, block: Samples, position: Frames, level: float) -> None:
        if level == 0.0:
            self._quiet_frames += len(block)
            if self._quiet_frames * 1_000 > self.graph.rate * (HOLD_NS // NS_PER_MS):
                self.idle(position)
                return
        else:
            self._quiet_frames = 0
        if self.graph.quantum_frames != self._quantum:
            self._choose_packet()
        start, frames = position * self.rate // self.graph.rate, len(block)
        if self._resampler is not None:
            block = self._resampler.process(block)
        if self._reorder:
            block = block[:, self._order]
        if self._quiet or position != self._continues_at:
            self._quiet = False
            self._fill = 0
            self._next_position = start
        self._continues_at = position + frames
        self._packetise(block)

    def _choose_packet(self) -> None:
        """Take the packet duration from the settings, else from the quantum: 20 ms, or less at low latency."""
        self._quantum = self.graph.quantum_frames
        quantum_us = self._quantum * 1_000_000 // self.graph.rate
        chosen_us = self.settings.frame_us or (
            20_000 if quantum_us > 15_000 else 10_000 if quantum_us > 7_000 else 5_000
        )
        self._packet_frames = self.rate * chosen_us // 1_000_000
        if self._packet_frames > len(self._pending):
            more = self._packet_frames - len(self._pending)
            self._pending = np.concatenate((self._pending, np.zeros((more, self._pending.shape[1]), np.float32)))

    def _packetise(self, block: Samples) -> None:
        at, size = 0, self._packet_frames
        if self._fill >= size:
            # The packets have just become shorter: what is pending fills one or more of the new ones.
            block, self._fill = np.concatenate((self._pending[: self._fill], block)), 0
        while len(block) - at + self._fill >= size:
            if self._fill == 0:
                self._emit(block[at : at + size])
                at += size
                continue
            take = size - self._fill
            self._pending[self._fill : size] = block[at : at + take]
            at += take
            self._fill = 0
            self._emit(self._pending[:size])
        rest = len(block) - at
        self._pending[self._fill : self._fill + rest] = block[at:]
        self._fill += rest
        self._send_packets()

    def _send_packets(self) -> None:
        """Send a cycle's packets in one write per listener: on a busy host, writes cost the most."""
        if self._packets:
            packets, self._packets = self._packets, []
            tracked, self._tracked = self._tracked, []
            for outlet in self.outlets:
                outlet.send_sound(*(tracked if outlet.tracks else packets))

    # Positions count what was emitted since the sound began or the graph's position jumped, and times follow from
    # positions: neither depends on how late a cycle was. So nothing may be dropped in between before it is emitted.
    def _emit(self, block: Samples) -> None:
        assert self._next_position is not None
        position = self._next_position
        self._next_position += len(block)
        if self._encoder is not None:
            payload = self._encoder.encode(block)
            if self.settings.dtx and len(payload) <= 2:
                # RFC 6716, section 2.1.9: such packets need not be sent; the listener conceals. This is not
                # loss, so they take no sequence number.
                return
        else:
            payload = encode_pcm(self.settings.codec, block)
        host_ns = frames_to_ns(position, self.rate)
        follows = bool(self._packets)
        packet = pack_media(self.generation, len(block), self._sequence, position, host_ns, payload, follows)
        self._packets.append(packet)
        if any(outlet.tracks for outlet in self.outlets):
            self._tracked.append(self._track_packet(len(block), host_ns, payload, follows))
        self._sequence += 1

    def _track_packet(self, frames: Frames, host_ns: HostNs, payload: bytes, follows: bool) -> bytes:
        """The same payload as a track packet. Every audio packet can be decoded by itself, so each is a key packet."""
        length_ns, flags = frames_to_ns(frames, self.rate), WHOLE_KEY
        packet = Packet(self._sequence, self.generation, host_ns, host_ns, length_ns, host_ns, flags, payload)
        return pack_track(SOUND_TRACK, packet, follows)

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`: announce once where the sound ends, then send nothing."""
        if not self._quiet:
            self._quiet = True
            self._flush_rest()
            self._broadcast_silence(self._next_position or position * self.rate // self.graph.rate)

    def _flush_rest(self) -> None:
        """Send the last, incomplete packet, padded with silence."""
        if self._fill and self._next_position is not None:
            self._pending[self._fill : self._packet_frames] = 0.0
            self._fill = 0
            self._emit(self._pending[: self._packet_frames])
            self._send_packets()

    def _broadcast_silence(self, position: Frames) -> None:
        text = encode_message(Silence(position))
        for outlet in self.outlets:
            outlet.send_sound(text)
