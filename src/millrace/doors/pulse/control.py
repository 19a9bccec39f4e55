"""Control commands: volumes, mutes, moves, kills, defaults, suspension, properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from millrace.budget import Account
from millrace.doors.admission import permission_of
from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.formats import NAME, CommandError, gains_from
from millrace.doors.pulse.loopback import Loopback
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import weigh_props
from millrace.errors import BudgetError, GraphError
from millrace.graph.model import Sink, Stream
from millrace.text import quoted
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Facility
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import PROPS_MAX, Props

PROPS_BYTES_MAX = 256 * 1024
"""Limit for all properties of one client or stream; large enough for an icon."""


def auth(client: PulseClient, request: Request) -> None:
    """AUTH."""
    client.authenticate(request)


def set_name(client: PulseClient, request: Request) -> None:
    """SET_CLIENT_NAME."""
    merge_props(client.account, client.props, request.fields["props"])
    client.reply(request, {"index": client.client_index})
    _tell_changed(client)


def leave(client: PulseClient, request: Request) -> None:
    """EXIT would end the daemon, so clients are refused it."""
    raise CommandError(Err.ACCESS)


def subscribe(client: PulseClient, request: Request) -> None:
    """SUBSCRIBE."""
    client.subscription.set_mask(request.fields["mask"])
    client.reply(request)


def _sink(client: PulseClient, request: Request) -> Sink:
    return client.door.find_sink(request.fields["index"], request.fields["name"])


def _stream(client: PulseClient, request: Request) -> Stream:
    stream = client.door.input_at(request.fields["index"])
    # Streams that feed a source (microphones) are hidden: a client that moved one to a sink could hear it there.
    if stream is None:
        raise CommandError(Err.NOENTITY)
    return stream


def _output(client: PulseClient, request: Request) -> RecordStream:
    record = client.door.output_at(request.fields["index"])
    if record is None:
        raise CommandError(Err.NOENTITY)
    return record


def _answer(client: PulseClient, request: Request) -> Callable[[bool], None]:
    """Acknowledge a change once it is stored; IO if it could not be stored and was undone."""
    return client.await_stored(request, lambda: client.reply(request))


# In the commands that set a device's level the order is: set it, so that it is heard at once; then store it, as read
# back from the device; and acknowledge it once it is on disk (`_answer`).
def sink_volume(client: PulseClient, request: Request) -> None:
    """SET_SINK_VOLUME."""
    sink = _sink(client, request)
    client.door.graph.set_gains(sink, gains_from(request.fields["volume"], len(sink.positions)))
    client.door.devices.keep_level(sink, _answer(client, request))


def sink_mute(client: PulseClient, request: Request) -> None:
    """SET_SINK_MUTE."""
    sink = _sink(client, request)
    client.door.graph.set_mute(sink, request.fields["mute"])
    client.door.devices.keep_level(sink, _answer(client, request))


def input_volume(client: PulseClient, request: Request) -> None:
    """SET_SINK_INPUT_VOLUME."""
    stream = _stream(client, request)
    client.door.graph.set_gains(stream, gains_from(request.fields["volume"], len(stream.positions)))
    client.reply(request)


def input_mute(client: PulseClient, request: Request) -> None:
    """SET_SINK_INPUT_MUTE."""
    client.door.graph.set_mute(_stream(client, request), request.fields["mute"])
    client.reply(request)


def output_volume(client: PulseClient, request: Request) -> None:
    """SET_SOURCE_OUTPUT_VOLUME."""
    record = _output(client, request)
    record.state.gains = gains_from(request.fields["volume"], len(record.format.positions))
    client.door.graph.touch(record.node)
    client.reply(request)


def output_mute(client: PulseClient, request: Request) -> None:
    """SET_SOURCE_OUTPUT_MUTE."""
    record = _output(client, request)
    record.state.mute = request.fields["mute"]
    client.door.graph.touch(record.node)
    client.reply(request)


def source_volume(client: PulseClient, request: Request) -> None:
    """SET_SOURCE_VOLUME. On a monitor it affects only what its recorders get."""
    sink = client.door.find_source(request.fields["index"], request.fields["name"])
    gains = gains_from(request.fields["volume"], len(sink.positions))
    client.door.set_recorded(sink, gains, sink.recorded.mute)
    client.door.devices.keep_source_level(sink, _answer(client, request))


def source_mute(client: PulseClient, request: Request) -> None:
    """SET_SOURCE_MUTE."""
    sink = client.door.find_source(request.fields["index"], request.fields["name"])
    client.door.set_recorded(sink, sink.recorded.gains, request.fields["mute"])
    client.door.devices.keep_source_level(sink, _answer(client, request))


def move_input(client: PulseClient, request: Request) -> None:
    """MOVE_SINK_INPUT."""
    stream = _stream(client, request)
    target = client.door.find_sink(request.fields["sink_index"], request.fields["sink_name"])
    pulse = client.door.playback.get(stream.id)
    if pulse is not None and isinstance(pulse.owner, Loopback):
        pulse.owner.demand_no_echo(sink=target)
    client.door.graph.move_stream(stream, target)
    client.reply(request)


def move_output(client: PulseClient, request: Request) -> None:
    """MOVE_SOURCE_OUTPUT. Another client may move a recorder, but only to a source that its owner may record."""
    record = _output(client, request)
    target = client.door.find_source(request.fields["source_index"], request.fields["source_name"])
    client.door.admission.demand(permission_of(target), record.owner.subject)
    if isinstance(record.owner, Loopback):
        record.owner.demand_no_echo(source=target)
    record.node.placed = target is not client.door.recorded_by_default()
    client.door.graph.move_tap(record.node, target)
    client.reply(request)


# A suspended sink holds back everything that would play on it, corked or not. Its streams keep what is queued, and
# their clients are notified; streams that asked to fail are ended by the door, as an observer of the graph. On
# resuming, the graph's "resume" makes each door start its own streams again. A monitor has no suspension of its own:
# it runs and stops with its sink. So suspending all sources must affect real sources only, or a program that suspends
# the microphones would silence the guest.
def suspend(client: PulseClient, request: Request) -> Iterator[None]:
    """SUSPEND_SINK, SUSPEND_SOURCE. Index −1 without a name means all. Monitors are suspended only with their sinks."""
    f, graph = request.fields, client.door.graph
    sinks = request.command is Command.SUSPEND_SINK
    find = client.door.find_sink if sinks else client.door.find_source
    everything = f["index"] == NO_INDEX and not f["name"]
    targets = list((graph.sinks if sinks else graph.sources).values()) if everything else [find(f["index"], f["name"])]
    if not sinks and not all(target.capture for target in targets):
        raise CommandError(Err.INVALID, "a monitor can't be suspended, but its sink can")
    for sink in targets:
        if sink.suspended != f["suspend"]:
            graph.suspend(sink, f["suspend"])
            _tell_suspended(client, sink)
        yield
    client.reply(request)


def _tell_suspended(client: PulseClient, sink: Sink) -> None:
    for stream in client.door.playback.values():
        if stream.node.sink is sink:
            command = Command.PLAYBACK_STREAM_SUSPENDED
            stream.owner.notice(command, channel=stream.channel, suspended=sink.suspended)
    for record in client.door.records.values():
        if record.node.sink is sink:
            command = Command.RECORD_STREAM_SUSPENDED
            record.owner.notice(command, channel=record.channel, suspended=sink.suspended)


# Acknowledged first, because a client may name itself.
def kill_client(client: PulseClient, request: Request) -> None:
    """KILL_CLIENT."""
    victim = client.door.client_at(request.fields["index"])
    if victim is None:
        raise CommandError(Err.NOENTITY)
    client.reply(request)
    victim.closing = True
    victim.wake()


def kill_input(client: PulseClient, request: Request) -> None:
    """KILL_SINK_INPUT."""
    stream = _stream(client, request)
    client.door.graph.remove_stream(stream)
    client.reply(request)


def kill_output(client: PulseClient, request: Request) -> None:
    """KILL_SOURCE_OUTPUT."""
    record = _output(client, request)
    client.door.graph.remove_tap(record.node)
    client.reply(request)


def _device_name(request: Request) -> str:
    """A sink's or source's name, or '' for `@NONE@`, which withdraws the choice. Other wildcards are refused."""
    name: str = request.fields["name"] or ""
    if name == "@NONE@":
        return ""
    if not NAME.fullmatch(name):
        raise CommandError(Err.INVALID, f"{quoted(name)} is not a sink or source")
    return name


def set_default_sink(client: PulseClient, request: Request) -> Iterator[None]:
    """SET_DEFAULT_SINK: set the default; `@NONE@` resets it to the first sink."""
    name, door = _device_name(request), client.door
    sink = door.find_sink(NO_INDEX, name) if name else None
    yield from door.graph.take_default(sink or next(iter(door.graph.sinks.values())))
    door.devices.keep_default(sink, "sink", _answer(client, request))


def set_default_source(client: PulseClient, request: Request) -> None:
    """SET_DEFAULT_SOURCE: set the default; `@NONE@` returns to the automatic choice."""
    name, door = _device_name(request), client.door
    source = door.find_source(NO_INDEX, name) if name else None
    door.set_default_source(source)
    door.devices.keep_default(source, "source", _answer(client, request))


# -- properties ------------------------------------------------------------------------------


# Charged before anything is changed: a refused update leaves the properties, and what is paid for them, as they were.
def merge_props(account: Account, props: Props, new: Props, keep: bool = True) -> None:
    """Merge `new` into `props`, or with `keep=False` replace them. Beyond the limits, an error without any change."""
    merged = props | new if keep else dict(new)
    if len(merged) > PROPS_MAX or sum(len(k) + len(v) for k, v in merged.items()) > PROPS_BYTES_MAX:
        raise CommandError(Err.TOOLARGE, "too many properties")
    weigh_props(account, merged)
    props.clear()
    props.update(merged)


def _update(account: Account, props: Props, mode: int, new: Props) -> None:
    """Mode 0 sets, 1 merges without replacing, 2 replaces (`pa_update_mode_t`)."""
    if mode == 1:
        new = {key: value for key, value in new.items() if key not in props}
    elif mode > 2:
        raise CommandError(Err.INVALID)
    merge_props(account, props, new, keep=mode != 0)


def _without(account: Account, props: Props, keys: list[str]) -> bool:
    """Remove properties; return whether any of them existed."""
    before = len(props)
    for key in keys:
        props.pop(key, None)
    weigh_props(account, props)
    return len(props) < before


def _tell_changed(client: PulseClient) -> None:
    client.door.publish(Facility.CLIENT, Change.CHANGE, client.client_index)
    client.door.host.client_changed("change", client)


def _with_props(client: PulseClient, request: Request) -> PlaybackStream | RecordStream:
    of_playback = request.command in (Command.UPDATE_PLAYBACK_STREAM_PROPLIST, Command.REMOVE_PLAYBACK_STREAM_PROPLIST)
    return client.stream_at(request) if of_playback else client.record_at(request)


def update_stream_props(client: PulseClient, request: Request) -> None:
    """UPDATE_*_STREAM_PROPLIST."""
    stream = _with_props(client, request)
    _update(stream.node.account, stream.props, request.fields["mode"], request.fields["props"])
    client.door.graph.touch(stream.node)
    client.reply(request)


def remove_stream_props(client: PulseClient, request: Request) -> None:
    """REMOVE_*_STREAM_PROPLIST."""
    stream = _with_props(client, request)
    if _without(stream.node.account, stream.props, request.fields["keys"]):
        client.door.graph.touch(stream.node)
    client.reply(request)


def update_client_props(client: PulseClient, request: Request) -> None:
    """UPDATE_CLIENT_PROPLIST."""
    _update(client.account, client.props, request.fields["mode"], request.fields["props"])
    _tell_changed(client)
    client.reply(request)


def remove_client_props(client: PulseClient, request: Request) -> None:
    """REMOVE_CLIENT_PROPLIST."""
    if _without(client.account, client.props, request.fields["keys"]):
        _tell_changed(client)
    client.reply(request)


def rename(client: PulseClient, request: Request) -> None:
    """SET_*_STREAM_NAME."""
    of_playback = request.command is Command.SET_PLAYBACK_STREAM_NAME
    target = client.stream_at(request) if of_playback else client.record_at(request)
    name = request.fields["name"] or ""
    merge_props(target.node.account, target.props, {"media.name": name.encode() + b"\0"})
    target.node.rename(name)
    client.door.graph.touch(target.node)
    client.reply(request)


def set_sink_port(client: PulseClient, request: Request) -> None:
    """SET_SINK_PORT: NOTIMPLEMENTED is PulseAudio's answer for any sink without ports."""
    _sink(client, request)
    raise CommandError(Err.NOTIMPLEMENTED, "sinks have no ports")


