"""EXTENSION: commands that modules serve themselves, here stream-restore and device-restore.

A module's command is nested in EXTENSION as tagged values: a number, then its arguments (module-stream-restore.c,
module-device-restore.c). Any error in it is answered with NOEXTENSION, as in PulseAudio.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.door import STREAM_RESTORE, PulseDoor
from millrace.doors.pulse.formats import CommandError, map_names, map_numbers
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.restore import group_of_props
from millrace.dsp.mix import cubic_to_gain
from millrace.errors import RemoteProtocolError
from millrace.graph.model import Stream
from millrace.remembered.streams import GROUP_MAX, INPUT, RULES_MAX, Changes, Rule, RuleUpdate
from millrace.rights.model import Right
from millrace.wire.pulse.constants import NO_INDEX, Command, Encoding, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import FormatInfo, Reader, Writer

DEVICE_RESTORE = "module-device-restore"
VERSION = 1
_SET, _MERGE, _REPLACE = range(3)
_SINKS = 0
Serve = Callable[[PulseClient, Request, Reader], None]


def extension(client: PulseClient, request: Request) -> None:
    """EXTENSION."""
    module = _module(client.door, request.fields["index"], request.fields["name"])
    table = _TABLES.get(module.kind)
    if table is None:
        raise CommandError(Err.NOEXTENSION, f"{module.name} has no commands")
    reader = Reader(request.fields["rest"])
    try:
        serve = table.get(reader.u32())
        if serve is None:
            raise CommandError(Err.NOEXTENSION, f"{module.name} has no such command")
        serve(client, request, reader)
    except RemoteProtocolError as error:
        raise CommandError(Err.NOEXTENSION, str(error)) from None


def _module(door: PulseDoor, index: int, name: str | None) -> Module:
    for module in door.modules.values():
        if module.index == index or (index == NO_INDEX and module.name == name):
            return module
    raise CommandError(Err.NOEXTENSION, f"no module {index} {name!r}")


def _end(reader: Reader) -> None:
    if not reader.at_end:
        raise CommandError(Err.NOEXTENSION, "data after the last field")


def _reply(client: PulseClient, request: Request, writer: Writer | None = None) -> None:
    client.reply(request, {"rest": bytes(writer.data) if writer else b""})


def _test(client: PulseClient, request: Request, reader: Reader) -> None:
    _end(reader)
    writer = Writer()
    writer.u32(VERSION)
    _reply(client, request, writer)


def _subscribe(client: PulseClient, request: Request, reader: Reader) -> None:
    wanted, name = reader.boolean(), _module(client.door, request.fields["index"], request.fields["name"]).name
    _end(reader)
    (client.extensions.add if wanted else client.extensions.discard)(name)
    _reply(client, request)


# -- stream-restore --------------------------------------------------------------------------


# Updates to a guest's rules are written one after the other, and each waits for the disk. What an update changes is
# therefore computed when its turn comes, not when it is sent: whether a name is already there (MERGE), what SET
# removes and whether the table is full depend on the updates before it. Reading takes a turn too, with no changes, so
# a client that writes and then reads sees what it wrote.
def _turn(client: PulseClient, request: Request, changes: Callable[[], Changes], done: Callable[[], None]) -> None:
    """Submit changes to the rules. `done` replies once they are stored; if that fails, the reply is IO."""
    client.door.rules.submit(RuleUpdate(changes, client.await_stored(request, done)))


def _read(client: PulseClient, request: Request, reader: Reader) -> None:
    _end(reader)

    def done() -> None:
        writer = Writer()
        for name, rule in client.door.rules.kept.items():
            writer.string(name)
            writer.channel_map(map_numbers(rule.positions))
            writer.cvolume(rule.levels)
            writer.string(rule.device or None)
            writer.boolean(bool(rule.mute))
        _reply(client, request, writer)

    _turn(client, request, dict, done)


def _entries(reader: Reader) -> dict[str, Rule]:
    """The rules of a WRITE. Each needs a name, and as many volumes as its channel map has channels, or none at all."""
    entries: dict[str, Rule] = {}
    while not reader.at_end:
        name, numbers, levels = reader.string(), reader.channel_map(), reader.cvolume()
        device, mute = reader.string(), reader.boolean()
        if not name or len(name) > GROUP_MAX or len(levels) not in (0, len(numbers)) or len(device or "") > GROUP_MAX:
            raise CommandError(
                Err.NOEXTENSION,
                f"a rule needs a name of 1 to {GROUP_MAX} characters and a volume for each channel, or none",
            )
        entries[name] = Rule(levels, map_names(numbers) if levels else (), mute, device or "")
        if len(entries) > RULES_MAX:
            raise CommandError(Err.TOOLARGE, f"{RULES_MAX} rules at most")
    return entries


def _write(client: PulseClient, request: Request, reader: Reader) -> None:
    client.demand(Right.CONTROL, STREAM_RESTORE)
    mode, at_once = reader.u32(), reader.boolean()
    if mode > _REPLACE:
        raise CommandError(Err.NOEXTENSION, f"no mode {mode}")
    entries = _entries(reader)
    door = client.door
    new: dict[str, Rule] = {}
    full: list[bool] = []

    def changes() -> Changes:
        kept = door.rules.kept
        new.update(entries if mode != _MERGE else {n: r for n, r in entries.items() if n not in kept})
        if mode != _SET and len(new.keys() | kept.keys()) > RULES_MAX:
            full.append(True)
            return {}
        return {**(dict.fromkeys(kept) if mode == _SET else {}), **new}

    def done() -> None:
        if full:
            client.fail(request, Err.TOOLARGE)
            return
        if at_once:
            apply(door, new)
        _reply(client, request)

    _turn(client, request, changes, done)


def _delete(client: PulseClient, request: Request, reader: Reader) -> None:
    client.demand(Right.CONTROL, STREAM_RESTORE)
    names = []
    while not reader.at_end:
        names.append(reader.string() or "")
    kept = client.door.rules.kept
    _turn(client, request, lambda: {name: None for name in names if name in kept}, lambda: _reply(client, request))


def apply(door: PulseDoor, rules: dict[str, Rule]) -> None:
    """Apply rules to existing streams. Recorders are moved only to sources that their clients may record."""
    for stream in list(door.graph.streams.values()):
        if rule := rules.get(door.group(stream)):
            _apply(door, stream, rule)
    for record in list(door.records.values()):
        if rule := rules.get(group_of_props(record.props, INPUT)):
            _apply_to_record(door, record, rule)


def _apply_to_record(door: PulseDoor, record: RecordStream, rule: Rule) -> None:
    levels = rule.fitted(record.format.positions)
    if levels:
        record.state.gains = tuple(cubic_to_gain(level) for level in levels)
    if rule.mute is not None:
        record.state.mute = rule.mute
    source = next((mix for mix in door.graph.mixes() if rule.device and door.source_name(mix) == rule.device), None)
    if source and source is not record.node.sink and not record.node.pinned and door.may_record(record.owner, source):
        record.node.placed = source is not door.recorded_by_default()
        door.graph.move_tap(record.node, source)
    else:
        door.graph.touch(record.node)


def _apply(door: PulseDoor, stream: Stream, rule: Rule) -> None:
    levels = rule.fitted(stream.positions)
    if levels:
        door.graph.set_gains(stream, tuple(cubic_to_gain(level) for level in levels))
    if rule.mute is not None:
        door.graph.set_mute(stream, rule.mute)
    target = door.sink_called(rule.device) if rule.device else None
    if target is not None and stream.links and stream.sink is not target and not stream.pinned:
        door.graph.move_stream(stream, target)


# -- device-restore --------------------------------------------------------------------------


def _formats(client: PulseClient, request: Request, reader: Reader) -> None:
    """READ_FORMATS, of one sink or all."""
    sinks = list(client.door.graph.sinks.values())
    if not reader.at_end:
        if reader.u32() != _SINKS:
            raise CommandError(Err.NOEXTENSION, "only sinks have formats")
        sinks = [client.door.find_sink(reader.u32(), "")]
        _end(reader)
    writer = Writer()
    for sink in sinks:
        writer.u32(_SINKS)
        writer.u32(client.door.sink_indexes.of(sink))
        writer.format_infos([FormatInfo(Encoding.PCM)])
    _reply(client, request, writer)


def _save_formats(client: PulseClient, request: Request, reader: Reader) -> None:
    """SAVE_FORMATS. Sinks mix, so PCM is the only format that can be set."""
    client.demand(Right.CONTROL, DEVICE_RESTORE)
    if reader.u32() != _SINKS:
        raise CommandError(Err.NOEXTENSION, "only sinks have formats")
    client.door.find_sink(reader.u32(), "")
    formats = reader.format_infos()
    _end(reader)
    if [one.encoding for one in formats] != [Encoding.PCM]:
        raise CommandError(Err.NOTSUPPORTED, "only PCM can be mixed")
    _reply(client, request)


_TABLES: dict[str, dict[int, Serve]] = {
    STREAM_RESTORE: {0: _test, 1: _read, 2: _write, 3: _delete, 4: _subscribe},
    DEVICE_RESTORE: {0: _test, 1: _subscribe, 3: _formats, 4: _formats, 5: _save_formats},
}
HANDLERS: dict[Command, Handler] = {Command.EXTENSION: extension}
