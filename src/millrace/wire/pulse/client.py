"""The client's end of the PulseAudio protocol, sans-IO: requests go out; replies, notices and sound come in.

Used where Millrace itself is the client of a PulseAudio server, by the demo, and by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.units import HostNs
from millrace.wire.contract import Untimed
from millrace.wire.pulse.constants import BLOCK_MAX, FRAME_MAX, NO_INDEX, PROTOCOL_VERSION, Command
from millrace.wire.pulse.layouts import NOTICES, REPLIES, REQUESTS, read_fields, read_many, write_fields
from millrace.wire.pulse.session import HEADER
from millrace.wire.pulse.tagstruct import FormatInfo, Reader, Spec, Writer, bad


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; to a list command it may hold several `records`."""

    tag: int
    command: Command
    records: list[dict[str, Any]]

    @property
    def fields(self) -> dict[str, Any]:
        """The first record; empty for a bare acknowledgement."""
        return self.records[0] if self.records else {}


@dataclass(frozen=True, slots=True)
class Failed:
    """A request was refused with `code`."""

    tag: int
    command: Command
    code: int


@dataclass(frozen=True, slots=True)
class Notice:
    """An unsolicited message from the server."""

    command: Command
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sound:
    """A block of recorded sound."""

    channel: int
    data: bytes


Event: TypeAlias = Reply | Failed | Notice | Sound


_SYNC_IDS = count()
"""Each stream gets its own number, as with libpulse; streams that share one are synchronised."""


def playback_fields(spec: Spec, numbers: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """The fields of CREATE_PLAYBACK_STREAM: defaults, except for `changes`."""
    flags = ("no_remap", "no_remix", "fix_format", "fix_rate", "fix_channels", "no_move", "variable_rate", "muted",
             "adjust_latency", "volume_set", "early_requests", "muted_set", "dont_inhibit_auto_suspend",
             "fail_on_suspend", "relative_volume", "passthrough", "corked")  # fmt: skip
    formats: list[FormatInfo] = []
    fields: dict[str, Any] = dict.fromkeys(flags, False) | {
        "spec": spec, "map": numbers, "sink_index": NO_INDEX, "sink_name": None, "maxlength": NO_INDEX,
        "tlength": NO_INDEX, "prebuf": NO_INDEX, "minreq": NO_INDEX, "sync_id": next(_SYNC_IDS),
        "volume": (0x10000,) * spec.channels, "props": {}, "formats": formats,
    }  # fmt: skip
    return fields | changes


def record_fields(spec: Spec, numbers: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """The fields of CREATE_RECORD_STREAM: defaults, except for `changes`."""
    fields = playback_fields(spec, numbers) | {
        "source_index": NO_INDEX, "source_name": None, "fragsize": NO_INDEX, "peak_detect": False,
        "direct_on_input": NO_INDEX,
    }  # fmt: skip
    return fields | changes


class PulseClientSession(Untimed):
    """The client's end of one connection."""

    def __init__(self, version: int = PROTOCOL_VERSION) -> None:
        self.version = version
        self._waiting: dict[int, Command] = {}
        self._tag = 0
        self._in = bytearray()
        self._out = bytearray()
        self._events: list[Event] = []

    def send_request(self, command: Command, fields: Mapping[str, Any] | None = None) -> int:
        """Queue a request; returns the tag that its answer will carry."""
        tag, self._tag = self._tag, self._tag + 1
        writer = Writer()
        writer.u32(command)
        writer.u32(tag)
        write_fields(REQUESTS[command], fields or {}, writer, self.version)
        self._out += HEADER.pack(len(writer.data), NO_INDEX, 0, 0, 0) + writer.data
        self._waiting[tag] = command
        return tag

    def send_block(self, channel: int, data: Buffer, seek: int = 0, offset: int = 0) -> None:
        """Queue sound for a stream."""
        view = memoryview(data)
        for at in range(0, max(1, len(view)), BLOCK_MAX):
            piece = view[at : at + BLOCK_MAX]
            self._out += HEADER.pack(len(piece), channel, offset >> 32, offset & 0xFFFFFFFF, seek) + piece
            seek = offset = 0

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def receive(self, data: Buffer, now_ns: HostNs = 0) -> None:
        """Take bytes; RemoteProtocolError if a server may not send them."""
        del now_ns
        self._in += data
        while len(self._in) >= HEADER.size:
            length, channel, *_ = HEADER.unpack_from(self._in)
            if length > FRAME_MAX:
                raise bad(f"frame too long: {length} bytes; {FRAME_MAX} at most")
            end = HEADER.size + length
            if len(self._in) < end:
                return
            payload = bytes(self._in[HEADER.size : end])
            del self._in[:end]
            self._events.append(self._command(payload) if channel == NO_INDEX else Sound(channel, payload))

    def _command(self, payload: bytes) -> Event:
        reader = Reader(payload)
        number, tag = reader.u32(), reader.u32()
        try:
            command = Command(number)
        except ValueError:
            raise bad(f"unknown command {number}") from None
        if command is Command.REPLY:
            return self._reply(reader, tag)
        if command is Command.ERROR:
            return Failed(tag, self._asked(tag), reader.u32())
        if command not in NOTICES:
            raise bad(f"{command.name} is only sent by clients")
        return Notice(command, read_fields(NOTICES[command], reader, self.version))

    # Replies carry no type, only the tag of their request: an answer to a tag that is not known can't even be parsed.
    def _asked(self, tag: int) -> Command:
        command = self._waiting.pop(tag, None)
        if command is None:
            raise RemoteProtocolError(f"unexpected reply: no request {tag} was sent")
        return command

    def _reply(self, reader: Reader, tag: int) -> Reply:
        command = self._asked(tag)
        single = Command[command.name.removesuffix("_LIST")] if command.name.endswith("_LIST") else command
        fields = REPLIES.get(single, ())
        if single is not command:
            return Reply(tag, command, read_many(fields, reader, self.version))
        record = read_fields(fields, reader, self.version)
        # The upper half of the server's version has flags, as that of the client's has.
        if command is Command.AUTH:
            self.version = min(self.version, record["version"] & 0xFFFF)
        return Reply(tag, command, [record])

    def events(self) -> list[Event]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out
