"""The peer protocol's messages: JSON for control, one binary layout for media.

It runs over WebSocket (RFC 6455): text frames are control messages, binary frames media packets.
`docs/peer-protocol.md` describes the protocol for people who write a listener.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from millrace.codec.parameters import CodecParameters
from millrace.dsp.convert import Buffer
from millrace.errors import MillraceError, RemoteProtocolError, lacking
from millrace.media.audio import AudioPacket
from millrace.media.fields import Count, Signed
from millrace.units import Frames, HostNs
from millrace.wire.decoding import understood

VERSION = 1
MESSAGE_MAX = 64 * 1024
"""The largest message either side accepts: a 40 ms quantum of 8 channels f32 at 48 kHz is 61,440 bytes."""
REASON = "Millrace-Reason"
"""Header of an answer that refuses a handshake: why, percent-encoded, for clients that are shown no body."""
MEDIA_MAX = 4 * 1024 * 1024
MEDIA, MEDIA_FOLLOWS = 1, 2
"""A packet of the second kind was sent together with the previous one, so its arrival says nothing about the path."""
# Little-endian without padding: kind, generation (lower 8 bits), frames, sequence (lower 32 bits), position, host time.
_HEADER = struct.Struct("<BBHIQQ")
HEADER_BYTES = _HEADER.size
SETTINGS_MAX = 64
Settings = Annotated[dict[str, str | Signed | bool], msgspec.Meta(max_length=SETTINGS_MAX)]
Wishes = Annotated[dict[str, str], msgspec.Meta(max_length=SETTINGS_MAX)]


class Hello(msgspec.Struct, tag="hello", tag_field="type"):
    """The listener's first message: what it can play, and what it wants.

    `latency` is low, normal, robust, or fixed such as 30ms. With `microphone` it offers one; it sends sound while
    `Microphone` reports that something records. With `tracks` it receives media packets in the layout of tracks.py.
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


class Welcome(msgspec.Struct, tag="welcome", tag_field="type"):
    """The daemon's answer: the listener's number, what it hears, and the settings in force."""

    listener: Count
    guest: str
    sink: str
    settings: Settings
    version: int = VERSION


class FormatChanged(msgspec.Struct, tag="format", tag_field="type"):
    """The following media packets have this format, and its generation."""

    format: CodecParameters


class Configure(msgspec.Struct, tag="set", tag_field="type"):
    """The listener changes its settings during playback."""

    settings: Wishes


class Configured(msgspec.Struct, tag="settings", tag_field="type"):
    """The settings now in force, also after an operator has changed them."""

    settings: Settings


class Silence(msgspec.Struct, tag="silence", tag_field="type"):
    """There is no sound from `position` on, until the next packet gives the position where it resumes."""

    position: Count


class Report(msgspec.Struct, tag="report", tag_field="type"):
    """The listener's state, shown by `ls` and reported to players for lip sync. Counts are totals since it joined.

    `target_ns` is its target delay, `drift_ppm` how much faster its card plays than the sound was captured, `concealed`
    how often late packets were concealed without an audible gap.
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
    # The JSON keys `bridged` and `ledger` are those of version 1 of the protocol, and stay.
    concealed: Count = msgspec.field(default=0, name="bridged")
    breakdown: Annotated[dict[str, Signed], msgspec.Meta(max_length=SETTINGS_MAX)] = msgspec.field(
        default_factory=dict, name="ledger"
    )
    """The parts of `latency_ns`, in ns: path (from capture to the earliest arrival), network (the part of path that is
    half the fastest round trip), codec, jitter, period, late, device."""


class Microphone(msgspec.Struct, tag="microphone", tag_field="type"):
    """Whether the listener may speak, and whether anything records. It sends packets only if both are true.

    It announces their format with `FormatChanged`, and their end with `Silence`.
    """

    allowed: bool
    wanted: bool


class Trouble(msgspec.Struct, tag="trouble", tag_field="type"):
    """A dropout at the listener, and its cause. `at_ns` is on the daemon's clock, or 0 if that is not known.

    `stage` and `cause` are those of an incident: network, listener or device, and what went wrong there.
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
    """Something was refused. If it is `fatal`, the session ends. `right` is the one right that is lacking."""

    code: str
    message: str
    fatal: bool = False
    right: str | UnsetType = UNSET

    @classmethod
    def of(cls, error: MillraceError, fatal: bool = False) -> Fault:
        """What the other end is told of an error."""
        return cls(error.listener_word, str(error), fatal, lacking(error)[0] or UNSET)


class Bye(msgspec.Struct, tag="bye", tag_field="type"):
    """The sender ends the session; `again` says whether to reconnect."""

    reason: str = ""
    again: bool = True


FromListener: TypeAlias = Hello | Configure | Report | Trouble | FormatChanged | Silence | Ping | Pong | Bye
FromDaemon: TypeAlias = Welcome | FormatChanged | Configured | Silence | Microphone | Ping | Pong | Fault | Bye

# Unknown fields are skipped, because the other end may be newer; an unknown type of message is an error.
_from_listener = msgspec.json.Decoder(FromListener)
_from_daemon = msgspec.json.Decoder(FromDaemon)
_encoder = msgspec.json.Encoder()


def pack_media(
    generation: int,
    frames: Frames,
    sequence: int,
    position: Frames,
    host_ns: HostNs,
    payload: bytes,
    follows: bool = False,
) -> bytes:
    """Encode a media packet; `follows` if it is sent together with the previous one."""
    kind = MEDIA_FOLLOWS if follows else MEDIA
    return _HEADER.pack(kind, generation & 0xFF, frames, sequence & 0xFFFFFFFF, position, host_ns) + payload


def unpack_media(data: Buffer) -> AudioPacket | None:
    """Decode a media packet; None for an unknown kind, which is to be skipped."""
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError(f"media packet too short: {len(data)} bytes")
    kind, generation, frames, sequence, position, host_ns = _HEADER.unpack_from(data)
    if kind not in (MEDIA, MEDIA_FOLLOWS):
        return None
    payload = bytes(memoryview(data)[HEADER_BYTES:])
    return AudioPacket(generation, frames, sequence, position, host_ns, payload, kind == MEDIA_FOLLOWS)


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
    """Returns a control message unchanged; RemoteProtocolError if it is too long."""
    if len(text) > MESSAGE_MAX:
        raise RemoteProtocolError(f"message too long: {len(text)} characters; {MESSAGE_MAX} at most")
    return text
