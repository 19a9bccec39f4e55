"""The fields of each command, by protocol version, as tables.

Each command has its fields as `name:type` in order (types are those of tagstruct.READ and of RECORDS); `@N`
means that the fields after it exist from version N on. From pulsecore/protocol-native.c and
pulse/{context,stream,introspect,scache}.c of PulseAudio 16; both sides reject missing and
trailing fields, so each layout is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import PROPS_MAX, READ, WRITE, Reader, Writer, bad


class Field(NamedTuple):
    """One field: its name, its type, and the version that introduced it."""

    name: str
    type: str
    since: int


Layout = tuple[Field, ...]


def layout(text: str) -> Layout:
    """Parse the notation above."""
    out: list[Field] = []
    since = 0
    for token in text.split():
        if token.startswith("@"):
            since = int(token[1:])
        else:
            name, kind = token.split(":")
            out.append(Field(name, kind, since))
    return tuple(out)


RECORDS: dict[str, Layout] = {
    kind: layout(text)
    for kind, text in {
        "ports": "name:s description:s priority:L @24 available:L @34 group:s kind:L",
        "profiles": "name:s description:s sinks:L sources:L priority:L @29 available:L",
        "card_ports": "name:s description:s priority:L available:L direction:B props:P profiles:profile_names"
        " @27 latency_offset:r @34 group:s kind:L",
        "profile_names": "name:s",
    }.items()
}
"""The types whose values are lists of records: on the wire, a count and that many records."""

_FLAGS = "no_remap:b no_remix:b fix_format:b fix_rate:b fix_channels:b no_move:b variable_rate:b"
_CHANNEL = "channel:L"
_INDEX = "index:L"
_NAMED = "index:L name:s"

_C = Command
REQUESTS: dict[Command, Layout] = {
    command: layout(text)
    for command, text in {
        _C.AUTH: "version:L cookie:x",
        _C.SET_CLIENT_NAME: "props:P",
        _C.EXIT: "",
        _C.CREATE_PLAYBACK_STREAM: "spec:a map:m sink_index:L sink_name:s maxlength:L corked:b tlength:L"
        f" prebuf:L minreq:L sync_id:L volume:v @12 {_FLAGS} @13 muted:b adjust_latency:b props:P"
        " @14 volume_set:b early_requests:b @15 muted_set:b dont_inhibit_auto_suspend:b fail_on_suspend:b"
        " @17 relative_volume:b @18 passthrough:b @21 formats:F",
        _C.DELETE_PLAYBACK_STREAM: _CHANNEL,
        _C.CREATE_RECORD_STREAM: "spec:a map:m source_index:L source_name:s maxlength:L corked:b fragsize:L"
        f" @12 {_FLAGS} @13 peak_detect:b adjust_latency:b props:P direct_on_input:L @14 early_requests:b"
        " @15 dont_inhibit_auto_suspend:b fail_on_suspend:b"
        " @22 formats:F volume:v muted:b volume_set:b muted_set:b relative_volume:b passthrough:b",
        _C.DELETE_RECORD_STREAM: _CHANNEL,
        _C.LOOKUP_SINK: "name:s",
        _C.LOOKUP_SOURCE: "name:s",
        _C.DRAIN_PLAYBACK_STREAM: _CHANNEL,
        _C.STAT: "",
        _C.GET_PLAYBACK_LATENCY: "channel:L time:T",
        _C.GET_RECORD_LATENCY: "channel:L time:T",
        _C.CREATE_UPLOAD_STREAM: "name:s spec:a map:m length:L @13 props:P",
        _C.DELETE_UPLOAD_STREAM: _CHANNEL,
        _C.FINISH_UPLOAD_STREAM: _CHANNEL,
        _C.PLAY_SAMPLE: "sink_index:L sink_name:s volume:L name:s @13 props:P",
        _C.REMOVE_SAMPLE: "name:s",
        _C.GET_SERVER_INFO: "",
        **dict.fromkeys((_C.GET_SINK_INFO, _C.GET_SOURCE_INFO, _C.GET_SAMPLE_INFO, _C.GET_CARD_INFO), _NAMED),
        **dict.fromkeys(
            (_C.GET_MODULE_INFO, _C.GET_CLIENT_INFO, _C.GET_SINK_INPUT_INFO, _C.GET_SOURCE_OUTPUT_INFO), _INDEX
        ),
        **dict.fromkeys(
            (
                _C.GET_SINK_INFO_LIST,
                _C.GET_SOURCE_INFO_LIST,
                _C.GET_MODULE_INFO_LIST,
                _C.GET_CLIENT_INFO_LIST,
                _C.GET_SINK_INPUT_INFO_LIST,
                _C.GET_SOURCE_OUTPUT_INFO_LIST,
                _C.GET_SAMPLE_INFO_LIST,
                _C.GET_CARD_INFO_LIST,
            ),
            "",
        ),
        _C.SUBSCRIBE: "mask:L",
        _C.SET_SINK_VOLUME: "index:L name:s volume:v",
        _C.SET_SOURCE_VOLUME: "index:L name:s volume:v",
        _C.SET_SINK_INPUT_VOLUME: "index:L volume:v",
        _C.SET_SOURCE_OUTPUT_VOLUME: "index:L volume:v",
        _C.SET_SINK_MUTE: "index:L name:s mute:b",
        _C.SET_SOURCE_MUTE: "index:L name:s mute:b",
        _C.SET_SINK_INPUT_MUTE: "index:L mute:b",
        _C.SET_SOURCE_OUTPUT_MUTE: "index:L mute:b",
        _C.CORK_PLAYBACK_STREAM: "channel:L cork:b",
        _C.CORK_RECORD_STREAM: "channel:L cork:b",
        _C.FLUSH_PLAYBACK_STREAM: _CHANNEL,
        _C.FLUSH_RECORD_STREAM: _CHANNEL,
        _C.TRIGGER_PLAYBACK_STREAM: _CHANNEL,
        _C.PREBUF_PLAYBACK_STREAM: _CHANNEL,
        _C.SET_DEFAULT_SINK: "name:s",
        _C.SET_DEFAULT_SOURCE: "name:s",
        _C.SET_PLAYBACK_STREAM_NAME: "channel:L name:s",
        _C.SET_RECORD_STREAM_NAME: "channel:L name:s",
        _C.KILL_CLIENT: _INDEX,
        _C.KILL_SINK_INPUT: _INDEX,
        _C.KILL_SOURCE_OUTPUT: _INDEX,
        _C.LOAD_MODULE: "name:s argument:s",
        _C.UNLOAD_MODULE: _INDEX,
        _C.MOVE_SINK_INPUT: "index:L sink_index:L sink_name:s",
        _C.MOVE_SOURCE_OUTPUT: "index:L source_index:L source_name:s",
        _C.SUSPEND_SINK: "index:L name:s suspend:b",
        _C.SUSPEND_SOURCE: "index:L name:s suspend:b",
        _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: "channel:L maxlength:L tlength:L prebuf:L minreq:L"
        " @13 adjust_latency:b @14 early_requests:b",
        _C.SET_RECORD_STREAM_BUFFER_ATTR: "channel:L maxlength:L fragsize:L @13 adjust_latency:b @14 early_requests:b",
        _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE: "channel:L rate:L",
        _C.UPDATE_RECORD_STREAM_SAMPLE_RATE: "channel:L rate:L",
        _C.UPDATE_PLAYBACK_STREAM_PROPLIST: "channel:L mode:L props:P",
        _C.UPDATE_RECORD_STREAM_PROPLIST: "channel:L mode:L props:P",
        _C.UPDATE_CLIENT_PROPLIST: "mode:L props:P",
        _C.REMOVE_PLAYBACK_STREAM_PROPLIST: "channel:L keys:S",
        _C.REMOVE_RECORD_STREAM_PROPLIST: "channel:L keys:S",
        _C.REMOVE_CLIENT_PROPLIST: "keys:S",
        _C.EXTENSION: "index:L name:s rest:*",
        _C.SET_CARD_PROFILE: "index:L name:s profile:s",
        _C.SET_SINK_PORT: "index:L name:s port:s",
        _C.SET_SOURCE_PORT: "index:L name:s port:s",
        _C.SET_PORT_LATENCY_OFFSET: "index:L name:s port:s offset:r",
        _C.SEND_OBJECT_MESSAGE: "path:s message:s parameters:s",
    }.items()
}

_REC_ATTR = "maxlength:L fragsize:L"
_PLAY_ATTR = "maxlength:L tlength:L prebuf:L minreq:L"
REPLIES: dict[Command, Layout] = {
    command: layout(text)
    for command, text in {
        _C.AUTH: "version:L",
        _C.SET_CLIENT_NAME: "@13 index:L",
        _C.CREATE_PLAYBACK_STREAM: f"channel:L index:L missing:L @9 {_PLAY_ATTR}"
        " @12 spec:a map:m sink_index:L sink_name:s suspended:b @13 latency:U @21 format:f",
        _C.CREATE_RECORD_STREAM: f"channel:L index:L @9 {_REC_ATTR}"
        " @12 spec:a map:m source_index:L source_name:s suspended:b @13 latency:U @22 format:f",
        _C.CREATE_UPLOAD_STREAM: "channel:L length:L",
        _C.LOOKUP_SINK: "index:L",
        _C.LOOKUP_SOURCE: "index:L",
        _C.STAT: "blocks:L bytes:L allocated:L allocated_bytes:L cache_bytes:L",
        _C.GET_PLAYBACK_LATENCY: "sink_usec:U source_usec:U playing:b time:T now:T"
        " write_index:r read_index:r @13 underrun_for:R playing_for:R",
        _C.GET_RECORD_LATENCY: "monitor_usec:U source_usec:U playing:b time:T now:T write_index:r read_index:r",
        _C.PLAY_SAMPLE: "@13 index:L",
        _C.GET_SERVER_INFO: "package:s version:s user:s host:s spec:a default_sink:s default_source:s"
        " cookie:L @15 map:m",
        _C.LOAD_MODULE: "index:L",
        _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: f"{_PLAY_ATTR} @13 latency:U",
        _C.SET_RECORD_STREAM_BUFFER_ATTR: f"{_REC_ATTR} @13 latency:U",
        _C.SEND_OBJECT_MESSAGE: "response:s",
        _C.EXTENSION: "rest:*",
        _C.GET_MODULE_INFO: "index:L name:s argument:s users:L @15 props:P",
        _C.GET_CLIENT_INFO: "index:L name:s module:L driver:s @13 props:P",
        _C.GET_SINK_INFO: "index:L name:s description:s spec:a map:m module:L volume:v mute:b"
        " monitor_index:L monitor_name:s latency:U driver:s flags:L @13 props:P configured:U"
        " @15 base_volume:V state:L steps:L card:L @16 ports:ports active_port:s @21 formats:F",
        _C.GET_SOURCE_INFO: "index:L name:s description:s spec:a map:m module:L volume:v mute:b"
        " monitor_of_index:L monitor_of_name:s latency:U driver:s flags:L @13 props:P configured:U"
        " @15 base_volume:V state:L steps:L card:L @16 ports:ports active_port:s @22 formats:F",
        _C.GET_SINK_INPUT_INFO: "index:L name:s module:L client:L sink:L spec:a map:m volume:v"
        " buffer_usec:U sink_usec:U resample_method:s driver:s @11 mute:b @13 props:P @19 corked:b"
        " @20 has_volume:b writable:b @21 format:f",
        _C.GET_SOURCE_OUTPUT_INFO: "index:L name:s module:L client:L source:L spec:a map:m"
        " buffer_usec:U source_usec:U resample_method:s driver:s @13 props:P @19 corked:b"
        " @22 volume:v mute:b has_volume:b writable:b format:f",
        _C.GET_SAMPLE_INFO: "index:L name:s volume:v duration:U spec:a map:m bytes:L lazy:b filename:s @13 props:P",
        _C.GET_CARD_INFO: "index:L name:s module:L driver:s profiles:profiles active_profile:s props:P"
        " @26 ports:card_ports",
    }.items()
}
_MOVED = "channel:L index:L name:s suspended:b @13 "
NOTICES: dict[Command, Layout] = {
    command: layout(text)
    for command, text in {
        _C.REQUEST: "channel:L bytes:L",
        _C.OVERFLOW: _CHANNEL,
        _C.UNDERFLOW: "channel:L @23 offset:r",
        _C.STARTED: _CHANNEL,
        _C.PLAYBACK_STREAM_KILLED: _CHANNEL,
        _C.RECORD_STREAM_KILLED: _CHANNEL,
        _C.PLAYBACK_STREAM_SUSPENDED: "channel:L suspended:b",
        _C.RECORD_STREAM_SUSPENDED: "channel:L suspended:b",
        _C.PLAYBACK_STREAM_MOVED: f"{_MOVED} {_PLAY_ATTR} latency:U",
        _C.RECORD_STREAM_MOVED: f"{_MOVED} {_REC_ATTR} latency:U",
        _C.SUBSCRIBE_EVENT: "event:L index:L",
        _C.EXTENSION: "index:L name:s event:L",
        _C.PLAYBACK_BUFFER_ATTR_CHANGED: f"channel:L {_PLAY_ATTR} latency:U",
        _C.RECORD_BUFFER_ATTR_CHANGED: f"channel:L {_REC_ATTR} latency:U",
    }.items()
}


# Trailing data is an error, as it is for libpulse: it means that the two sides disagree about the version, and then
# nothing in the message can be trusted.
def read_fields(fields: Layout, reader: Reader, version: int) -> dict[str, Any]:
    """Read the `fields` that exist in `version`; RemoteProtocolError for missing or trailing data."""
    out = _read_record(fields, reader, version)
    if not reader.at_end:
        raise bad("data after the last field")
    return out


def read_many(fields: Layout, reader: Reader, version: int) -> list[dict[str, Any]]:
    """Read the reply to a …_LIST command: consecutive records, up to the end."""
    out: list[dict[str, Any]] = []
    while not reader.at_end:
        out.append(_read_record(fields, reader, version))
    return out


def _read_record(fields: Layout, reader: Reader, version: int) -> dict[str, Any]:
    return {f.name: _read_value(f.type, reader, version) for f in fields if f.since <= version}


def _read_value(kind: str, reader: Reader, version: int) -> Any:
    if kind not in RECORDS:
        return READ[kind](reader)
    count = reader.u32()
    if count > PROPS_MAX:
        raise bad(f"list too long: {count} records; {PROPS_MAX} at most")
    return [_read_record(RECORDS[kind], reader, version) for _ in range(count)]


def write_fields(fields: Layout, values: Mapping[str, Any], writer: Writer, version: int) -> None:
    """Write the `fields` that exist in `version`; each of them must be in `values`."""
    for f in fields:
        if f.since <= version:
            _write_value(f.type, values[f.name], writer, version)


def _write_value(kind: str, value: Any, writer: Writer, version: int) -> None:
    if kind not in RECORDS:
        WRITE[kind](writer, value)
        return
    writer.u32(len(value))
    for record in value:
        write_fields(RECORDS[kind], record, writer, version)
