"""One virtual machine's sound cards: QEMU's calls become graph verbs, and captured sound becomes its replies."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from millrace.clock.pace import RateController
from millrace.doors.capture import CaptureQueue
from millrace.doors.ingress import UNKNOWN_ORIGIN
from millrace.doors.machine import PlayingDoor, RecordingDoor
from millrace.doors.pushed import PushedStream, fitted, new_stream
from millrace.doors.soundroom import SoundRoom
from millrace.dsp.mix import cubic_to_gain
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.media.format import AudioFormat
from millrace.units import HostNs
from millrace.wire.qemu.audio import (
    AudioPeer,
    VoiceEnabled,
    VoiceFini,
    VoiceInit,
    VoiceRead,
    VoiceVolume,
    VoiceWrite,
)

log = logging.getLogger("millrace.qemu")
VOICES_MAX = 64
ENDED_VOICES_MAX = 256
"""Ended voices that are remembered, in case they come back."""
VOLUME_MAX = 255
STEP_BYTES = 128 * 1024
"""Sound that is taken in one step. A Write may have 1 MiB of 8-bit samples."""


def gains_of(volume: tuple[int, ...]) -> tuple[float, ...]:
    """The guest's mixer, 0 to 255, as linear gains. The curve is cubic, as in QEMU's own PulseAudio output.

    Cards use steps in decibels; of the curves in use, the cubic one is the closest to that.
    """
    return tuple(cubic_to_gain(v * 65536 // VOLUME_MAX) for v in volume)


@dataclass(slots=True)
class _Kept:
    """Settings of a voice that survive the card's format changes."""

    sink: Sink
    gains: tuple[float, ...]
    mute: bool
    pace: RateController
    """The card's clock, as measured so far."""


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


# A card's driver ends its voice and starts another for every change of format: ac97 probes some nine rates when the
# guest boots, and hda goes back to 8-bit mono each time a program closes it. To the user it is one card all along.
# What people set (sink, volume, mute) and what was measured (the card's clock) therefore belongs to the voice's
# number, which the card keeps, and outlives both the voice and the connection to QEMU.
#
# The card's own mixer needs this even more. QEMU does not repeat it after a listener has registered: it sends
# SetVolume only when the guest changes the level, so a new session would play at full level a card that the guest had
# turned down.
class EndedVoices:
    """Remembers voices that have ended, in this session or an earlier one, since they may come back."""

    def __init__(self) -> None:
        self._voices: dict[int, _Kept] = {}
        self.volume: dict[int, tuple[tuple[float, ...], bool]] = {}
        """The card's mixer gains and mute state, by voice."""

    def __len__(self) -> int:
        return len(self._voices)

    def get(self, id_: int) -> _Kept | None:
        """What is remembered of one voice."""
        return self._voices.get(id_)

    def keep(self, id_: int, stream: PushedStream) -> None:
        """Remember an ended voice; the voices that ended longest ago are forgotten."""
        node = stream.node
        self._voices.pop(id_, None)
        self._voices[id_] = _Kept(node.sink, node.gains, node.mute, stream.pace)
        while len(self._voices) > ENDED_VOICES_MAX:
            forgotten = next(iter(self._voices))
            del self._voices[forgotten]
            self.volume.pop(forgotten, None)


