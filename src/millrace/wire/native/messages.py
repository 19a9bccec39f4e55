"""The native protocol's messages: MessagePack in frames, on a unix stream socket that carries descriptors.

A frame is an 8-byte header (`HEADER`: size of the message, kind, number of descriptors, zero), then one message.
Unknown kinds and unknown fields are skipped, because either side may be newer. docs/native.md describes the protocol
for people who write a client.
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
"""The largest message either side accepts."""
FDS_MAX = 4
FRAMES_MAX = 2**31 - 1
FRAME_BYTES_MAX = 8 * MAX_CHANNELS


class Kind(IntEnum):
    """The kind of a frame. Below 128 from the client, from 128 on from the daemon."""

    HELLO = 1
    CALL = 2
    WELCOME = 128
    WAIT = 129
    REPLY = 130
    FAULT = 131
    OBJECTS = 132
    NOTICE = 133


class Hello(msgspec.Struct):
    """The client's first message. A token's rights replace those that the socket grants."""

    version: int = VERSION
    name: str = ""
    token: str = ""


class Call(msgspec.Struct):
    """One command, answered by a Reply or a Fault with its serial.

    `args` is a map. On receipt it stays encoded until its type is known: decoded without a schema, a message of a
    megabyte can become millions of objects.
    """

    serial: int
    method: str
    args: Any = {}


class _Called(msgspec.Struct):
    # 0 stands for the connection in a Fault.
    serial: Annotated[int, msgspec.Meta(ge=1)]
    method: str
    # 0x80 is an empty map.
    args: msgspec.Raw = msgspec.Raw(b"\x80")


class Welcome(msgspec.Struct):
    """The client is accepted: its identity, its rights, and the guests they apply to. Both sides speak `version`."""

    version: int
    you: str
    rights: list[str]
    guests: list[str]


class Wait(msgspec.Struct):
    """The request needs somebody's approval. For the handshake, Welcome or Fault follows."""

    request: str
    what: str


class Reply(msgspec.Struct):
    """A call succeeded."""

    serial: int
    value: Any = None


class Fault(msgspec.Struct):
    """A call was refused. With serial 0 it is the connection that is refused, and ends.

    Codes: config, graph, rights, protocol, limit, busy, internal.
    """

    serial: int
    code: str
    message: str


class Objects(msgspec.Struct):
    """Changes in the registry: new or changed objects, and numbers of removed ones. `synced` ends the initial list."""

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
    """The value of a Reply that opens a stream: its ring buffer, of `bytes` in total, and the sample format in it."""

    stream: Count
    capacity: Annotated[int, msgspec.Meta(ge=1, le=FRAMES_MAX)]
    target: Annotated[int, msgspec.Meta(ge=1, le=FRAMES_MAX)]
    frame_bytes: Annotated[int, msgspec.Meta(ge=1, le=FRAME_BYTES_MAX)]
    bytes: Count
    format: str
    rate: Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)]
    positions: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)]
    at: str = ""
    """The sink or source."""


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
    """Decode an object of `Objects`; RemoteProtocolError if it is invalid."""
    return understood(_shown_decoder.decode, bytes(raw))


def begun(value: Any) -> Begun:
    """Convert the value of a stream's Reply; RemoteProtocolError if it is invalid."""
    try:
        return msgspec.convert(value, Begun)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"stream not understood: {printable(error)}") from None


def packed(value: Any) -> msgspec.Raw:
    """Encode a value once, for use in several messages."""
    return msgspec.Raw(_encoder.encode(value))


# The zero byte is reserved: a sender writes 0, a receiver refuses anything else. It also tells this protocol from
# others whose bytes arrive here by mistake.
def frame(message: Message, fds: int = 0) -> bytes:
    """Encode a message as a frame that is accompanied by `fds` descriptors."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body), _KINDS[type(message)], fds, 0) + body


def decode(kind: int, body: bytes) -> Message | None:
    """Decode a frame's message; None for an unknown kind. RemoteProtocolError if it is invalid."""
    if kind == Kind.CALL:
        called = understood(_call_decoder.decode, body)
        return Call(called.serial, called.method, called.args)
    decoder = _decoders.get(kind)
    if decoder is None:
        return None
    return understood(decoder.decode, body)
