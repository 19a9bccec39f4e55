"""One virtual machine's sound cards: QEMU's calls to graph verbs, the graph's microphone to its answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from millrace.clock.pace import RateController
from millrace.doors.capture import CaptureQueue
from millrace.doors.ingress import SOMEWHERE
from millrace.doors.pushed import PushedStream, fitted, new_stream
from millrace.dsp.mix import cubic_to_gain
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.media.format import AudioFormat
from millrace.units import HostNs
from millrace.wire.qemu.audio import (
    AudioPeer,
    VoiceEnabled,
    VoiceEvent,
    VoiceFini,
    VoiceInit,
    VoiceRead,
    VoiceVolume,
    VoiceWrite,
)

log = logging.getLogger("millrace.qemu")
VOICES_MAX = 64
KEPT_MAX = 256
"""Voices that have ended and may come back."""
VOLUME_MAX = 255


def gains_of(volume: tuple[int, ...]) -> tuple[float, ...]:
    """The guest's mixer, 0 to 255, as linear gains: cubic, as QEMU's own PulseAudio output has it.

    Cards count in steps of decibels, and the cubic law is the nearest to that of those in use.
    """
    return tuple(cubic_to_gain(v * 65536 // VOLUME_MAX) for v in volume)


@dataclass(slots=True)
class _Kept:
    """What a user chose for a voice, over the card's changes of format."""

    sink: Sink
    gains: tuple[float, ...]
    mute: bool
    pace: RateController
    """The card's clock, as far as it was learnt."""


@dataclass(slots=True)
class OutVoice:
    """A card's output."""

    stream: PushedStream
    enabled: bool = False


@dataclass(slots=True)
class InVoice:
    """A card's input."""

    format: AudioFormat
    queue: CaptureQueue
    reads: int = 0


class QemuDoor:
    """Voices of one machine in one guest. `source` is what its cards record, `origin` where it was found."""

    def __init__(self, graph: Graph, source: Sink, origin: str = SOMEWHERE) -> None:
        self.graph, self.source, self._origin = graph, source, origin
        self.machine = "QEMU"
        self.outs: dict[int, OutVoice] = {}
        self.ins: dict[int, InVoice] = {}
        self._kept: dict[int, _Kept] = {}
        self._volume: dict[int, tuple[tuple[float, ...], bool]] = {}

    # -- out: the guest plays ----------------------------------------------------------------------

    def played(self, events: list[VoiceEvent], now_ns: HostNs) -> None:
        """Calls to the out listener."""
        for event in events:
            if isinstance(event, VoiceWrite):
                voice = self.outs.get(event.id)
                if voice is not None:
                    voice.stream.write(voice.stream.format.decode(event.data), now_ns)
            elif isinstance(event, VoiceInit):
                self._init_out(event)
            elif isinstance(event, VoiceFini):
                self._fini_out(event.id)
            elif isinstance(event, VoiceEnabled):
                self._enable_out(event)
            elif isinstance(event, VoiceVolume):
                self._set_volume(event)

    def _init_out(self, event: VoiceInit) -> None:
        self._fini_out(event.id)
        if len(self.outs) >= VOICES_MAX:
            log.warning("%s has %d voices already; one more is left out", self.machine, VOICES_MAX)
            return
        kept = self._kept.get(event.id)
        default = self.graph.default
        assert default is not None
        sink = kept.sink if kept and kept.sink.id in self.graph.sinks else default
        props = {"application.name": self.machine, "media.name": "sound card", "media.role": "production"}
        node = new_stream(self.graph, sink, self.machine, event.format, props)
        if kept is not None:
            node.mute = kept.mute
            node.gains = fitted(kept.gains, len(node.gains))
        pace = kept.pace if kept else None
        stream = PushedStream(self.graph, node, event.format, pace=pace, origin=self._origin)
        voice = self.outs[event.id] = OutVoice(stream)
        if event.id in self._volume:
            voice.stream.set_volume(*self._volume[event.id])

    def _fini_out(self, id_: int) -> None:
        voice = self.outs.pop(id_, None)
        if voice is not None:
            node = voice.stream.node
            self._kept.pop(id_, None)
            self._kept[id_] = _Kept(node.sink, node.gains, node.mute, voice.stream.pace)
            voice.stream.remove()
            while len(self._kept) > KEPT_MAX:
                forgotten = next(iter(self._kept))
                del self._kept[forgotten]
                self._volume.pop(forgotten, None)

    def _enable_out(self, event: VoiceEnabled) -> None:
        voice = self.outs.get(event.id)
        if voice is None:
            return
        voice.enabled = event.enabled
        if not event.enabled:
            voice.stream.stop()

    def _set_volume(self, event: VoiceVolume) -> None:
        if event.id not in self.outs:
            return
        gains = gains_of(event.volume)
        self._volume[event.id] = (gains, event.mute)
        self.outs[event.id].stream.set_volume(gains, event.mute)

    # -- in: the guest records ---------------------------------------------------------------------

    def recorded(self, peer: AudioPeer, events: list[VoiceEvent]) -> None:
        """Calls to the in listener. QEMU, and with it the guest, waits for the answer to a read."""
        for event in events:
            if isinstance(event, VoiceRead):
                peer.send_sound(event, self._read(event))
            elif isinstance(event, VoiceInit):
                self._init_in(event)
            elif isinstance(event, VoiceFini):
                self._fini_in(event.id)
            elif isinstance(event, VoiceEnabled) and event.id in self.ins:
                self.ins[event.id].queue.run(event.enabled)

    def _init_in(self, event: VoiceInit) -> None:
        self._fini_in(event.id)
        if len(self.ins) >= VOICES_MAX:
            return
        fmt = event.format
        queue = CaptureQueue(self.graph, self.source, self.machine, fmt.rate, fmt.positions)
        self.ins[event.id] = InVoice(fmt, queue)

    def _fini_in(self, id_: int) -> None:
        voice = self.ins.pop(id_, None)
        if voice is not None:
            voice.queue.remove()

    def _read(self, event: VoiceRead) -> bytes:
        """What is ready; short rather than late, as the size of the answers is the pace of the recording."""
        voice = self.ins.get(event.id)
        if voice is None:
            return b""
        voice.reads += 1
        return voice.format.encode(voice.queue.take(event.size // voice.format.frame_bytes))

    # -- the end -----------------------------------------------------------------------------------

    def lost(self) -> None:
        """QEMU is gone; its streams end."""
        for id_ in list(self.outs):
            self._fini_out(id_)
        for id_ in list(self.ins):
            self._fini_in(id_)
