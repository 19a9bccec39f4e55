"""The peer protocol's messages: JSON for control, one binary layout for media.

It runs over WebSocket (RFC 6455): text frames are control messages, binary frames media packets.
`docs/peer-protocol.md` describes it for people who write a listener.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

import msgspec

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.units import Frames, HostNs

VERSION = 1
MESSAGE_MAX = 64 * 1024
"""Largest message either side accepts: a 40 ms quantum of 8 channels f32 at 48 kHz is 61,440 bytes."""
MEDIA_MAX = 4 * 1024 * 1024
MEDIA, MEDIA_FOLLOWS = 1, 2
"""The second kind was sent together with the packet before it, so its arrival tells nothing of the path."""
_HEADER = struct.Struct("<BBHIQQ")
HEADER_BYTES = _HEADER.size


class Hello(msgspec.Struct, tag="hello", tag_field="type"):
    """Listener's first message: what it can play and wants. `latency` is low, normal, robust, or fixed such as 30ms.

    With `microphone` it offers to be recorded; it sends when `Microphone` says that somebody does.
    """

    version: int = VERSION
    name: str = ""
    codecs: list[str] = msgspec.field(default_factory=lambda: ["opus", "s16", "s24", "f32"])
    settings: dict[str, str] = {}
    latency: str = "normal"
    sink: str | None = None
    microphone: bool = False


class StreamFormat(msgspec.Struct):
    """What the media packets that follow carry. `lookahead` frames at the start are codec delay.

    `order[i]` is our channel that travels as channel i; streams, coupled and mapping are those of
    Opus multistream (RFC 7845, section 5.1.1) where there are more than two channels.
    """

    generation: int
    codec: str
    rate: int
    positions: list[str]
    lookahead: int = 0
    streams: int = 1
    coupled: int = 0
    mapping: list[int] = []
    order: list[int] = []


class Welcome(msgspec.Struct, tag="welcome", tag_field="type"):
    """Daemon's answer: who the listener is, what it hears, and the settings in force."""

    listener: int
    guest: str
    sink: str
    settings: dict[str, str | int | bool]
    version: int = VERSION


class FormatChanged(msgspec.Struct, tag="format", tag_field="type"):
    """Media packets of `format.generation` follow."""

    format: StreamFormat


class Configure(msgspec.Struct, tag="set", tag_field="type"):
    """Listener changes its settings while it plays."""

    settings: dict[str, str]


class Configured(msgspec.Struct, tag="settings", tag_field="type"):
    """The settings now in force (also when an operator changed them)."""

    settings: dict[str, str | int | bool]


class Silence(msgspec.Struct, tag="silence", tag_field="type"):
    """Nothing to hear from `position` on, until the next packet says where it goes on."""

    position: int


class Report(msgspec.Struct, tag="report", tag_field="type"):
    """How the listener fares: shown by `ls`, and told to players for lip sync. Totals since it joined.

    `target_ns` is the margin it keeps, `drift_ppm` how much faster than captured its card plays, `bridged` how often
    sound was carried on over what came late, without a hole.
    """

    latency_ns: int = 0
    fill_ns: int = 0
    underruns: int = 0
    lost: int = 0
    skipped: int = 0
    output: str = ""
    target_ns: int = 0
    drift_ppm: float = 0.0
    locked: bool = False
    bridged: int = 0
    ledger: dict[str, int] = {}
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
    at_ns: int = 0
    evidence: dict[str, float] = {}


class Ping(msgspec.Struct, tag="ping", tag_field="type"):
    """Answered with Pong; `t` is the sender's own clock."""

    t: int


class Pong(msgspec.Struct, tag="pong", tag_field="type"):
    """The answer: the ping's `t`, and the answerer's clock."""

    t: int
    now: int


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
    try:
        message: FromListener = _from_listener.decode(text)
        return message
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"message not understood: {error}") from None


def decode_from_daemon(text: str) -> FromDaemon:
    """Parse a daemon's message."""
    try:
        message: FromDaemon = _from_daemon.decode(text)
        return message
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"message not understood: {error}") from None