def set_source_port(client: PulseClient, request: Request) -> None:
    """SET_SOURCE_PORT."""
    client.door.find_source(request.fields["index"], request.fields["name"])
    raise CommandError(Err.NOTIMPLEMENTED, "sources have no ports")


def refused(code: Err) -> Handler:
    """A handler that refuses a command with `code`."""

    def handler(client: PulseClient, request: Request) -> None:
        raise CommandError(code)

    return handler


def guarded(handler: Handler) -> Handler:
    """Turn the graph's refusals into INVALID."""

    def wrapped(client: PulseClient, request: Request) -> None:
        try:
            handler(client, request)
        except BudgetError:
            raise
        except GraphError as error:
            raise CommandError(Err.INVALID, str(error)) from None

    return wrapped


_C = Command
HANDLERS: dict[Command, Handler] = {
    _C.AUTH: auth,
    _C.SET_CLIENT_NAME: set_name,
    _C.EXIT: leave,
    _C.SUBSCRIBE: subscribe,
    _C.SET_SINK_VOLUME: sink_volume,
    _C.SET_SINK_MUTE: sink_mute,
    _C.SET_SINK_INPUT_VOLUME: input_volume,
    _C.SET_SINK_INPUT_MUTE: input_mute,
    _C.SET_SOURCE_OUTPUT_VOLUME: output_volume,
    _C.SET_SOURCE_OUTPUT_MUTE: output_mute,
    _C.SET_SOURCE_VOLUME: source_volume,
    _C.SET_SOURCE_MUTE: source_mute,
    _C.MOVE_SINK_INPUT: guarded(move_input),
    _C.MOVE_SOURCE_OUTPUT: guarded(move_output),
    _C.SUSPEND_SINK: suspend,
    _C.SUSPEND_SOURCE: suspend,
    _C.KILL_CLIENT: kill_client,
    _C.KILL_SINK_INPUT: kill_input,
    _C.KILL_SOURCE_OUTPUT: kill_output,
    _C.SET_DEFAULT_SINK: set_default_sink,
    _C.SET_DEFAULT_SOURCE: set_default_source,
    _C.UPDATE_PLAYBACK_STREAM_PROPLIST: update_stream_props,
    _C.UPDATE_RECORD_STREAM_PROPLIST: update_stream_props,
    _C.REMOVE_PLAYBACK_STREAM_PROPLIST: remove_stream_props,
    _C.REMOVE_RECORD_STREAM_PROPLIST: remove_stream_props,
    _C.UPDATE_CLIENT_PROPLIST: update_client_props,
    _C.REMOVE_CLIENT_PROPLIST: remove_client_props,
    _C.SET_PLAYBACK_STREAM_NAME: rename,
    _C.SET_RECORD_STREAM_NAME: rename,
    _C.SET_CARD_PROFILE: refused(Err.NOENTITY),
    _C.SET_SINK_PORT: set_sink_port,
    _C.SET_SOURCE_PORT: set_source_port,
    _C.SET_PORT_LATENCY_OFFSET: refused(Err.NOENTITY),
}
