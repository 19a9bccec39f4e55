"""Modules that clients load: what each takes, makes, and takes away again.

A module is a row of `KINDS`. What it makes is written down in its `Module` while it is made, so that one that fails
half-way leaves nothing, and unloading removes all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from millrace.doors.pulse.client import Handler, PulseClient
from millrace.doors.pulse.door import MODULES_MAX, PulseDoor, permission_of
from millrace.doors.pulse.formats import CommandError, StreamFormat, prop_text
from millrace.doors.pulse.loaded import BUILT_IN, Feed, Module, feed, heir_of, unmake
from millrace.doors.pulse.modargs import Args, wrong
from millrace.doors.pulse.restore import RESTORED
from millrace.dsp.channels import Matrix, mix_matrix
from millrace.errors import GraphError
from millrace.graph.model import Sink
from millrace.units import Positions
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.session import Request

MIXES_MAX = 128
"""Where a guest has so many sinks and sources, modules make no more: the rest is for `millrace sink add`."""
NAME_MAX = 128
DESCRIPTION_MAX = 1024
_SPEC = ("format", "rate", "channels", "channel_map")


@dataclass(slots=True)
class Loading:
    """A module on its way: whose it is, what it was given, and what it has made so far."""

    client: PulseClient
    args: Args
    module: Module

    @property
    def door(self) -> PulseDoor:
        """Where it is loaded."""
        return self.client.door

    def sink(self, fmt: StreamFormat, name: str, description: str, kind: str) -> Sink:
        """Make a sink of the name that was asked for."""
        return self._made(self.door.graph.add_sink, "sink", fmt, name, description, kind)

    def source(self, fmt: StreamFormat, name: str, description: str, kind: str) -> Sink:
        """Make a source of the name that was asked for."""
        return self._made(self.door.graph.add_source, "source", fmt, name, description, kind)

    def _made(
        self, make: Callable[[str, str, Positions], Sink], what: str, fmt: StreamFormat, name: str, description: str,
        kind: str,
    ) -> Sink:  # fmt: skip
        if sum(1 for _ in self.door.graph.mixes()) >= MIXES_MAX:
            raise wrong(f"this guest has {MIXES_MAX} sinks and sources already: modules make no more")
        props = {"device.class": kind.encode(), **self.args.props(f"{what}_properties")}
        text = prop_text(props, "device.description") or description
        asked = self.args.text(f"{what}_name")
        mix = make(free_name(self.door, name if asked is None else asked), text, fmt.positions)
        mix.props = {key: prop_text(props, key) for key in props}
        self.door.declared[mix.id] = fmt
        self.module.mixes.append(mix)
        return mix

    def link(self, source: Sink, target: Sink, matrix: Matrix | None = None) -> None:
        """Feed one into another for as long as the module is there."""
        if any(link.target is target for link in source.links):
            raise wrong(f"{source.name} plays on {target.name} already")
        one = Feed(source, target, matrix, self.module.recorder is not None)
        feed(self.door.graph, one, self.door.source_level(source))
        self.module.feeds.append(one)

    def records(self, source: Sink) -> None:
        """It records `source`: its loader must be allowed to, and once they are not it goes."""
        self.door.demand_capture(self.client, source)
        self.module.recorder = permission_of(source), self.client.subject

    def choice(self, *keys: str) -> str | None:
        """The one of several names of an argument that was given."""
        given = [value for key in keys if (value := self.args.text(key)) is not None]
        if len(given) > 1:
            raise wrong(f"{' and '.join(keys)} are the same: give one")
        return given[0] if given else None


def free_name(door: PulseDoor, wanted: str) -> str:
    """A name as PulseAudio's registry has it: letters, digits and `.-_`, with a number behind it where it is taken."""
    if not 0 < len(wanted) <= NAME_MAX:
        raise wrong(f"a name has 1 to {NAME_MAX} characters")
    base = name = re.sub(r"[^A-Za-z0-9._-]", "_", wanted)
    serial = 2
    while door.name_taken(name):
        name, serial = f"{base}.{serial}", serial + 1
    return name


# -- what each makes -------------------------------------------------------------------------


def _null_sink(loading: Loading) -> None:
    fmt = loading.args.format(loading.door.sink_format)
    loading.sink(fmt, "null", "Null Output", "abstract")


def _null_source(loading: Loading) -> None:
    fmt = loading.args.format(loading.door.sink_format)
    loading.source(fmt, "source.null", "Null Input", "abstract")


