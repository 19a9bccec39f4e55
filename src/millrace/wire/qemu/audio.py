"""QEMU's org.qemu.Display1.Audio (docs/interop/dbus-display, ui/dbus-display1.xml of QEMU), sans-IO.

`AudioPeer` is the listener's side of the connection over which QEMU calls us, once `client.py` has registered it. QEMU
blocks, and the guest with it, until its GetAll on a new AudioPeer is answered, and likewise during each Read; so both
are answered as soon as they are received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from millrace.dsp.convert import Buffer, SampleFormat
from millrace.errors import RemoteProtocolError
from millrace.media.format import AudioFormat
from millrace.units import RATE_MAX, RATE_MIN, HostNs, Positions, default_map
from millrace.wire.chunk import Chunk
from millrace.wire.contract import Untimed
from millrace.wire.qemu.dbus import CALL, PROPERTIES, UNKNOWN_METHOD, DBusWire, Message
from millrace.wire.qemu.values import NO_PROPERTIES, Writer

CHANNELS_MAX = 16
AT_ONCE = 2
"""Calls that are processed in one call of `receive`. Each may begin a voice or end one."""
_WAVE_MAPS: dict[int, Positions] = {
    6: ("front-left", "front-right", "front-center", "lfe", "rear-left", "rear-right"),
    8: ("front-left", "front-right", "front-center", "lfe", "rear-left", "rear-right", "side-left", "side-right"),
}
"""USB Audio 1.0, table A-6: the channel order of QEMU's surround cards, which differs from PulseAudio's."""
_FLOATS = {32: (SampleFormat.F32LE, SampleFormat.F32BE)}
_INTEGERS = {
    (8, False): (SampleFormat.U8, SampleFormat.U8),
    (8, True): (SampleFormat.S8, SampleFormat.S8),
    (16, False): (SampleFormat.U16LE, SampleFormat.U16BE),
    (16, True): (SampleFormat.S16LE, SampleFormat.S16BE),
    (32, False): (SampleFormat.U32LE, SampleFormat.U32BE),
    (32, True): (SampleFormat.S32LE, SampleFormat.S32BE),
}
"""(little-endian, big-endian) formats, here by bits and sign, and in `_FLOATS` by bits."""


@dataclass(frozen=True, slots=True)
class VoiceInit:
    """A voice begins, or changes its format."""

    id: int
    format: AudioFormat


@dataclass(frozen=True, slots=True)
class VoiceFini:
    """A voice has ended."""

    id: int


@dataclass(frozen=True, slots=True)
class VoiceEnabled:
    """The guest's card was started or stopped."""

    id: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class VoiceVolume:
    """The guest's mixer, 0 to 255 for each channel. QEMU does not apply it itself."""

    id: int
    mute: bool
    volume: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VoiceWrite:
    """Sound from the guest."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class VoiceRead:
    """The guest wants `size` bytes of microphone sound; QEMU blocks until `AudioPeer.send_sound`."""

    id: int
    size: int
    call: Message


VoiceEvent: TypeAlias = VoiceInit | VoiceFini | VoiceEnabled | VoiceVolume | VoiceWrite | VoiceRead


# QEMU calls `Properties.GetAll` when it has the descriptor, in its main loop, and the guest stands still until the
# answer arrives (25 s, measured). So any call to that interface is answered as soon as it is parsed, whatever it asks.
# Sound in `Write` expects no reply. `Read` is synchronous as well: its size and the pace of the answers set the pace of
# the guest's recording, so the door has to answer at once, if necessary with less.
class AudioPeer(Untimed):
    """Our end of a registered listener's connection."""

    def __init__(self, uid: int) -> None:
        self.wire = DBusWire(uid)
        self.greeted = False
        self._events: list[VoiceEvent] = []
        self._rest: list[VoiceEvent] = []
        """What was put back."""

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection. While `unfinished`, it must be called again."""
        self.wire.receive(data, now_ns)
        self._events, self._rest, calls = self._events + self._rest, [], 0 if self._rest else AT_ONCE
        for _ in range(calls):
            message = self.wire.take()
            if message is None:
                break
            if message.kind == CALL:
                self._called(message)
        self.wire.forget()

    @property
    def unfinished(self) -> bool:
        """See `Untimed`: it has whole calls, or some `put_back`, and stopped so that others may go on."""
        return self.wire.waiting or bool(self._rest)

    def _called(self, message: Message) -> None:
        # The listeners have no properties: an empty a{sv}.
        if message.interface == PROPERTIES:
            self.greeted = True
            self.wire.send_reply(message, "a{sv}", NO_PROPERTIES)
            return
        event = self._event(message)
        if event is None:
            self.wire.send_error(message, UNKNOWN_METHOD, f"no {message.member} here")
            return
        self._events.append(event)
        if not isinstance(event, VoiceRead):
            self.wire.send_reply(message)

    @staticmethod
    def _event(message: Message) -> VoiceEvent | None:
        member = message.member
        if member == "Write":
            return VoiceWrite(*message.values("tay"))
        if member == "Read":
            id_, size = message.values("tt")
            return VoiceRead(id_, size, message)
        if member == "Init":
            id_, bits, signed, floating, rate, channels, _, _, big = message.values("tybbuyuub")
            return VoiceInit(id_, format_of(bits, bool(signed), bool(floating), rate, channels, bool(big)))
        if member == "SetEnabled":
            id_, enabled = message.values("tb")
            return VoiceEnabled(id_, bool(enabled))
        if member == "SetVolume":
            id_, mute, volume = message.values("tbay")
            if len(volume) > CHANNELS_MAX:
                raise RemoteProtocolError(f"volume has too many channels: {len(volume)}; {CHANNELS_MAX} at most")
            return VoiceVolume(id_, bool(mute), tuple(volume))
        if member == "Fini":
            return VoiceFini(*message.values("t"))
        return None

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed."""
        waiting = (*self._events, *self._rest)
        return self.wire.partial_bytes + sum(len(one.data) for one in waiting if isinstance(one, VoiceWrite))

    def events(self) -> list[VoiceEvent]:
        """QEMU's calls since the last time."""
        out, self._events = self._events, []
        return out

    def put_back(self, events: list[VoiceEvent]) -> None:
        """Have these again after the next `receive`, which adds nothing: what came was too much for one step."""
        self._rest = events

    def send_sound(self, read: VoiceRead, data: bytes) -> None:
        """Answer a read with microphone sound."""
        self.wire.send_reply(read.call, "ay", Writer().blob(data).bytes())

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        return self.wire.data_to_send()


def format_of(bits: int, signed: bool, floating: bool, rate: int, channels: int, big_endian: bool) -> AudioFormat:
    """A voice's format from the arguments of `Init`; RemoteProtocolError if it can't be played."""
    written = _FLOATS.get(bits) if floating else _INTEGERS.get((bits, signed))
    if written is None or not 1 <= channels <= CHANNELS_MAX or not RATE_MIN <= rate <= RATE_MAX:
        kind = "float" if floating else "signed" if signed else "unsigned"
        raise RemoteProtocolError(
            f"QEMU offers an invalid format: {bits} bits, {kind}, {channels} channels at {rate} Hz"
        )
    return AudioFormat(written[big_endian], rate, _WAVE_MAPS.get(channels) or default_map(channels))
