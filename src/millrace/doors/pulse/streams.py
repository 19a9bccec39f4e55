"""Commands about streams: create, delete, cork, drain, flush, latency, buffer attributes, uploads."""

from __future__ import annotations

from millrace.doors.pulse.attrs import Layout, PlaybackAttr, RecordAttr, fix_playback, fix_record
from millrace.doors.pulse.client import Handler, PulseClient, Upload
from millrace.doors.pulse.door import Sample, permission_of
from millrace.doors.pulse.formats import (
    CommandError,
    checked_rate,
    from_spec,
    gains_from,
    negotiate,
    prop_text,
)
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.dsp.resample import SINC_HOLDS, holds_ns
from millrace.graph.model import Stream, Tap
from millrace.units import RATE_MIN, HostNs, frames_to_ns
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props

SAMPLE_MAX = 16 * 1024 * 1024
UPLOADS_MAX = 2 * SAMPLE_MAX
"""Bytes of samples one connection may have on their way at a time."""
_SHOWN = ("application.name", "application.process.binary", "application.process.id", "media.name", "media.role")


def shown_props(client: PulseClient, props: Props) -> dict[str, str]:
    """The properties that Millrace itself shows, the stream's own before its client's."""
    merged = client.props | props
    return {key: text for key in _SHOWN if (text := prop_text(merged, key))}


def stream_name(props: Props, client: PulseClient) -> str:
    """What a stream is called."""
    return prop_text(props, "media.name") or prop_text(client.props, "application.name") or "stream"


def create_playback(client: PulseClient, request: Request) -> None:
    """CREATE_PLAYBACK_STREAM."""
    f, door = request.fields, client.door
    sink = door.find_sink(f["sink_index"], f["sink_name"])
    fmt = negotiate(f, door.format_of(sink))
    if f.get("passthrough"):
        raise CommandError(Err.NOTSUPPORTED, "only PCM can be mixed")
    asked = PlaybackAttr(f["maxlength"], f["tlength"], f["prebuf"], f["minreq"])
    early = bool(f.get("early_requests"))
    held_ns = _held_ns(fmt.rate, door.graph.rate, f["variable_rate"])
    attr = fix_playback(asked, Layout(fmt.frame_bytes, fmt.rate), f["adjust_latency"], early, held_ns)
    props: Props = client.props | f["props"]
    channel = client.take_channel()
    node = Stream(door.graph.ids.take(), stream_name(f["props"], client), fmt.positions, shown_props(client, props))
    if f.get("volume_set", True):
        node.gains = gains_from(f["volume"][: len(fmt.positions)], len(fmt.positions))
    node.mute = bool(f["muted"] and f.get("muted_set", True))
    named = f["sink_index"] != NO_INDEX or bool(f["sink_name"])
    node.chosen = (*(("volume",) if f.get("volume_set", True) else ()), *(("sink",) if named else ()))
    stream = PlaybackStream(client, channel, fmt, attr, node, door.graph, props, glide=f["variable_rate"])
    stream.corked = f["corked"]
    door.begin_playback(stream, sink)
    client.keep_playback(stream)
    client.reply(request, _playback_reply(stream) | {"missing": stream.take_first_request()})
    stream.check_ready()


def _held_ns(rate: int, rate_out: int, glide: bool) -> HostNs:
    """What the resampler of a stream with a short buffer holds back."""
    return frames_to_ns(SINC_HOLDS, min(rate, rate_out)) if glide else holds_ns(rate, rate_out, low_delay=True)


def _playback_reply(stream: PlaybackStream) -> dict[str, object]:
    sink = stream.node.sink
    return _attr_reply(stream) | {
        "channel": stream.channel, "index": stream.node.id, "spec": stream.format.spec,
        "map": stream.format.wire_map, "sink_index": sink.id, "sink_name": sink.name,
        "suspended": sink.suspended, "format": stream.format.info(),
    }  # fmt: skip


def _attr_reply(stream: PlaybackStream) -> dict[str, object]:
    attr = stream.attr
    return {
        "maxlength": attr.maxlength, "tlength": attr.tlength, "prebuf": attr.prebuf, "minreq": attr.minreq,
        "latency": attr.sink_ns // 1000,
    }  # fmt: skip


