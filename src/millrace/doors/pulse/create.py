"""CREATE_PLAYBACK_STREAM and CREATE_RECORD_STREAM: every flag and attribute is either served here or refused."""

from __future__ import annotations

from typing import Any

from millrace.doors.admission import permission_of
from millrace.doors.pulse.attrs import Layout, PlaybackAttr, RecordAttr, fix_playback, fix_record
from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.formats import (
    CommandError,
    gains_from,
    info_of,
    map_names,
    map_of,
    negotiate,
    prop_text,
    remapped,
    spec_of,
)
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.restore import group_of_props
from millrace.doors.pulse.state import new_playback, new_record
from millrace.dsp.channels import Mapping
from millrace.dsp.mix import cubic_to_gain
from millrace.dsp.resample import SINC_HOLDS, holds_ns, stretched
from millrace.graph.model import Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.remembered.streams import INPUT, Rule
from millrace.units import HostNs, frames_to_ns
from millrace.wire.pulse.constants import NO_INDEX, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props

Fields = dict[str, Any]
_SHOWN = ("application.name", "application.process.binary", "application.process.id", "media.name", "media.role")
DONT_MOVE = "its client asked for it not to be moved"


def display_props(client: PulseClient, props: Props) -> dict[str, str]:
    """The properties that Millrace itself shows; the stream's take precedence over its client's."""
    merged = client.props | props
    return {key: text for key in _SHOWN if (text := prop_text(merged, key))}


def stream_name(props: Props, client: PulseClient) -> str:
    """A stream's display name."""
    return prop_text(props, "media.name") or prop_text(client.props, "application.name") or "stream"


# -- common to playback and recording ----------------------------------------------------------


def _mapping(f: Fields) -> Mapping:
    if f["no_remap"]:
        return Mapping.INDEX
    return Mapping.NAMES if f["no_remix"] else Mapping.MIX


def _check(f: Fields, index: int, name: str | None) -> None:
    """Refuse what is invalid or unsupported for any stream."""
    if index != NO_INDEX and name:
        raise CommandError(Err.INVALID, "give the device by index or by name, not both")
    if f.get("passthrough"):
        raise CommandError(Err.NOTSUPPORTED, "only PCM can be mixed")


def _check_suspended(f: Fields, sink: Sink) -> None:
    if f.get("fail_on_suspend") and sink.suspended:
        raise CommandError(Err.BADSTATE, f"{sink.name} is suspended, and the stream asked to fail in that case")


def _gains(f: Fields, fmt: AudioFormat) -> tuple[float, ...]:
    """The requested volume. It is for the requested channels, which the sink's may have replaced (fix_channels)."""
    volume: tuple[int, ...] = f["volume"]
    asked = map_names(f["map"])
    if not f.get("formats") and len(volume) != len(asked):
        raise CommandError(Err.INVALID, f"{len(volume)} volumes for {len(asked)} channels")
    if not f.get("formats") and len(asked) != len(fmt.positions):
        volume = remapped(volume, asked, fmt.positions)
    return gains_from(volume[: len(fmt.positions)], len(fmt.positions))


# -- playback ----------------------------------------------------------------------------------


# The stream must be registered under its channel before the reply is queued, and no notice about it may precede the
# reply: libpulse learns the channel from the reply and discards a REQUEST for one that it does not know. That would
# be fatal, as the bytes count as requested and are never asked for again. So the reply itself carries the first
# request (`missing`, all of `tlength`), and everything that may send a notice comes after it.
def create_playback(client: PulseClient, request: Request) -> None:
    """CREATE_PLAYBACK_STREAM."""
    f, door = request.fields, client.door
    _check(f, f["sink_index"], f["sink_name"])
    base = client.synchronised(f["sync_id"])
    sink = _sink_for(client, f, base[0] if base else None)
    _check_suspended(f, sink)
    fmt = negotiate(f, door.format_of(sink))
    node = _playback_node(client, f, fmt, joins=bool(base))
    props = client.props | f["props"]
    state = new_playback(client.take_channel(), fmt, _asked_attr(client, f, fmt), props, f["variable_rate"])
    state.sync_id, state.fail_on_suspend = f["sync_id"], bool(f.get("fail_on_suspend"))
    state.corked = f["corked"]
    stream = PlaybackStream(client, state, node, door.graph)
    if base:
        stream.begin_with(base[0])
    door.begin_playback(stream, sink)
    client.keep_playback(stream)
    client.reply(request, _playback_reply(client, stream) | {"missing": stream.take_first_request()})
    # Only after the reply, which tells the client the channel that the stream's notices name.
    stream.check_ready()


