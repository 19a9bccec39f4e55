"""QEMU's org.qemu.Display1.Audio (docs/interop/dbus-display, ui/dbus-display1.xml of QEMU), sans-IO.

`DisplayClient` finds the machine and registers listeners. `AudioPeer` is the listener's side of the
connection over which QEMU then calls us. QEMU blocks, and the guest with it, until its GetAll on a new
AudioPeer is answered, and likewise during each Read; so both are answered as soon as they are received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from millrace.dsp.convert import Buffer, SampleFormat
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.media.format import AudioFormat
from millrace.text import LABEL_MAX, printable
from millrace.units import NS_PER_S, RATE_MAX, RATE_MIN, HostNs, Positions, default_map
from millrace.wire.chunk import Chunk
from millrace.wire.contract import AnswerDue, Untimed
from millrace.wire.qemu.dbus import CALL, ERROR, DBusWire, Message
from millrace.wire.qemu.values import Writer

AUDIO_PATH = "/org/qemu/Display1/Audio"
AUDIO = "org.qemu.Display1.Audio"
VM_PATH, VM = "/org/qemu/Display1/VM", "org.qemu.Display1.VM"
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
QEMU_NAME = "org.qemu"
CHANNELS_MAX = 16
ANSWER_NS = 10 * NS_PER_S
_NO_PROPERTIES = bytes(8)
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

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection."""
        self.wire.receive(data, now_ns)
        for message in self.wire.events():
            if message.kind == CALL:
                self._called(message)

    def _called(self, message: Message) -> None:
        # The listeners have no properties: an empty a{sv}.
        if message.interface == PROPERTIES:
            self.greeted = True
            self.wire.send_reply(message, "a{sv}", _NO_PROPERTIES)
            return
        event = self._event(message)
        if event is None:
            self.wire.send_error(message, "org.freedesktop.DBus.Error.UnknownMethod", f"no {message.member} here")
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
        """Bytes received of a message that is still incomplete."""
        return self.wire.partial_bytes

    def events(self) -> list[VoiceEvent]:
        """QEMU's calls since the last time."""
        out, self._events = self._events, []
        return out

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


@dataclass(frozen=True, slots=True)
class Machine:
    """The virtual machine that answered."""

    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Registered:
    """QEMU has accepted a listener: 'Out' or 'In'."""

    kind: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """QEMU refused a request; `what` is 'Out', 'In', or the name of another request."""

    what: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class NotThere:
    """No machine on this bus, or none with that name; `names` are the ones found."""

    names: tuple[str, ...]


ClientEvent: TypeAlias = Machine | Registered | Refusal | NotThere


# Candidates on a bus are asked one after another and not all at once, so the first that fits is the one used, and its
# answer is the only one waited for. One that answers with an error is not a machine and is passed over; peer to peer
# there is no other candidate, and an error is reported. A machine that is stopped answers nothing, so there is a
# deadline until the playback listener is accepted.
class DisplayClient(AnswerDue):
    """Finds the machine, then registers listeners.

    On a bus, several machines may queue for the same bus name, so each is asked for its VM name; `vm` selects
    one. A peer-to-peer connection has only one. After `Machine`, call `send_register`.
    """

    def __init__(self, uid: int, on_bus: bool, now_ns: HostNs, vm: str | None = None) -> None:
        self._answer_by_ns = now_ns + ANSWER_NS
        """When the machine must have accepted the 'Out' listener."""
        self._wire = DBusWire(uid)
        self._vm = vm
        self._destination: str | None = None
        self._pending: dict[int, tuple[str, str | None]] = {}
        self._candidates: list[str] = []
        self._names: list[str] = []
        self._events: list[ClientEvent] = []
        if on_bus:
            self._ask("hello", BUS_PATH, BUS, "Hello", destination=BUS)
            owners = Writer().text("s", QEMU_NAME).bytes()
            self._ask("owners", BUS_PATH, BUS, "ListQueuedOwners", "s", owners, destination=BUS)
        else:
            self._ask_machine(None)

    def _ask(
        self, what: str, path: str, interface: str, member: str, signature: str = "", body: bytes = b"",
        destination: str | None = None, fds: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        serial = self._wire.send_call(path, interface, member, signature, body, destination, fds)
        self._pending[serial] = (what, destination)

    def _ask_machine(self, destination: str | None) -> None:
        body = Writer().text("s", VM).bytes()
        self._ask("machine", VM_PATH, PROPERTIES, "GetAll", "s", body, destination)

    def send_register(self, kind: str, fd: int) -> None:
        """Register a listener: `fd`, one end of a socket pair, goes along with the message; `kind` is Out or In."""
        # On the wire a descriptor is its index among those sent with the message.
        body = Writer().number("h", 0).bytes()
        self._ask(kind, AUDIO_PATH, AUDIO, f"Register{kind}Listener", "h", body, self._destination, (fd,))

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection."""
        self._wire.receive(data, now_ns)
        for message in self._wire.events():
            if message.kind == CALL:
                self._wire.send_error(message, "org.freedesktop.DBus.Error.UnknownObject", "nothing is served here")
                continue
            pending = self._pending.pop(message.reply_to, None) if message.reply_to is not None else None
            if pending is not None:
                self._answered(*pending, message)

    def _answered(self, what: str, destination: str | None, message: Message) -> None:
        if what == "owners":
            self._candidates = [] if message.kind == ERROR else [str(n) for n in message.values("as")[0]]
            self._next_candidate()
        elif what == "machine" and destination is not None and message.kind == ERROR:
            self._next_candidate()
        elif message.kind == ERROR:
            text = message.values()[0] if message.signature.startswith("s") else ""
            self._events.append(Refusal(what, printable(message.error), printable(text)))
        elif what == "machine":
            self._machine(destination, message)
        elif what in ("Out", "In"):
            if what == "Out":
                self._answer_by_ns = None
            self._events.append(Registered(what))

    def _machine(self, destination: str | None, message: Message) -> None:
        found = message.values("a{sv}")[0]
        name, uuid = str(found.get("Name", ""))[:LABEL_MAX], str(found.get("UUID", ""))[:LABEL_MAX]
        if destination is not None and self._vm not in (None, name, uuid):
            self._names.append(name)
            self._next_candidate()
            return
        self._destination = destination
        self._events.append(Machine(name, uuid))

    def _next_candidate(self) -> None:
        if self._candidates:
            self._ask_machine(self._candidates.pop(0))
        else:
            self._events.append(NotThere(tuple(self._names)))

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is still incomplete."""
        return self._wire.partial_bytes

    def events(self) -> list[ClientEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def _overdue(self) -> PeerLost:
        return PeerLost("QEMU does not answer on D-Bus; it may be stopped")

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        return self._wire.data_to_send()


__all__ = ["AudioPeer", "DisplayClient", "RemoteProtocolError"]