def _combine_sink(loading: Loading) -> None:
    """On the sinks named, or on all that no module made, as PulseAudio takes all that are hardware."""
    door, names = loading.door, loading.choice("slaves", "sinks")
    description = "Simultaneous Output"
    if names is None:
        made = [mix for module in door.modules.values() for mix in module.mixes]
        targets = [sink for sink in door.graph.sinks.values() if sink not in made]
    else:
        targets = [door.find_sink(NO_INDEX, name) for name in names.split(",") if name]
        description = f"Simultaneous output to {', '.join(target.description for target in targets)}"
    sink = loading.sink(loading.args.format(door.sink_format), "combined", description[:DESCRIPTION_MAX], "filter")
    if names is not None:
        sink.props.setdefault("combine.slaves", names)
    remix = loading.args.flag("remix", True)
    for target in played_once(targets):
        loading.link(sink, target, None if remix else by_name(sink.positions, target.positions))


def _ends(sink: Sink) -> set[Sink]:
    """Where what `sink` plays arrives in the end."""
    ends: set[Sink] = set()
    seen = {sink}
    ahead = [sink]
    while ahead:
        at = ahead.pop()
        targets = {link.target for link in at.links}
        if not targets:
            ends.add(at)
        ahead += targets - seen
        seen |= targets
    return ends


def played_once(targets: Iterable[Sink]) -> list[Sink]:
    """Whom to link so that each sink in the end hears it once.

    Two that play on the same sink in the end would make it twice as loud there: the second is left out, and only
    what it reaches beyond the first is linked.
    """
    out: list[Sink] = []
    heard: set[Sink] = set()
    for target in sorted(dict.fromkeys(targets), key=lambda sink: -len(_ends(sink))):
        ends = _ends(target)
        out += [target] if not ends & heard else sorted(ends - heard, key=lambda sink: sink.id)
        heard |= ends
    return out


def by_name(source: Positions, target: Positions) -> Matrix:
    """Each channel to those of its own name, and no mixing: `remix=no`."""
    return np.array([[float(name == to) for to in target] for name in source], np.float32)


def _remapped(loading: Loading, master: Sink) -> tuple[StreamFormat, Positions]:
    """The format of a remapped device, and what its channels are at the master's, one for one."""
    fmt = loading.args.format(loading.door.format_of(master))
    positions = loading.args.positions("master_channel_map") or fmt.positions
    if len(positions) != len(fmt.positions):
        raise wrong(f"master_channel_map has {len(positions)} channels, the device {len(fmt.positions)}")
    return fmt, positions


def _mixed(source: Positions, target: Positions, remix: bool) -> Matrix:
    if not remix:
        return by_name(source, target)
    matrix = mix_matrix(source, target)
    return np.eye(len(source), dtype=np.float32) if matrix is None else matrix


def _remap_sink(loading: Loading) -> None:
    master = loading.door.find_sink(NO_INDEX, loading.args.text("master"))
    fmt, positions = _remapped(loading, master)
    sink = loading.sink(fmt, f"{master.name}.remapped", f"Remapped {master.description}", "filter")
    sink.props.setdefault("device.master_device", master.name)
    loading.module.masters.append(master)
    loading.link(sink, master, _mixed(positions, master.positions, loading.args.flag("remix", True)))


def _remap_source(loading: Loading) -> None:
    door = loading.door
    master = door.find_source(NO_INDEX, loading.args.text("master"))
    loading.records(master)
    fmt, positions = _remapped(loading, master)
    name, description = door.source_name(master), door.source_description(master)
    source = loading.source(fmt, f"{name}.remapped", f"Remapped {description}", "filter")
    source.props.setdefault("device.master_device", name)
    source.master = master
    loading.module.masters.append(master)
    loading.link(master, source, _mixed(master.positions, positions, loading.args.flag("remix", True)))


def _loopback(loading: Loading) -> None:
    source = loading.door.find_source(NO_INDEX, loading.args.text("source"))
    sink = loading.door.find_sink(NO_INDEX, loading.args.text("sink"))
    loading.records(source)
    loading.module.masters += [source, sink]
    matrix = None if loading.args.flag("remix", True) else by_name(source.positions, sink.positions)
    loading.link(source, sink, matrix)


def _native_protocol(loading: Loading) -> None:
    """This door is open already. Paths are the daemon's own, and who may come in is not for programs to widen."""
    for key in ("socket", "auth-group", "auth-cookie"):
        if loading.args.text(key) is not None:
            raise wrong(f"{key}: a program may not have the daemon open a path; the guest's socket is there already")
    if loading.args.flag("auth-anonymous", False):
        raise wrong("auth-anonymous: a program may not let strangers in")


def _stream_restore(loading: Loading) -> None:
    rules = loading.door.rules
    rules.restores = frozenset(what for what in RESTORED if loading.args.flag(f"restore_{what}", True))
    loading.module.undo = rules.stop


