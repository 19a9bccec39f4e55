"""The peer protocol's messages: JSON for control, one binary layout for media.

It runs over WebSocket (RFC 6455): text frames are control messages, binary frames media packets.
`docs/peer-protocol.md` describes it for people who write a listener.
"""

from __future__ import annotations

import struct
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from millrace.codec.opus import OPUS_RATE
from millrace.codec.pcm import PCM_BYTES
from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.text import quoted
from millrace.units import MAX_CHANNELS, RATE_MAX, RATE_MIN, Frames, HostNs
from millrace.wire.decoding import INT_MAX, Count, Signed, understood

VERSION = 1
MESSAGE_MAX = 64 * 1024
"""Largest message either side accepts: a 40 ms quantum of 8 channels f32 at 48 kHz is 61,440 bytes."""
MEDIA_MAX = 4 * 1024 * 1024
MEDIA, MEDIA_FOLLOWS = 1, 2
"""The second kind was sent together with the packet before it, so its arrival tells nothing of the path."""
_HEADER = struct.Struct("<BBHIQQ")
HEADER_BYTES = _HEADER.size
OPUS_STEP = OPUS_RATE // 400
"""Opus counts in 2.5 ms."""
PACKET_MAX_MS = 120
"""The longest that Opus has (RFC 6716, section 3.1)."""
LOOKAHEAD_MAX_MS = 100
SAMPLES_MAX = 8 * RATE_MAX
"""A second of all channels: what a player keeps of it is made when the format comes."""
SETTINGS_MAX = 64
Channels = Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=255)]], msgspec.Meta(max_length=MAX_CHANNELS)]
Settings = Annotated[dict[str, str | Signed | bool], msgspec.Meta(max_length=SETTINGS_MAX)]
Wishes = Annotated[dict[str, str], msgspec.Meta(max_length=SETTINGS_MAX)]


class Hello(msgspec.Struct, tag="hello", tag_field="type"):
    """Listener's first message: what it can play and wants. `latency` is low, normal, robust, or fixed such as 30ms.

    With `microphone` it offers to be recorded; it sends when `Microphone` says that somebody does. With `tracks` it is
    sent media packets in the layout of tracks.py.
    """

    version: int = VERSION
    name: str = ""
    codecs: Annotated[list[str], msgspec.Meta(max_length=SETTINGS_MAX)] = msgspec.field(
        default_factory=lambda: ["opus", "s16", "s24", "f32"]
    )
    settings: Wishes = {}
    latency: str = "normal"
    sink: str | None = None
    microphone: bool = False
    tracks: bool = False


class StreamFormat(msgspec.Struct):
    """What the media packets that follow carry. `lookahead` frames at the start are codec delay.

    `order[i]` is our channel that travels as channel i; streams, coupled and mapping are those of
    Opus multistream (RFC 7845, section 5.1.1) where there are more than two channels.
    """

    generation: Count
    codec: str
    rate: Count
    positions: Annotated[list[str], msgspec.Meta(max_length=MAX_CHANNELS)]
    lookahead: Count = 0
    streams: Count = 1
    coupled: Count = 0
    mapping: Channels = []
    order: Channels = []


class Welcome(msgspec.Struct, tag="welcome", tag_field="type"):
    """Daemon's answer: who the listener is, what it hears, and the settings in force."""

    listener: Count
    guest: str
    sink: str
    settings: Settings
    version: int = VERSION


class FormatChanged(msgspec.Struct, tag="format", tag_field="type"):
    """Media packets of `format.generation` follow."""

    format: StreamFormat


class Configure(msgspec.Struct, tag="set", tag_field="type"):
    """Listener changes its settings while it plays."""

    settings: Wishes


class Configured(msgspec.Struct, tag="settings", tag_field="type"):
    """The settings now in force (also when an operator changed them)."""

    settings: Settings


class Silence(msgspec.Struct, tag="silence", tag_field="type"):
    """Nothing to hear from `position` on, until the next packet says where it goes on."""

    position: Count


class Report(msgspec.Struct, tag="report", tag_field="type"):
    """How the listener fares: shown by `ls`, and told to players for lip sync. Totals since it joined.

    `target_ns` is the margin it keeps, `drift_ppm` how much faster than captured its card plays, `bridged` how often
    sound was carried on over what came late, without a hole.
    """

    latency_ns: Count = 0
    fill_ns: Count = 0
    underruns: Count = 0
    lost: Count = 0
    skipped: Count = 0
    output: str = ""
    target_ns: Count = 0
    drift_ppm: float = 0.0
    locked: bool = False
    bridged: Count = 0
    ledger: Annotated[dict[str, Signed], msgspec.Meta(max_length=SETTINGS_MAX)] = {}
    """What `latency_ns` is made of, in ns: path (from capture to the best arrival), network (of that, half the quickest
    round trip), codec, jitter, period, late, device."""


class Microphone(msgspec.Struct, tag="microphone", tag_field="type"):
    """Whether the listener may speak, and whether anybody records: only with both does it send packets.

    It says what they carry with `FormatChanged`, and where they end with `Silence`.
    """

    allowed: bool
    wanted: bool


class Trouble(msgspec.Struct, tag="trouble", tag_field="type"):
    """The listener's sound had a hole, and whom it blames; `at_ns` is on the daemon's clock, 0 if that is not known.

    `stage` and `cause` are those of an incident: network, listener or device, and what they suffered.
    """

    what: str
    stage: str
    cause: str
    at_ns: Signed = 0
    evidence: Annotated[dict[str, float], msgspec.Meta(max_length=SETTINGS_MAX)] = {}


class Ping(msgspec.Struct, tag="ping", tag_field="type"):
    """Answered with Pong; `t` is the sender's own clock."""

    t: Signed


