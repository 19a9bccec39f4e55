"""The native protocol's messages: MessagePack in frames, on a unix stream socket that carries descriptors.

A frame is 8 bytes (`HEADER`: size of what follows, kind, count of descriptors, zero), then one message. A kind
that is not known is skipped, and so are fields that are not known: either side may be newer. docs/native.md describes
it for people who write a client.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Annotated, Any, TypeAlias

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.media.fields import Count
from millrace.text import printable
from millrace.units import MAX_CHANNELS, RATE_MAX
from millrace.wire.decoding import understood

VERSION = 1
HEADER = struct.Struct("<IHBB")
FRAME_MAX = 1024 * 1024
"""Largest message either side accepts."""
FDS_MAX = 4
FRAMES_MAX = 2**31 - 1
FRAME_BYTES_MAX = 8 * MAX_CHANNELS


class Kind(IntEnum):
    """What a frame is. Below 128 from the client, above from the daemon."""

    HELLO = 1
    CALL = 2
    WELCOME = 128
    WAIT = 129
    REPLY = 130
    FAULT = 131
    OBJECTS = 132
    NOTICE = 133


class Hello(msgspec.Struct):
    """The client's first message. A token gives its own rights, in place of those that the socket gives."""

    version: int = VERSION
    name: str = ""
    token: str = ""


class Call(msgspec.Struct):
    """One command, answered by a Reply or a Fault with its serial.

    `args` is a map. One that has come is left as it came until it is known what it should be: decoded for its own
    sake, a message of a megabyte can be millions of objects.
    """

    serial: int
    method: str
    args: Any = {}


class _Called(msgspec.Struct):
    serial: int
    method: str
    args: msgspec.Raw = msgspec.Raw(b"\x80")


class Welcome(msgspec.Struct):
    """The client is in: who it is, what it may, and where. `version` is the one both speak."""

    version: int
    you: str
    rights: list[str]
    guests: list[str]


class Wait(msgspec.Struct):
    """Nothing is granted yet; somebody is asked. It is followed by Welcome, or Fault."""

    request: str
    what: str


class Reply(msgspec.Struct):
    """A call has been done."""

    serial: int
    value: Any = None


class Fault(msgspec.Struct):
    """A call was refused; with serial 0 the connection is, and ends.

    Codes: config, graph, rights, protocol, limit, busy, internal.
    """

    serial: int
    code: str
    message: str


class Objects(msgspec.Struct):
    """The registry: objects that are new or have changed, and numbers that are gone. `synced` after the first look."""

    there: list[msgspec.Raw] = []
    gone: list[int] = []
    synced: bool = False


class Shown(msgspec.Struct):
    """One object of the registry."""

    number: Count = msgspec.field(name="n")
    kind: str
    guest: str
    view: dict[str, Any] = msgspec.field(name="is")


class Begun(msgspec.Struct):
    """What Reply says of a stream that has begun: its ring, of `bytes` in all, and what is in it."""

    stream: Count
    capacity: Annotated[int, msgspec.Meta(ge=1, le=FRAMES_MAX)]
    target: Annotated[int, msgspec.Meta(ge=1, le=FRAMES_MAX)]
    frame_bytes: Annotated[int, msgspec.Meta(ge=1, le=FRAME_BYTES_MAX)]
    bytes: Count
    format: str
    rate: Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)]
    positions: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)]


class Notice(msgspec.Struct):
    """Something happened to one of the client's own streams: underrun, drained, moved, ended."""

    stream: int
    what: str
    detail: str = ""


FromClient: TypeAlias = Hello | Call
FromDaemon: TypeAlias = Welcome | Wait | Reply | Fault | Objects | Notice
Message: TypeAlias = FromClient | FromDaemon

TYPES: dict[int, type[Message]] = {
    Kind.HELLO: Hello, Kind.CALL: Call, Kind.WELCOME: Welcome, Kind.WAIT: Wait, Kind.REPLY: Reply,
    Kind.FAULT: Fault, Kind.OBJECTS: Objects, Kind.NOTICE: Notice,
}  # fmt: skip
_KINDS = {made: kind for kind, made in TYPES.items()}
_decoders = {kind: msgspec.msgpack.Decoder(made) for kind, made in TYPES.items()}
_call_decoder = msgspec.msgpack.Decoder(_Called)
_encoder = msgspec.msgpack.Encoder()


_shown_decoder = msgspec.msgpack.Decoder(Shown)


def shown(raw: msgspec.Raw) -> Shown:
    """An object of `Objects`; RemoteProtocolError for nonsense."""
    return understood(_shown_decoder.decode, bytes(raw))


def begun(value: Any) -> Begun:
    """What a stream's Reply says; RemoteProtocolError for nonsense."""
    try:
        return msgspec.convert(value, Begun)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a stream that is not understood: {printable(error)}") from None


def packed(value: Any) -> msgspec.Raw:
    """A value ready to be put into several messages."""
    return msgspec.Raw(_encoder.encode(value))


def frame(message: Message, fds: int = 0) -> bytes:
    """A message as a frame that goes along with so many descriptors."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body), _KINDS[type(message)], fds, 0) + body


def decode(kind: int, body: bytes) -> Message | None:
    """A frame's message; None for a kind that this version does not know. RemoteProtocolError for nonsense."""
    if kind == Kind.CALL:
        called = understood(_call_decoder.decode, body)
        return Call(called.serial, called.method, called.args)
    decoder = _decoders.get(kind)
    if decoder is None:
        return None
    return understood(decoder.decode, body)