def _nothing(loading: Loading) -> None:
    """It does what every guest does anyway."""


class Kind(NamedTuple):
    """A module that can be loaded."""

    description: str
    valid: tuple[str, ...]
    make: Callable[[Loading], None]
    once: bool = False


_SINK, _SOURCE = ("sink_name", "sink_properties", *_SPEC), ("source_name", "source_properties", *_SPEC)
_REMAP = ("master", "master_channel_map", "resample_method", "remix")
KINDS: dict[str, Kind] = {
    "module-null-sink": Kind("Clocked NULL sink", (*_SINK, "formats", "norewinds"), _null_sink),
    "module-null-source": Kind(
        "Clocked NULL source", (*_SOURCE, "description", "latency_time", "max_latency_msec"), _null_source
    ),
    "module-combine-sink": Kind(
        "Combine multiple sinks to one", (*_SINK, "slaves", "sinks", "adjust_time", "resample_method", "remix"),
        _combine_sink,
    ),
    "module-remap-sink": Kind("Virtual channel remapping sink", (*_SINK, *_REMAP), _remap_sink),
    "module-remap-source": Kind("Virtual channel remapping source", (*_SOURCE, *_REMAP), _remap_source),
    "module-loopback": Kind(
        "Loopback from source to sink",
        (
            "source", "sink", "adjust_time", "latency_msec", "max_latency_msec", "log_interval",
            "fast_adjust_threshold_msec", "adjust_threshold_usec", *_SPEC, "sink_input_properties",
            "source_output_properties", "source_dont_move", "sink_dont_move", "remix",
        ),
        _loopback,
    ),
    "module-native-protocol-unix": Kind(
        BUILT_IN["module-native-protocol-unix"],
        ("socket", "auth-anonymous", "auth-cookie", "auth-cookie-enabled", "auth-group", "auth-group-enable",
         "srbchannel"),
        _native_protocol,
    ),
    "module-stream-restore": Kind(
        BUILT_IN["module-stream-restore"],
        ("restore_device", "restore_volume", "restore_muted", "on_hotplug", "on_rescue", "fallback_table"),
        _stream_restore,
        once=True,
    ),
    "module-device-restore": Kind(
        BUILT_IN["module-device-restore"],
        ("restore_port", "restore_volume", "restore_muted", "restore_formats"),
        _nothing,
        once=True,
    ),
    "module-always-sink": Kind(BUILT_IN["module-always-sink"], ("sink_name",), _nothing, once=True),
}  # fmt: skip


# -- loading and unloading -------------------------------------------------------------------


def load_module(client: PulseClient, request: Request) -> None:
    """LOAD_MODULE. The protocol says of a failure only that it was one, so the reason is told beside it."""
    name, text = request.fields["name"] or "", request.fields["argument"] or ""
    try:
        module = _loaded(client, name, text)
    except (CommandError, GraphError) as error:
        client.door.on_failure(f"{name} {text}".rstrip(), str(error))
        denied = isinstance(error, CommandError) and error.code is Err.ACCESS
        raise CommandError(Err.ACCESS if denied else Err.MODINITFAILED, str(error)) from None
    client.reply(request, {"index": module.index})


def _loaded(client: PulseClient, name: str, text: str) -> Module:
    """A module that has made all it makes; one that can't leaves nothing behind."""
    door, kind = client.door, KINDS.get(name)
    if kind is None:
        raise wrong(f"there is no such module; there are {', '.join(KINDS)}")
    if kind.once and any(module.name == name for module in door.modules.values()):
        raise wrong("it is loaded already")
    if len(door.modules) >= MODULES_MAX:
        raise wrong(f"{MODULES_MAX} modules are loaded already")
    module = Module(door.graph.ids.take(), name, text, kind.description)
    try:
        kind.make(Loading(client, Args(text, kind.valid), module))
        door.load(module)
    except (CommandError, GraphError):
        unmake(door.graph, module)
        raise
    return module


def unload_module(client: PulseClient, request: Request) -> Iterator[None]:
    """UNLOAD_MODULE: what played on its sink goes on at another."""
    module = client.door.modules.get(request.fields["index"])
    if module is None:
        raise CommandError(Err.NOENTITY)
    if module.fixed:
        raise CommandError(Err.ACCESS)
    for mix in module.mixes:
        if mix.id in client.door.graph.sinks:
            yield from client.door.graph.leave(mix, heir_of(client.door.graph, mix))
    client.door.unload(module)
    client.reply(request)


HANDLERS: dict[Command, Handler] = {
    Command.LOAD_MODULE: load_module,
    Command.UNLOAD_MODULE: unload_module,
}