class QemuPlayback(PlayingDoor):
    """A machine's playback: QEMU's calls to the out listener, `peer`. `origin` is where the machine was found."""

    def __init__(
        self, graph: Graph, peer: AudioPeer, name: str, kept: EndedVoices, origin: str = UNKNOWN_ORIGIN
    ) -> None:  # fmt: skip
        self.graph, self.peer, self.name, self._kept, self._origin = graph, peer, name, kept, origin
        self.voices: dict[int, OutVoice] = {}
        self.room = SoundRoom(name, "sound", graph.budget)

    @property
    def streams(self) -> list[PushedStream]:
        """See `MachineDoor`."""
        return [voice.stream for voice in self.voices.values()]

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        events = self.peer.events()
        for at, event in enumerate(events):
            if isinstance(event, VoiceWrite):
                rest = self._write(event, now_ns)
                if rest is not None:
                    self.peer.put_back([rest, *events[at + 1 :]])
                    return
            elif isinstance(event, VoiceInit):
                self._init(event)
            elif isinstance(event, VoiceFini):
                self._fini(event.id)
            elif isinstance(event, VoiceEnabled):
                self._enable(event)
            elif isinstance(event, VoiceVolume):
                self._set_volume(event)

    def _write(self, event: VoiceWrite, now_ns: HostNs) -> VoiceWrite | None:
        """Take the sound of one step; returns the rest of it, if there is more."""
        voice = self.voices.get(event.id)
        if voice is None:
            return None
        fmt = voice.stream.format
        size = STEP_BYTES - STEP_BYTES % fmt.frame_bytes
        voice.stream.write(fmt.decode(event.data[:size]), now_ns)
        return VoiceWrite(event.id, event.data[size:]) if len(event.data) > size else None

    def _init(self, event: VoiceInit) -> None:
        self._fini(event.id)
        if len(self.voices) + len(self.room) >= VOICES_MAX:
            log.warning("%s has %d voices already; one more is left out", self.name, VOICES_MAX)
            return
        self.room.begin(event.id, partial(self._make, event))

    def _make(self, event: VoiceInit) -> None:
        kept = self._kept.get(event.id)
        default = self.graph.default
        assert default is not None
        sink = kept.sink if kept and kept.sink.id in self.graph.sinks else default
        props = {"application.name": self.name, "media.name": "sound card", "media.role": "production"}
        node = new_stream(self.graph, sink, self.name, event.format, props)
        if kept is not None:
            node.mute = kept.mute
            node.gains = fitted(kept.gains, len(node.gains))
        pace = kept.pace if kept else None
        stream = PushedStream(self.graph, node, event.format, pace=pace, origin=self._origin)
        voice = self.voices[event.id] = OutVoice(stream)
        if event.id in self._kept.volume:
            voice.stream.set_volume(*self._kept.volume[event.id])

    def _fini(self, id_: int) -> None:
        self.room.end(id_)
        voice = self.voices.pop(id_, None)
        if voice is not None:
            self._kept.keep(id_, voice.stream)
            voice.stream.remove()
        elif self._kept.get(id_) is None:
            # It never had room.
            self._kept.volume.pop(id_, None)

    def _enable(self, event: VoiceEnabled) -> None:
        voice = self.voices.get(event.id)
        if voice is None:
            return
        voice.enabled = event.enabled
        if not event.enabled:
            voice.stream.stop()

    def _set_volume(self, event: VoiceVolume) -> None:
        if event.id not in self.voices and event.id not in self.room:
            return
        gains = gains_of(event.volume)
        self._kept.volume[event.id] = (gains, event.mute)
        if event.id in self.voices:
            self.voices[event.id].stream.set_volume(gains, event.mute)

    def close(self) -> None:
        """See `MachineDoor`."""
        self.room.close()
        for id_ in list(self.voices):
            self._fini(id_)


# Read is a synchronous call from QEMU's main loop: while it is unanswered the whole guest stands still. It is
# therefore answered within the call, with what is there, and never waits for the graph. A short answer is harmless:
# the card asks again at its next period, and so the answers, not the requests, set the pace of the recording.
class QemuRecord(RecordingDoor):
    """A machine's capture, from `source`: QEMU's calls to the in listener, `peer`."""

    def __init__(self, graph: Graph, source: Sink, peer: AudioPeer, name: str) -> None:
        self.graph, self.source, self.peer, self.name = graph, source, peer, name
        self.voices: dict[int, InVoice] = {}
        self.room = SoundRoom(name, "recording", graph.budget)
        self._enabled: set[int] = set()
        """Voices that record, there or left out."""

    @property
    def recording(self) -> bool:
        """See `MachineDoor`."""
        return any(voice.queue.running for voice in self.voices.values())

    @property
    def reads(self) -> int:
        """How often the cards have requested sound."""
        return sum(voice.reads for voice in self.voices.values())

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`. QEMU, and so the whole guest, blocks until a read is answered."""
        del now_ns
        for event in self.peer.events():
            if isinstance(event, VoiceRead):
                self.peer.send_sound(event, self._read(event))
            elif isinstance(event, VoiceInit):
                self._init(event)
            elif isinstance(event, VoiceFini):
                self._fini(event.id)
            elif isinstance(event, VoiceEnabled):
                self._enable(event)

    def _init(self, event: VoiceInit) -> None:
        self._fini(event.id)
        if len(self.voices) + len(self.room) >= VOICES_MAX:
            return
        self.room.begin(event.id, partial(self._make, event))

    def _make(self, event: VoiceInit) -> None:
        fmt = event.format
        queue = CaptureQueue(self.graph, self.source, self.name, fmt.rate, fmt.positions)
        self.voices[event.id] = InVoice(fmt, queue)
        queue.run(event.id in self._enabled)

    def _enable(self, event: VoiceEnabled) -> None:
        if event.id in self.voices or event.id in self.room:
            (self._enabled.add if event.enabled else self._enabled.discard)(event.id)
        if event.id in self.voices:
            self.voices[event.id].queue.run(event.enabled)

    def _fini(self, id_: int) -> None:
        self.room.end(id_)
        self._enabled.discard(id_)
        voice = self.voices.pop(id_, None)
        if voice is not None:
            voice.queue.remove()

    def _read(self, event: VoiceRead) -> bytes:
        """Return what is ready, short rather than late: QEMU blocks meanwhile. The reply sizes pace the recording."""
        voice = self.voices.get(event.id)
        if voice is None:
            return b""
        voice.reads += 1
        return voice.format.encode(voice.queue.take(event.size // voice.format.frame_bytes))

    def close(self) -> None:
        """See `MachineDoor`."""
        self.room.close()
        for id_ in list(self.voices):
            self._fini(id_)
