"""A PulseAudio connection, sans-IO: bytes in, requests and sound out; replies in, bytes out.

Frames are five big-endian u32 (length, channel, offset high, offset low, flags) and a payload;
channel 0xFFFFFFFF is a command, any other a memory block (pulsecore/pstream.c). Blocks are
passed on piece by piece as they arrive, so a 16 MiB block needs no 16 MiB buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.units import HostNs
from millrace.wire.contract import Untimed
from millrace.wire.pulse.constants import (
    BLOCK_MAX,
    COMMAND_MAX,
    FRAME_MAX,
    NO_INDEX,
    PROTOCOL_VERSION,
    Command,
    Err,
    Seek,
)
from millrace.wire.pulse.layouts import NOTICES, REPLIES, REQUESTS, Layout, read_fields, write_fields
from millrace.wire.pulse.tagstruct import Reader, Writer, bad

HEADER = struct.Struct(">IIiII")
_U32 = struct.Struct(">I")
RECORDS_MAX = 4 * 1024 * 1024
"""The largest list sent; the protocol's own limit is 16 MiB."""
_SHM_FLAGS = 0xC0000000
_SEEK_MASK = 0xFF
_RELATIVE, _SEEK_LAST = int(Seek.RELATIVE), int(Seek.RELATIVE_END)
# EXTENSION is sent by both sides: a request here, a notice there.
_SERVER_SPEAKS = frozenset({Command.ERROR, Command.TIMEOUT, Command.REPLY, *NOTICES} - {Command.EXTENSION})


def _head(command: Command, fields: Layout) -> bytes:
    """What precedes the fields of a notice whose fields are all numbers."""
    return HEADER.pack(10 + 5 * len(fields), NO_INDEX, 0, 0, 0) + struct.pack(">cIcI", b"L", command, b"L", NO_INDEX)


# Notices of numbers only: REQUEST, which is sent most often, and others. Their fields need no `Writer`.
_NUMBERS = {
    command: (_head(command, fields), tuple(f.name for f in fields))
    for command, fields in NOTICES.items()
    if all(f.type == "L" and not f.since for f in fields)
}


class Request(msgspec.Struct, frozen=True):
    """A command from the client, with its tag and its fields by name."""

    command: Command
    tag: int
    fields: dict[str, Any]


class Refused(msgspec.Struct, frozen=True):
    """A command that can't be served; `code` is the error to answer with."""

    tag: int
    code: Err
    reason: str


class Block(msgspec.Struct, frozen=True, gc=False):
    """Sound (or silence to skip) for a channel. `data` is a view, valid until the next `receive`."""

    channel: int
    seek: int
    offset: int
    data: memoryview


Event: TypeAlias = Request | Refused | Block


class RecordsReply(msgspec.Struct, frozen=True):
    """A reply of many records in the layout of `command`, under construction."""

    tag: int
    command: Command
    writer: Writer
    version: int

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return len(self.writer.data)

    @property
    def too_long(self) -> bool:
        """Whether it exceeds the limit."""
        return self.size > RECORDS_MAX

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record, unless the reply is already too long."""
        if not self.too_long:
            write_fields(REPLIES[self.command], record, self.writer, self.version)


@dataclass(slots=True)
class PulseState:
    """The state of the server's end between two events: a plain value, from which another session can continue."""

    version: int = PROTOCOL_VERSION
    header: bytearray = field(default_factory=bytearray)
    """The part of a frame header received so far."""
    command: bytearray = field(default_factory=bytearray)
    """The part of a command received so far."""
    channel: int = NO_INDEX
    left: int = 0
    """Bytes of the frame still to be received."""
    seek: int = 0
    offset: int = 0
    partial_bytes: int = 0
    """The announced size of a command that is still incomplete: the memory it may take."""
    unsent: list[bytes] = field(default_factory=list)
    unsent_bytes: int = 0
    """The size of `unsent`, which `data_to_send` takes."""


