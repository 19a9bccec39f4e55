"""Query commands: server, sinks, sources, streams, clients, modules, samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from millrace.doors.pulse import infos
from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.formats import CommandError
from millrace.version import __version__
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.session import Request

Lister = Callable[[PulseClient], Iterator[infos.Record | None]]
Finder = Callable[[PulseClient, int], infos.Record | None]
_C = Command


def server_info(client: PulseClient, request: Request) -> None:
    """GET_SERVER_INFO."""
    user, _, host = client.door.server_name.partition("@")
    client.reply(request, infos.server_info(client, user, host, __version__))


def lookup_sink(client: PulseClient, request: Request) -> None:
    """LOOKUP_SINK."""
    door = client.door
    client.reply(request, {"index": door.sink_indexes.of(door.find_sink(NO_INDEX, request.fields["name"]))})


def lookup_source(client: PulseClient, request: Request) -> None:
    """LOOKUP_SOURCE."""
    door = client.door
    client.reply(request, {"index": door.source_indexes.of(door.find_source(NO_INDEX, request.fields["name"]))})


def stat(client: PulseClient, request: Request) -> None:
    """STAT: bytes queued. The other figures describe PulseAudio's own allocator and don't apply here."""
    streams = client.door.playback.values()
    queued = sum(s.queue.length for s in streams)
    cache = client.door.samples.sound_bytes
    values = {"blocks": len(streams), "bytes": queued, "allocated": len(streams), "allocated_bytes": queued}
    client.reply(request, values | {"cache_bytes": cache})


def sink(client: PulseClient, request: Request) -> None:
    """GET_SINK_INFO."""
    found = client.door.find_sink(request.fields["index"], request.fields["name"])
    record = infos.sink_info(client.door, found, client.now_ns)
    client.records_reply(request, _C.GET_SINK_INFO, [record])


def source(client: PulseClient, request: Request) -> None:
    """GET_SOURCE_INFO."""
    found = client.door.find_source(request.fields["index"], request.fields["name"])
    record = infos.source_info(client.door, found, client.now_ns)
    client.records_reply(request, _C.GET_SOURCE_INFO, [record])


def sample(client: PulseClient, request: Request) -> None:
    """GET_SAMPLE_INFO."""
    wanted, name = request.fields["index"], request.fields["name"]
    for found in client.door.samples:
        if found.name == name or found.index == wanted:
            client.records_reply(request, _C.GET_SAMPLE_INFO, [infos.sample_info(found)])
            return
    raise CommandError(Err.NOENTITY)


# A list is made in steps, and what it has yet to tell may go meanwhile. It is left out then: it has no index any more.
def _sinks(client: PulseClient) -> Iterator[infos.Record | None]:
    door = client.door
    for one in list(door.graph.sinks.values()):
        gone = door.sink_indexes.of(one) == NO_INDEX
        yield None if gone else infos.sink_info(door, one, client.now_ns)


def _sources(client: PulseClient) -> Iterator[infos.Record | None]:
    door = client.door
    for one in door.sources_for(client):
        gone = door.source_indexes.of(one) == NO_INDEX
        yield None if gone else infos.source_info(door, one, client.now_ns)


_LISTS: dict[Command, tuple[Command, Lister]] = {
    _C.GET_SINK_INFO_LIST: (_C.GET_SINK_INFO, _sinks),
    _C.GET_SOURCE_INFO_LIST: (_C.GET_SOURCE_INFO, _sources),
    _C.GET_SINK_INPUT_INFO_LIST: (
        _C.GET_SINK_INPUT_INFO,
        lambda c: (infos.sink_input_info(c.door, s, c.now_ns) for s in list(c.door.graph.streams.values())),
    ),
    _C.GET_SOURCE_OUTPUT_INFO_LIST: (
        _C.GET_SOURCE_OUTPUT_INFO,
        lambda c: (infos.source_output_info(c.door, r) for r in c.door.outputs()),
    ),
    _C.GET_CLIENT_INFO_LIST: (
        _C.GET_CLIENT_INFO,
        lambda c: (infos.client_info(c.door, x) for x in list(c.door.clients.values())),
    ),
    _C.GET_MODULE_INFO_LIST: (
        _C.GET_MODULE_INFO,
        lambda c: (infos.module_info(c.door, m) for m in list(c.door.modules.values())),
    ),
    _C.GET_SAMPLE_INFO_LIST: (
        _C.GET_SAMPLE_INFO,
        lambda c: (infos.sample_info(s) for s in c.door.samples),
    ),
}
_ONE: dict[Command, Finder] = {
    _C.GET_SINK_INPUT_INFO: lambda c, index: (
        infos.sink_input_info(c.door, found, c.now_ns) if (found := c.door.input_at(index)) else None
    ),
    _C.GET_SOURCE_OUTPUT_INFO: lambda c, index: (
        infos.source_output_info(c.door, found) if (found := c.door.output_at(index)) else None
    ),
    _C.GET_CLIENT_INFO: lambda c, index: (
        infos.client_info(c.door, found) if (found := c.door.client_at(index)) else None
    ),
    _C.GET_MODULE_INFO: lambda c, index: (
        infos.module_info(c.door, c.door.modules[index]) if index in c.door.modules else None
    ),
}


# The reply is built over several turns, between which objects come and go. What is listed existed when the list was
# begun. A subscriber learns of everything since in events, which follow the reply (`data_to_send` in client.py).
def listing(client: PulseClient, request: Request) -> Iterator[None]:
    """GET_*_INFO_LIST, one object per step."""
    command, make = _LISTS[request.command]
    reply = client.begin_records(request, command)
    for record in make(client):
        if record is not None:
            client.add_record(reply, record)
        yield
    client.end_records(reply)


def one_of(client: PulseClient, request: Request) -> None:
    """GET_*_INFO of objects that have only an index."""
    record = _ONE[request.command](client, request.fields["index"])
    if record is None:
        raise CommandError(Err.NOENTITY)
    client.records_reply(request, request.command, [record])


def no_cards(client: PulseClient, request: Request) -> None:
    """GET_CARD_INFO_LIST: a guest's sinks belong to no card."""
    client.reply(request)


def no_card(client: PulseClient, request: Request) -> None:
    """GET_CARD_INFO."""
    raise CommandError(Err.NOENTITY)


def object_message(client: PulseClient, request: Request) -> None:
    """SEND_OBJECT_MESSAGE: /core list-handlers (pulsecore/message-handler.c)."""
    f = request.fields
    if f["path"] != "/core":
        raise CommandError(Err.NOENTITY)
    if f["message"] != "list-handlers":
        raise CommandError(Err.NOTIMPLEMENTED)
    client.reply(request, {"response": json.dumps([{"name": "/core", "description": "Core message handler"}])})


HANDLERS: dict[Command, Handler] = {
    _C.GET_SERVER_INFO: server_info,
    _C.LOOKUP_SINK: lookup_sink,
    _C.LOOKUP_SOURCE: lookup_source,
    _C.STAT: stat,
    _C.GET_SINK_INFO: sink,
    _C.GET_SOURCE_INFO: source,
    _C.GET_SAMPLE_INFO: sample,
    **dict.fromkeys(_LISTS, listing),
    **dict.fromkeys(_ONE, one_of),
    _C.GET_CARD_INFO_LIST: no_cards,
    _C.GET_CARD_INFO: no_card,
    _C.SEND_OBJECT_MESSAGE: object_message,
}