def delete_playback(client: PulseClient, request: Request) -> None:
    """DELETE_PLAYBACK_STREAM."""
    client.forget_playback(client.stream_at(request))
    client.reply(request)


def cork_playback(client: PulseClient, request: Request) -> None:
    """CORK_PLAYBACK_STREAM."""
    stream = client.stream_at(request)
    client.reply(request)
    stream.set_corked(request.fields["cork"])


def flush_playback(client: PulseClient, request: Request) -> None:
    """FLUSH_PLAYBACK_STREAM."""
    stream = client.stream_at(request)
    client.reply(request)
    stream.flush()


def trigger_playback(client: PulseClient, request: Request) -> None:
    """TRIGGER_PLAYBACK_STREAM."""
    stream = client.stream_at(request)
    client.reply(request)
    stream.trigger()


def prebuf_playback(client: PulseClient, request: Request) -> None:
    """PREBUF_PLAYBACK_STREAM."""
    stream = client.stream_at(request)
    client.reply(request)
    stream.prebuf()


def drain_playback(client: PulseClient, request: Request) -> None:
    """DRAIN_PLAYBACK_STREAM: answered when the last frame has been heard."""
    client.stream_at(request).begin_drain(request)


def playback_latency(client: PulseClient, request: Request) -> None:
    """GET_PLAYBACK_LATENCY."""
    stream = client.stream_at(request)
    graph = client.door.graph
    ahead_ns = frames_to_ns(graph.ahead(stream.node), graph.rate) + stream.held_ns
    behind_ns = client.door.monitor_latency_ns(stream.node.sink, client.now_ns)
    client.reply(
        request,
        {
            "sink_usec": (ahead_ns + behind_ns) // 1000, "source_usec": 0,
            "playing": stream.playing, "time": request.fields["time"],
            "now": client.door.timeval(), "write_index": stream.queue.write_index,
            "read_index": stream.queue.read_index,
            "underrun_for": stream.underrun_for(client.now_ns), "playing_for": stream.rendered.playing_for,
        },
    )  # fmt: skip


def set_playback_attr(client: PulseClient, request: Request) -> None:
    """SET_PLAYBACK_STREAM_BUFFER_ATTR."""
    stream, f = client.stream_at(request), request.fields
    asked = PlaybackAttr(f["maxlength"], f["tlength"], f["prebuf"], f["minreq"])
    early, held_ns = bool(f.get("early_requests")), _held_ns(stream.format.rate, stream.graph.rate, stream.glide)
    stream.change_attr(fix_playback(asked, stream.layout, f["adjust_latency"], early, held_ns))
    client.door.graph.touch(stream.node)
    client.reply(request, _attr_reply(stream))
    stream.check_ready()
    stream.ask()


def playback_rate(client: PulseClient, request: Request) -> None:
    """UPDATE_PLAYBACK_STREAM_SAMPLE_RATE."""
    client.stream_at(request).change_rate(checked_rate(request.fields["rate"]))
    client.reply(request)