# A stream that joins others begins where they will resume (`begin_with`). That place is fixed only while they are
# paused, and comparable only on the same sink.
def _sink_for(client: PulseClient, f: Fields, base: PlaybackStream | None) -> Sink:
    """The sink for a new stream. Synchronised streams share one, and may be joined only while they are paused."""
    named = f["sink_index"] != NO_INDEX or bool(f["sink_name"])
    if base is None or named:
        sink = client.door.find_sink(f["sink_index"], f["sink_name"])
    else:
        sink = base.node.sink
    if base is not None and (sink is not base.node.sink or not base.corked):
        raise CommandError(Err.INVALID, "synchronised streams must share a sink and be paused when another one joins")
    return sink


def _playback_node(client: PulseClient, f: Fields, fmt: AudioFormat, joins: bool) -> Stream:
    shown = display_props(client, client.props | f["props"])
    node = Stream(client.door.graph.ids.take(), stream_name(f["props"], client), fmt.positions, shown)
    if f.get("volume_set", True):
        node.gains = _gains(f, fmt)
    node.mute = bool(f["muted"] and f.get("muted_set", True))
    node.chosen = tuple(
        what
        for what, set_ in (
            ("volume", f.get("volume_set", True)),
            ("mute", f["muted"] or f.get("muted_set")),
            ("sink", f["sink_index"] != NO_INDEX or f["sink_name"] or joins),
        )
        if set_
    )
    node.mapping = _mapping(f)
    node.pinned = DONT_MOVE if f["no_move"] else ""
    return node


def _asked_attr(client: PulseClient, f: Fields, fmt: AudioFormat) -> PlaybackAttr:
    asked = PlaybackAttr(f["maxlength"], f["tlength"], f["prebuf"], f["minreq"])
    held_ns = held_by_resampler(fmt.rate, client.door.graph.rate, f["variable_rate"])
    early = bool(f.get("early_requests"))
    return fix_playback(asked, Layout(fmt.frame_bytes, fmt.rate), f["adjust_latency"], early, held_ns)


def held_by_resampler(rate: int, rate_out: int, glide: bool) -> HostNs:
    """How much the resampler of a stream with a short buffer holds back."""
    if glide and not stretched(rate, rate_out):
        return frames_to_ns(SINC_HOLDS, min(rate, rate_out))
    return holds_ns(rate, rate_out, low_delay=True)


def _playback_reply(client: PulseClient, stream: PlaybackStream) -> dict[str, object]:
    sink = stream.node.sink
    return attr_reply(stream) | {
        "channel": stream.channel, "index": client.door.indexes.inputs.of(stream.node), "spec": spec_of(stream.format),
        "map": map_of(stream.format), "sink_index": client.door.sink_indexes.of(sink), "sink_name": sink.name,
        "suspended": sink.suspended, "format": info_of(stream.format),
    }  # fmt: skip


def attr_reply(stream: PlaybackStream) -> dict[str, object]:
    """The attributes in force, in the form of a reply."""
    attr = stream.attr
    return {
        "maxlength": attr.maxlength, "tlength": attr.tlength, "prebuf": attr.prebuf, "minreq": attr.minreq,
        "latency": attr.sink_ns // 1000,
    }  # fmt: skip


# -- recording ---------------------------------------------------------------------------------