# Two states: between frames (`left` is 0, `header` may be partial) and within one (`left` bytes of it are to come). The
# invariants hold after any number of bytes, so the state can be taken and continued there:
#
# - Blocks and commands become events strictly in the order of the stream. Clients correct their idea of the write index
#   on that assumption.
# - Only the first piece of a block carries its seek and offset. The pieces after it continue there (RELATIVE, 0), so
#   any division into pieces writes the same bytes to the same place.
# - A block is never collected. A command is, up to COMMAND_MAX, and its announced size is reported as soon as its
#   header is complete, so its memory is charged before it is used.
# - An unknown or unsupported command is answered (`Refused`) and does not end the connection: its tag is known, and
#   clients probe for features that way. What can't be parsed ends the connection, since it is unknown what its sender
#   expects.
class PulseSession(Untimed):
    """The server's end of one connection. It can continue from another session's `state`."""

    def __init__(self, state: PulseState | None = None) -> None:
        self.state = state or PulseState()
        self._events: list[Event] = []

    # -- in ------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes. RemoteProtocolError ends the connection."""
        del now_ns
        at, view = 0, memoryview(data)
        while at < len(view):
            at = self.receive_some(view, at)

    # One event at a time, so that the caller can stop between two commands when its turn is over, and keep the rest as
    # bytes. A queue of parsed commands would take more memory than those bytes, and would not be part of the state.
    def receive_some(self, view: memoryview, at: int = 0) -> int:
        """Like `receive`, but begins at `at` and stops at the next event; returns where."""
        end, state = len(view), self.state
        while at < end:
            if not state.left:
                if end - at >= HEADER.size and not state.header:
                    self._begin(*HEADER.unpack_from(view, at))
                    at += HEADER.size
                else:
                    at = self._read_header(view, at)
            if state.left and at < end:
                at = self._read_payload(view, at)
            if self._events:
                break
        return at

    def _read_header(self, view: memoryview, at: int) -> int:
        """Read a header that arrives in pieces."""
        header = self.state.header
        piece = view[at : at + HEADER.size - len(header)]
        header += piece
        if len(header) == HEADER.size:
            whole = HEADER.unpack(header)
            header.clear()
            self._begin(*whole)
        return at + len(piece)

    # The offset is a signed number of 64 bits in two halves, so only its upper half is read as signed.
    def _begin(self, length: int, channel: int, high: int, low: int, flags: int) -> None:
        state = self.state
        state.channel = channel
        if flags & _SHM_FLAGS:
            raise bad("shared memory was declined, but a block refers to it")
        if channel == NO_INDEX:
            if flags or not 0 < length <= COMMAND_MAX:
                raise bad(f"invalid command frame: {length} bytes with flags {flags:#x}")
            state.partial_bytes = length
        elif not 0 <= length <= FRAME_MAX:
            raise bad(f"memory block too long: {length} bytes; {FRAME_MAX} at most")
        state.left = length
        state.seek, state.offset = flags & _SEEK_MASK, (high << 32) | low
        if state.seek > _SEEK_LAST:
            raise bad(f"unknown seek mode {state.seek}")
        if channel != NO_INDEX and length == 0:
            self._events.append(Block(channel, state.seek, state.offset, memoryview(b"")))

    def _read_payload(self, view: memoryview, at: int) -> int:
        state = self.state
        size = min(state.left, len(view) - at)
        piece = view[at : at + size]
        state.left -= size
        if state.channel == NO_INDEX:
            state.command += piece
            if state.left == 0:
                data = bytes(state.command)
                state.command.clear()
                state.partial_bytes = 0
                self._read_command(data)
        else:
            self._events.append(Block(state.channel, state.seek, state.offset, piece))
            state.seek, state.offset = _RELATIVE, 0
        return at + size

    def _read_command(self, data: bytes) -> None:
        reader = Reader(data)
        number, tag = reader.u32(), reader.u32()
        try:
            command = Command(number)
        except ValueError:
            self._events.append(Refused(tag, Err.NOTSUPPORTED, f"unknown command {number}"))
            return
        if command in _SERVER_SPEAKS:
            raise bad(f"{command.name} is only sent by servers")
        fields = REQUESTS.get(command)
        if fields is None:
            self._events.append(Refused(tag, Err.NOTIMPLEMENTED, f"{command.name} is not supported"))
            return
        try:
            values = read_fields(fields, reader, self.state.version)
        except RemoteProtocolError as error:
            raise bad(f"{command.name}: {error}") from None
        # From here on fields are read and written in the lower of the two versions, beginning with the reply to this
        # very command.
        if command is Command.AUTH:
            self._agree_version(values)
        self._events.append(Request(command, tag, values))

    def _agree_version(self, values: dict[str, Any]) -> None:
        """The lower 16 bits are the version. The upper ones offer shared memory, which is declined."""
        values["version"] &= 0xFFFF
        self.state.version = min(values["version"], PROTOCOL_VERSION)

    def encoded(self, request: Request) -> bytes:
        """A request as on the wire, for `request_of`."""
        writer = self._start(request.command, request.tag)
        write_fields(REQUESTS[request.command], request.fields, writer, self.state.version)
        return bytes(writer.data)

    def request_of(self, data: bytes) -> Request:
        """The request that was `encoded`, in the same version."""
        self._read_command(data)
        (request,) = self.events()
        assert isinstance(request, Request)
        return request

    def events(self) -> list[Event]:
        """The events since the last call."""
        if not self._events:
            return []
        out, self._events = self._events, []
        return out

    # -- out -----------------------------------------------------------------------------

    def send_reply(self, request: Request, values: Mapping[str, Any] | None = None) -> None:
        """Answer `request` with the fields of its reply (none for a bare acknowledgement)."""
        self._send(Command.REPLY, request.tag, REPLIES.get(request.command, ()), values or {})

    def send_records(self, tag: int, command: Command, records: list[dict[str, Any]]) -> None:
        """Answer an info or list query with any number of records in the layout of `command`."""
        reply = self.begin_records(tag, command)
        for record in records:
            reply.add(record)
        self.end_records(reply)

    def begin_records(self, tag: int, command: Command) -> RecordsReply:
        """Begin an answer like that of `send_records`; other messages may be sent before it ends."""
        return RecordsReply(tag, command, self._start(Command.REPLY, tag), self.state.version)

    def end_records(self, reply: RecordsReply) -> None:
        """Send the reply, or an error if it has become too long."""
        if reply.too_long:
            self.send_error(reply.tag, Err.TOOLARGE)
        else:
            self._finish(reply.writer)

    def send_error(self, tag: int, code: int) -> None:
        """Answer a request with an error."""
        writer = self._start(Command.ERROR, tag)
        writer.u32(code)
        self._finish(writer)

    def send_notice(self, command: Command, **values: Any) -> None:
        """Send an unsolicited message."""
        numbers = _NUMBERS.get(command)
        if numbers is not None:
            head, names = numbers
            self._put(head, b"".join([b"L" + _U32.pack(min(values[name], NO_INDEX)) for name in names]))
            return
        self._send(command, NO_INDEX, NOTICES[command], values)

    def send_block(self, channel: int, data: Buffer) -> None:
        """Send recorded sound, split into blocks that libpulse accepts."""
        view = memoryview(data)
        for at in range(0, len(view), BLOCK_MAX):
            piece = view[at : at + BLOCK_MAX]
            self._put(HEADER.pack(len(piece), channel, 0, 0, 0), bytes(piece))

    def _send(self, command: Command, tag: int, fields: Any, values: Mapping[str, Any]) -> None:
        writer = self._start(command, tag)
        write_fields(fields, values, writer, self.state.version)
        self._finish(writer)

    def _start(self, command: Command, tag: int) -> Writer:
        writer = Writer()
        writer.u32(command)
        writer.u32(tag)
        return writer

    def _finish(self, writer: Writer) -> None:
        self._put(HEADER.pack(len(writer.data), NO_INDEX, 0, 0, 0), bytes(writer.data))

    def _put(self, header: bytes, payload: bytes) -> None:
        state = self.state
        state.unsent += (header, payload)
        state.unsent_bytes += len(header) + len(payload)

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        state = self.state
        if not state.unsent:
            return b""
        out = b"".join(state.unsent)
        state.unsent.clear()
        state.unsent_bytes = 0
        return out