def create_record(client: PulseClient, request: Request) -> None:
    """CREATE_RECORD_STREAM, of a sink's monitor."""
    f, door = request.fields, client.door
    only_stream = f["direct_on_input"]
    if only_stream != NO_INDEX:
        if only_stream not in door.graph.streams:
            raise CommandError(Err.NOENTITY)
        raise CommandError(Err.NOTSUPPORTED, "a single stream can't be recorded; record the sink's monitor")
    sink = door.find_source(f["source_index"], f["source_name"])
    if not door.settle(client, permission_of(sink), lambda allow: client.answered(request, allow)):
        return
    peak = f["peak_detect"]
    # Volume meters ask for one peak every 1/25 s or so, as a stream of that rate.
    fmt = negotiate(f, door.format_of(sink), rate_min=1 if peak else RATE_MIN)
    attr = fix_record(RecordAttr(f["maxlength"], f["fragsize"]), Layout(fmt.frame_bytes, fmt.rate))
    props: Props = client.props | f["props"]
    channel = client.take_channel()
    node = Tap(door.graph.ids.take(), stream_name(f["props"], client), fmt.positions, shown_props(client, props))
    record = RecordStream(client, channel, fmt, attr, node, door.graph, props, peak)
    if f.get("volume_set") and f.get("volume"):
        record.gains = gains_from(f["volume"][: len(fmt.positions)], len(fmt.positions))
    record.mute = bool(f.get("muted") and f.get("muted_set"))
    node.placed = f["source_index"] != NO_INDEX or bool(f["source_name"])
    node.active = node.clocked = not f["corked"]
    record.corked = f["corked"]
    door.begin_record(record, sink)
    client.keep_record(record)
    client.reply(
        request,
        {
            "channel": channel, "index": node.id, "maxlength": attr.maxlength, "fragsize": attr.fragsize,
            "spec": fmt.spec, "map": fmt.wire_map, "source_index": sink.id, "source_name": door.source_name(sink),
            "suspended": sink.suspended, "latency": node.latency_ask_ns // 1000, "format": fmt.info(),
        },
    )  # fmt: skip


def delete_record(client: PulseClient, request: Request) -> None:
    """DELETE_RECORD_STREAM."""
    client.forget_record(client.record_at(request))
    client.reply(request)


def cork_record(client: PulseClient, request: Request) -> None:
    """CORK_RECORD_STREAM."""
    client.record_at(request).set_corked(request.fields["cork"])
    client.reply(request)


def flush_record(client: PulseClient, request: Request) -> None:
    """FLUSH_RECORD_STREAM."""
    client.record_at(request).flush()
    client.reply(request)


def record_latency(client: PulseClient, request: Request) -> None:
    """GET_RECORD_LATENCY."""
    record = client.record_at(request)
    client.reply(
        request,
        {
            "monitor_usec": 0, "source_usec": client.door.graph.quantum_ns // 1000,
            "playing": not record.corked, "time": request.fields["time"], "now": client.door.timeval(),
            "write_index": record.write_index, "read_index": record.write_index - record.queued_bytes,
        },
    )  # fmt: skip


def set_record_attr(client: PulseClient, request: Request) -> None:
    """SET_RECORD_STREAM_BUFFER_ATTR."""
    record, f = client.record_at(request), request.fields
    record.apply_attr(fix_record(RecordAttr(f["maxlength"], f["fragsize"]), record.layout))
    client.door.graph.touch(record.node)
    attr = record.attr
    latency = record.node.latency_ask_ns // 1000
    client.reply(request, {"maxlength": attr.maxlength, "fragsize": attr.fragsize, "latency": latency})


def record_rate(client: PulseClient, request: Request) -> None:
    """UPDATE_RECORD_STREAM_SAMPLE_RATE."""
    client.record_at(request).change_rate(checked_rate(request.fields["rate"]))
    client.reply(request)


def create_upload(client: PulseClient, request: Request) -> None:
    """CREATE_UPLOAD_STREAM."""
    f = request.fields
    name = f["name"] or prop_text(f["props"], "event.id")
    if not name:
        raise CommandError(Err.INVALID, "a sample without a name")
    fmt = from_spec(f["spec"], f["map"])
    length = f["length"]
    if not 0 < length <= SAMPLE_MAX or length % fmt.frame_bytes:
        raise CommandError(Err.TOOLARGE if length > SAMPLE_MAX else Err.INVALID)
    if length + sum(upload.length for upload in client.uploads.values()) > UPLOADS_MAX:
        raise CommandError(Err.TOOLARGE, "too many uploads at once")
    channel = client.take_channel()
    client.keep_upload(channel, Upload(name, fmt, length, f["props"]))
    client.reply(request, {"channel": channel, "length": length})


def finish_upload(client: PulseClient, request: Request) -> None:
    """FINISH_UPLOAD_STREAM."""
    upload = client.take_upload(request)
    data = upload.finish()
    if not data:
        raise CommandError(Err.TOOLARGE)
    client.door.store_sample(Sample(client.door.graph.ids.take(), upload.name, upload.format, data, upload.props))
    client.reply(request)


