"""Commands about streams: create, delete, cork, drain, flush, latency, buffer attributes, uploads."""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.pulse.attrs import Layout, PlaybackAttr, RecordAttr, fix_playback, fix_record
from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.create import attr_reply, create_playback, create_record, display_props, held_by_resampler
from millrace.doors.pulse.formats import (
    CommandError,
    checked_rate,
    from_spec,
    gains_from,
    no_such,
    prop_text,
)
from millrace.doors.pulse.infos import as_props
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.samples import Sample, Upload
from millrace.doors.pulse.state import new_playback
from millrace.graph.model import Stream
from millrace.units import HostNs, frames_to_ns
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Props

SAMPLE_MAX = 16 * 1024 * 1024
UPLOADS_MAX = 2 * SAMPLE_MAX
"""Bytes of samples that one connection may be uploading at a time."""


def delete_playback(client: PulseClient, request: Request) -> None:
    """DELETE_PLAYBACK_STREAM."""
    client.forget_playback(client.stream_at(request))
    client.reply(request)


# How commands change the state of a playback stream. The graph pulls it only while nothing holds it back: it is not
# corked, not prebuffering, its sink is not suspended, and there is something to play. It prebuffers at the start,
# after running dry (unless `prebuf` is 0), after FLUSH and PREBUF, and on CORK in either direction, so that a pause
# ends with a full buffer; but not while a drain is pending, whose rest may be less than `prebuf`. TRIGGER and DRAIN
# end prebuffering once: a sound that is shorter than `prebuf` must be played too.
#
# A DRAIN is answered exactly once: when its last frame has been played, at once if nothing is left (a corked stream
# included), with NOENTITY if the stream ends first, with BADSTATE if another DRAIN takes its place. One without an
# answer hangs paplay, sox and aplay, which wait for it before they exit.
def for_group(act: Callable[[PlaybackStream, Request], None]) -> Handler:
    """A handler that does something with a stream and those synchronised with it."""

    def handler(client: PulseClient, request: Request) -> None:
        streams = client.group_at(request)
        client.reply(request)
        for stream in streams:
            act(stream, request)

    return handler


# A drain asks about one stream. The others of its group are started, so that it is not held back by their
# prebuffering, but they are not drained: the client has to ask for each.
def drain_playback(client: PulseClient, request: Request) -> None:
    """DRAIN_PLAYBACK_STREAM: answered when the last frame has been played."""
    own = client.stream_at(request)
    for stream in client.group_at(request):
        if stream is not own:
            stream.trigger()
    own.begin_drain(request)


# The client computes the time until its next byte is heard as (write index - read index) + `sink_usec`. The read
# index counts what the graph has taken, which is ahead of what has been played. Whatever lies between the two (in the
# lanes, in the resampler, mixed but not due, on the way to the listener) must be in `sink_usec`, or players run ahead
# by that much.
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
            "underrun_for": stream.underrun_for(client.now_ns), "playing_for": stream.state.rendered.playing_for,
        },
    )  # fmt: skip


def set_playback_attr(client: PulseClient, request: Request) -> None:
    """SET_PLAYBACK_STREAM_BUFFER_ATTR."""
    stream, f = client.stream_at(request), request.fields
    asked = PlaybackAttr(f["maxlength"], f["tlength"], f["prebuf"], f["minreq"])
    early, held_ns = (
        bool(f.get("early_requests")),
        held_by_resampler(stream.format.rate, stream.graph.rate, stream.state.glide),
    )
    stream.change_attr(fix_playback(asked, stream.layout, f["adjust_latency"], early, held_ns))
    client.door.graph.touch(stream.node)
    client.reply(request, attr_reply(stream))
    stream.check_ready()
    stream.ask()


def playback_rate(client: PulseClient, request: Request) -> None:
    """UPDATE_PLAYBACK_STREAM_SAMPLE_RATE."""
    client.stream_at(request).change_rate(checked_rate(request.fields["rate"]))
    client.reply(request)


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
            "write_index": record.state.write_index, "read_index": record.state.write_index - record.queued_bytes,
        },
    )  # fmt: skip


def set_record_attr(client: PulseClient, request: Request) -> None:
    """SET_RECORD_STREAM_BUFFER_ATTR."""
    record, f = client.record_at(request), request.fields
    record.apply_attr(
        fix_record(
            RecordAttr(f["maxlength"], f["fragsize"]), record.layout, f["adjust_latency"], bool(f.get("early_requests"))
        )
    )
    client.door.graph.touch(record.node)
    attr = record.attr
    latency = record.node.latency_ask_ns // 1000
    client.reply(request, {"maxlength": attr.maxlength, "fragsize": attr.fragsize, "latency": latency})