class Pong(msgspec.Struct, tag="pong", tag_field="type"):
    """The answer: the ping's `t`, and the answerer's clock."""

    t: Signed
    now: Signed


class Fault(msgspec.Struct, tag="error", tag_field="type"):
    """Something was refused. `fatal` ones are followed by the end of the session."""

    code: str
    message: str
    fatal: bool = False


class Bye(msgspec.Struct, tag="bye", tag_field="type"):
    """The sender ends the session; `again` says whether to reconnect."""

    reason: str = ""
    again: bool = True


FromListener: TypeAlias = Hello | Configure | Report | Trouble | FormatChanged | Silence | Ping | Pong | Bye
FromDaemon: TypeAlias = Welcome | FormatChanged | Configured | Silence | Microphone | Ping | Pong | Fault | Bye

_from_listener = msgspec.json.Decoder(FromListener)
_from_daemon = msgspec.json.Decoder(FromDaemon)
_encoder = msgspec.json.Encoder()


class Packet(NamedTuple):
    """A media packet. `position` is its first frame's, `host_ns` that frame's time on the daemon's clock."""

    generation: int
    frames: Frames
    sequence: int
    position: Frames
    host_ns: HostNs
    payload: bytes
    follows: bool = False


def pack_media(
    generation: int,
    frames: Frames,
    sequence: int,
    position: Frames,
    host_ns: HostNs,
    payload: bytes,
    follows: bool = False,
) -> bytes:
    """A media packet's bytes; `follows` if it is sent together with the one before it."""
    kind = MEDIA_FOLLOWS if follows else MEDIA
    return _HEADER.pack(kind, generation & 0xFF, frames, sequence & 0xFFFFFFFF, position, host_ns) + payload


def unpack_media(data: Buffer) -> Packet | None:
    """Bytes to a packet; None for a kind this version does not know (to be skipped)."""
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError(f"a media packet of {len(data)} bytes")
    kind, generation, frames, sequence, position, host_ns = _HEADER.unpack_from(data)
    if kind not in (MEDIA, MEDIA_FOLLOWS):
        return None
    payload = bytes(memoryview(data)[HEADER_BYTES:])
    return Packet(generation, frames, sequence, position, host_ns, payload, kind == MEDIA_FOLLOWS)


def encode_message(message: FromListener | FromDaemon) -> str:
    """A control message as JSON text."""
    return _encoder.encode(message).decode()


def decode_from_listener(text: str) -> FromListener:
    """Parse a listener's message; RemoteProtocolError says what is wrong with it."""
    message: FromListener = understood(_from_listener.decode, sized(text))
    return message


def decode_from_daemon(text: str) -> FromDaemon:
    """Parse a daemon's message; RemoteProtocolError says what is wrong with it."""
    message: FromDaemon = understood(_from_daemon.decode, sized(text))
    return message


def sized(text: str) -> str:
    """A control message of a length that either side takes."""
    if len(text) > MESSAGE_MAX:
        raise RemoteProtocolError(f"a message of {len(text)} characters; {MESSAGE_MAX} at most")
    return text


def checked_format(fmt: StreamFormat) -> StreamFormat:
    """A format that can be, before anything is made for it; RemoteProtocolError says what can't."""
    channels = len(fmt.positions)
    if fmt.codec != "opus" and fmt.codec not in PCM_BYTES:
        raise RemoteProtocolError(f"a stream in {quoted(fmt.codec)}; opus, {', '.join(PCM_BYTES)} can be played")
    if not RATE_MIN <= fmt.rate <= RATE_MAX or not 1 <= channels <= MAX_CHANNELS:
        raise RemoteProtocolError(f"a stream of {channels} channels at {fmt.rate} Hz")
    if channels * fmt.rate > SAMPLES_MAX:
        raise RemoteProtocolError(f"a stream of {channels} channels at {fmt.rate} Hz is more than can be played")
    if fmt.lookahead * 1000 > fmt.rate * LOOKAHEAD_MAX_MS:
        raise RemoteProtocolError(f"a codec that is {fmt.lookahead} frames behind")
    if fmt.order and sorted(fmt.order) != list(range(channels)):
        raise RemoteProtocolError("the channel order is not a permutation")
    if fmt.codec == "opus":
        _check_opus(fmt, channels)
    return fmt


def _check_opus(fmt: StreamFormat, channels: int) -> None:
    """RFC 7845, section 5.1.1: as many decoded channels as streams, and coupled ones twice; 255 is silence."""
    if fmt.rate != OPUS_RATE:
        raise RemoteProtocolError(f"Opus at {fmt.rate} Hz")
    if channels <= 2:
        return
    decoded = fmt.streams + fmt.coupled
    whole = 1 <= fmt.streams <= MAX_CHANNELS and fmt.coupled <= fmt.streams and len(fmt.mapping) == channels
    if not whole or any(decoded <= index != 255 for index in fmt.mapping):
        raise RemoteProtocolError(f"Opus of {channels} channels from {fmt.streams} streams, {fmt.coupled} coupled")


def packet_fits(packet: Packet, fmt: StreamFormat) -> bool:
    """Whether a packet can be one of `fmt`, by its length and its times. One that can't is as good as lost."""
    frames, size = packet.frames, len(packet.payload)
    if not size or not 0 < frames * 1000 <= fmt.rate * PACKET_MAX_MS or max(packet.position, packet.host_ns) > INT_MAX:
        return False
    if fmt.codec == "opus":
        return frames % OPUS_STEP == 0 and size <= MESSAGE_MAX
    return size == frames * PCM_BYTES[fmt.codec] * len(fmt.positions)