def delete_upload(client: PulseClient, request: Request) -> None:
    """DELETE_UPLOAD_STREAM."""
    client.take_upload(request)
    client.reply(request)


class NoOwner:
    """Owns the streams that play cached samples: there is no connection to tell."""

    index = NO_INDEX
    now_ns: HostNs = 0

    def playback_changed(self, stream: PlaybackStream, kind: Change) -> None:
        """See `Owner`."""

    def notice(self, command: Command, **values: object) -> None:
        """See `Owner`."""

    def reply(self, request: Request) -> None:
        """See `Owner`."""

    def fail(self, request: Request, code: Err) -> None:
        """See `Owner`."""


def play_sample(client: PulseClient, request: Request) -> None:
    """PLAY_SAMPLE: a stream of its own, that goes when it has been heard."""
    f, door = request.fields, client.door
    sample = door.samples.get(f["name"] or "")
    if sample is None:
        raise CommandError(Err.NOENTITY)
    sink = door.find_sink(f["sink_index"], f["sink_name"])
    stream = _sample_stream(client, sample, f["props"])
    if f["volume"] not in (NO_INDEX, 0x10000):
        stream.node.gains = gains_from((f["volume"],), len(sample.format.positions))
        stream.node.chosen = ("volume",)
    stream.pay_for(len(sample.data))
    door.begin_playback(stream, sink)
    stream.queue.write(sample.data)
    stream.prebuffering = False
    stream.on_done = stream.remove
    stream.check_ready()
    client.reply(request, {"index": stream.node.id})


def _sample_stream(client: PulseClient, sample: Sample, props: Props) -> PlaybackStream:
    door, layout = client.door, Layout(sample.format.frame_bytes, sample.format.rate)
    asked = PlaybackAttr(NO_INDEX, NO_INDEX, NO_INDEX, NO_INDEX)
    merged = client.props | sample.props | props
    node = Stream(door.graph.ids.take(), sample.name, sample.format.positions, shown_props(client, merged))
    attr = fix_playback(asked, layout, adjust=False, early=False)
    stream = PlaybackStream(NoOwner(), 0, sample.format, attr, node, door.graph, merged)
    # A sample that needs resampling must get its tail out: treat its end as a drain.
    stream.end_is_drain = True
    return stream


def remove_sample(client: PulseClient, request: Request) -> None:
    """REMOVE_SAMPLE."""
    if client.door.drop_sample(request.fields["name"] or "") is None:
        raise CommandError(Err.NOENTITY)
    client.reply(request)


_C = Command
HANDLERS: dict[Command, Handler] = {
    _C.CREATE_PLAYBACK_STREAM: create_playback,
    _C.DELETE_PLAYBACK_STREAM: delete_playback,
    _C.CORK_PLAYBACK_STREAM: cork_playback,
    _C.FLUSH_PLAYBACK_STREAM: flush_playback,
    _C.TRIGGER_PLAYBACK_STREAM: trigger_playback,
    _C.PREBUF_PLAYBACK_STREAM: prebuf_playback,
    _C.DRAIN_PLAYBACK_STREAM: drain_playback,
    _C.GET_PLAYBACK_LATENCY: playback_latency,
    _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: set_playback_attr,
    _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE: playback_rate,
    _C.CREATE_RECORD_STREAM: create_record,
    _C.DELETE_RECORD_STREAM: delete_record,
    _C.CORK_RECORD_STREAM: cork_record,
    _C.FLUSH_RECORD_STREAM: flush_record,
    _C.GET_RECORD_LATENCY: record_latency,
    _C.SET_RECORD_STREAM_BUFFER_ATTR: set_record_attr,
    _C.UPDATE_RECORD_STREAM_SAMPLE_RATE: record_rate,
    _C.CREATE_UPLOAD_STREAM: create_upload,
    _C.FINISH_UPLOAD_STREAM: finish_upload,
    _C.DELETE_UPLOAD_STREAM: delete_upload,
    _C.PLAY_SAMPLE: play_sample,
    _C.REMOVE_SAMPLE: remove_sample,
}