def record_rate(client: PulseClient, request: Request) -> None:
    """UPDATE_RECORD_STREAM_SAMPLE_RATE."""
    client.record_at(request).change_rate(checked_rate(request.fields["rate"]))
    client.reply(request)


def create_upload(client: PulseClient, request: Request) -> None:
    """CREATE_UPLOAD_STREAM. The default role is `event`, which mixers call system sounds."""
    f = request.fields
    name = f["name"] or prop_text(f["props"], "event.id")
    if not name:
        raise CommandError(Err.INVALID, "the sample has no name")
    fmt = from_spec(f["spec"], f["map"])
    length = f["length"]
    if not 0 < length <= SAMPLE_MAX or length % fmt.frame_bytes:
        raise CommandError(Err.TOOLARGE if length > SAMPLE_MAX else Err.INVALID)
    if length + sum(upload.length for upload in client.uploads.values()) > UPLOADS_MAX:
        raise CommandError(Err.TOOLARGE, "too many uploads at once")
    channel = client.take_channel()
    client.keep_upload(channel, Upload(name, fmt, length, as_props({"media.role": "event"}) | f["props"]))
    client.reply(request, {"channel": channel, "length": length})


def finish_upload(client: PulseClient, request: Request) -> None:
    """FINISH_UPLOAD_STREAM."""
    upload = client.take_upload(request)
    data = upload.finish()
    if not data:
        raise CommandError(Err.TOOLARGE)
    client.door.samples.add(upload.name, upload.format, data, upload.props)
    client.reply(request)


def delete_upload(client: PulseClient, request: Request) -> None:
    """DELETE_UPLOAD_STREAM."""
    client.take_upload(request)
    client.reply(request)


class NoOwner:
    """Owner of streams that play cached samples: there is no connection to notify."""

    client_index = NO_INDEX
    program = None
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
    """PLAY_SAMPLE: creates a stream that ends when the sample has been played."""
    f, door = request.fields, client.door
    name = f["name"] or ""
    sample = door.samples.get(name)
    if sample is None:
        raise no_such("sample", name)
    sink = door.find_sink(f["sink_index"], f["sink_name"])
    stream = _sample_stream(client, sample, f["props"])
    if f["volume"] not in (NO_INDEX, 0x10000):
        stream.node.gains = gains_from((f["volume"],), len(sample.format.positions))
        stream.node.chosen = ("volume",)
    stream.pay_for(len(sample.data))
    door.begin_playback(stream, sink)
    stream.queue.write(sample.data)
    stream.state.prebuffering = False
    stream.state.goes_when_heard = True
    stream.check_ready()
    client.reply(request, {"index": door.indexes.inputs.of(stream.node)})


def _sample_stream(client: PulseClient, sample: Sample, props: Props) -> PlaybackStream:
    door, layout = client.door, Layout(sample.format.frame_bytes, sample.format.rate)
    asked = PlaybackAttr(NO_INDEX, NO_INDEX, NO_INDEX, NO_INDEX)
    named = as_props({"media.name": sample.name, "event.id": sample.name})
    merged = client.props | named | sample.props | props
    node = Stream(door.graph.ids.take(), sample.name, sample.format.positions, display_props(client, merged))
    attr = fix_playback(asked, layout, adjust=False, early=False)
    stream = PlaybackStream(NoOwner(), new_playback(0, sample.format, attr, merged), node, door.graph)
    # Treat the end of the sample as a drain, so that the resampler's tail is played.
    stream.state.end_is_drain = True
    return stream


def remove_sample(client: PulseClient, request: Request) -> None:
    """REMOVE_SAMPLE."""
    name = request.fields["name"] or ""
    if client.door.samples.drop(name) is None:
        raise no_such("sample", name)
    client.reply(request)


_C = Command
HANDLERS: dict[Command, Handler] = {
    _C.CREATE_PLAYBACK_STREAM: create_playback,
    _C.DELETE_PLAYBACK_STREAM: delete_playback,
    _C.CORK_PLAYBACK_STREAM: for_group(lambda stream, request: stream.set_corked(request.fields["cork"])),
    _C.FLUSH_PLAYBACK_STREAM: for_group(lambda stream, _: stream.flush()),
    _C.TRIGGER_PLAYBACK_STREAM: for_group(lambda stream, _: stream.trigger()),
    _C.PREBUF_PLAYBACK_STREAM: for_group(lambda stream, _: stream.prebuf()),
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