# This runs twice if the program needs a person's permission: `answered` dispatches the request again. Everything
# before `authorize` therefore only looks things up; a channel, a node or a charge taken there would be taken twice.
def create_record(client: PulseClient, request: Request) -> None:
    """CREATE_RECORD_STREAM: of a source, a sink's monitor, or a single stream of a sink."""
    f, door = request.fields, client.door
    _check(f, f["source_index"], f["source_name"])
    only = _only_stream(client, f)
    sink = _source_for(client, f, only)
    if not client.authorize(permission_of(sink), request, lambda allow: client.answered(request, allow)):
        return
    _check_suspended(f, sink)
    fmt = negotiate(f, door.format_of(sink))
    record = _record_stream(client, f, fmt)
    door.begin_record(record, sink, only)
    client.keep_record(record)
    client.reply(request, _record_reply(client, record, sink))


def _only_stream(client: PulseClient, f: Fields) -> Stream | None:
    if f["direct_on_input"] == NO_INDEX:
        return None
    stream = client.door.input_at(f["direct_on_input"])
    if stream is None or not stream.links:
        raise CommandError(Err.NOENTITY, f"no stream {f['direct_on_input']}")
    return stream


def _source_for(client: PulseClient, f: Fields, only: Stream | None) -> Sink:
    named = f["source_index"] != NO_INDEX or bool(f["source_name"])
    if only is None and not named:
        return _remembered_source(client, f) or client.door.recorded_by_default()
    sink = client.door.find_source(f["source_index"], f["source_name"]) if named or only is None else only.sink
    if only is not None and sink is not only.sink:
        raise CommandError(Err.INVALID, f"{only.key} does not play to {sink.name}")
    return sink


def _remembered(client: PulseClient, f: Fields) -> Rule:
    """The stored settings for the recorder's group."""
    group = group_of_props(client.props | f["props"], INPUT)
    return client.door.rules.restored(group) or Rule()


# Restoring a setting must not cause a prompt: the program named no source, and a person would be asked about one that
# was chosen weeks ago. Without a grant that needs no prompt, the recorder gets the default source.
def _remembered_source(client: PulseClient, f: Fields) -> Sink | None:
    """The source stored for the recorder's group, if its client may record it without a prompt."""
    door, name = client.door, _remembered(client, f).device
    source = next((mix for mix in door.graph.mixes() if name and door.source_name(mix) == name), None)
    return source if source is not None and door.may_record(client, source) else None


def _record_stream(client: PulseClient, f: Fields, fmt: AudioFormat) -> RecordStream:
    graph, props = client.door.graph, client.props | f["props"]
    early = bool(f.get("early_requests"))
    asked = RecordAttr(f["maxlength"], f["fragsize"])
    attr = fix_record(asked, Layout(fmt.frame_bytes, fmt.rate), f["adjust_latency"], early)
    node = Tap(graph.ids.take(), stream_name(f["props"], client), fmt.positions, display_props(client, props))
    node.placed = f["source_index"] != NO_INDEX or bool(f["source_name"])
    node.mapping = _mapping(f)
    node.pinned = DONT_MOVE if f["no_move"] else ""
    state = new_record(client.take_channel(), fmt, attr, props, f["peak_detect"], f["variable_rate"])
    rule = _remembered(client, f)
    if f.get("volume_set") and f.get("volume"):
        state.gains = _gains(f, fmt)
    elif levels := rule.fitted(fmt.positions):
        state.gains = tuple(cubic_to_gain(level) for level in levels)
    state.mute = bool(f.get("muted")) if f.get("muted_set") else bool(rule.mute)
    state.fail_on_suspend = bool(f.get("fail_on_suspend"))
    state.keeps_awake = not f.get("dont_inhibit_auto_suspend")
    record = RecordStream(client, state, node, graph)
    record.set_active(not f["corked"])
    return record


def _record_reply(client: PulseClient, record: RecordStream, sink: Sink) -> dict[str, object]:
    fmt, attr = record.format, record.attr
    return {
        "channel": record.channel, "index": client.door.indexes.outputs.of(record.node),
        "maxlength": attr.maxlength, "fragsize": attr.fragsize,
        "spec": spec_of(fmt), "map": map_of(fmt), "source_index": client.door.source_indexes.of(sink),
        "source_name": client.door.source_name(sink),
        "suspended": sink.suspended, "latency": record.node.latency_ask_ns // 1000, "format": info_of(fmt),
    }  # fmt: skip
