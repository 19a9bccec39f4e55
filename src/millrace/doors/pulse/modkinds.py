"""The modules that a guest's programs may load, with their arguments. The table is in docs/pulse.md.

Arguments that have no effect here are accepted, so that existing scripts run, and are logged (`Kind.idle`). Modules
that can't be provided are refused, with a hint at what to do instead (`NOT_SERVED`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from millrace.doors.pulse.create import DONT_MOVE
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.infos import as_props
from millrace.doors.pulse.loaded import BUILT_IN
from millrace.doors.pulse.loading import Loading
from millrace.doors.pulse.loopback import LATENCY_MS, LATENCY_MS_MAX, Loopback
from millrace.doors.pulse.modargs import Args, wrong
from millrace.doors.pulse.tones import Sine
from millrace.dsp.channels import Mapping as ChannelMapping
from millrace.dsp.channels import Matrix, by_name, mix_matrix
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.remembered.devices import RESTORED as LEVELS
from millrace.remembered.streams import RESTORED
from millrace.units import NS_PER_MS, RATE_MAX, RATE_MIN, Positions
from millrace.wire.pulse.constants import NO_INDEX

DESCRIPTION_MAX = 1024
FREQUENCY = 440
_SPEC = ("format", "rate", "channels", "channel_map")
Greet = Callable[[Sink], None]
_ABSTRACT = {"media.role": "abstract"}


# -- sinks and sources ------------------------------------------------------------------------


def _null_sink(loading: Loading) -> None:
    formats = loading.args.text("formats") or "pcm"
    if any(one.split(",")[0].strip() != "pcm" for one in formats.split(";")):
        raise wrong("formats: only PCM can be mixed")
    fmt = loading.args.format(loading.door.sink_format)
    loading.sink(fmt, "null", "Null Output", "abstract")


def _null_source(loading: Loading) -> None:
    fmt = loading.args.format(loading.door.sink_format)
    loading.source(fmt, "source.null", loading.args.text("description") or "Null Input", "abstract")


def _combine_sink(loading: Loading) -> None:
    """Combine the named sinks, or all that no module created (PulseAudio takes all hardware sinks)."""
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
    """The final sinks that `sink` plays to, directly or through links."""
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
    """Choose the sinks to link so that the sound reaches each final sink once.

    Two targets that end in the same sink would double the level there. So the second one is left out, and only
    the final sinks that the first does not reach are linked directly.
    """
    out: list[Sink] = []
    heard: set[Sink] = set()
    for target in sorted(dict.fromkeys(targets), key=lambda sink: -len(_ends(sink))):
        ends = _ends(target)
        out += [target] if not ends & heard else sorted(ends - heard, key=lambda sink: sink.id)
        heard |= ends
    return out


def _remapped(loading: Loading, master: Sink) -> tuple[AudioFormat, Positions]:
    """The format of a remapped device, and the master positions that its channels map to, one for one."""
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
    _sink_on(loading, master, f"{master.name}.remapped", f"Remapped {master.description}")


def _virtual_sink(loading: Loading) -> None:
    master = loading.door.find_sink(NO_INDEX, loading.args.text("master"))
    name = loading.args.text("sink_name") or f"{master.name}.vsink"
    sink = _sink_on(loading, master, name, f"Virtual Sink {name} on {master.description}")
    sink.props.setdefault("device.vsink.name", sink.name)


def _sink_on(loading: Loading, master: Sink, name: str, description: str) -> Sink:
    fmt, positions = _remapped(loading, master)
    sink = loading.sink(fmt, name, description[:DESCRIPTION_MAX], "filter")
    sink.props.setdefault("device.master_device", master.name)
    loading.module.masters.append(master)
    loading.link(sink, master, _mixed(positions, master.positions, loading.args.flag("remix", True)))
    return sink


def _remap_source(loading: Loading) -> None:
    door = loading.door
    master = door.find_source(NO_INDEX, loading.args.text("master"))
    _source_of(loading, master, f"{door.source_name(master)}.remapped", f"Remapped {door.source_description(master)}")


def _virtual_source(loading: Loading) -> None:
    door = loading.door
    if loading.args.text("uplink_sink") is not None:
        raise wrong("uplink_sink: load module-null-sink and a module-loopback of its monitor instead")
    master = door.find_source(NO_INDEX, loading.args.text("master"))
    name = loading.args.text("source_name") or f"{door.source_name(master)}.vsource"
    source = _source_of(loading, master, name, f"Virtual Source {name} on {door.source_description(master)}")
    source.props.setdefault("device.vsource.name", source.name)


def _source_of(loading: Loading, master: Sink, name: str, description: str) -> Sink:
    loading.records(master)
    fmt, positions = _remapped(loading, master)
    source = loading.source(fmt, name, description[:DESCRIPTION_MAX], "filter")
    source.props.setdefault("device.master_device", loading.door.source_name(master))
    source.master = master
    loading.module.masters.append(master)
    loading.link(master, source, _mixed(master.positions, positions, loading.args.flag("remix", True)))
    return source


# -- streams ----------------------------------------------------------------------------------


# All that can be refused is refused before the streams are created. From then on the graph's observers may act on
# them at any time, so `loops`, `masters` and `made_by` are set before `begin`: if it fails half-way, or one of its
# streams is removed at once, unloading finds everything.
def _loopback(loading: Loading) -> None:
    door, args = loading.door, loading.args
    latency = args.number("latency_msec", 1, LATENCY_MS_MAX) or LATENCY_MS
    source, sink = (
        door.find_source(NO_INDEX, args.text("source")),
        door.find_sink(NO_INDEX, args.text("sink")),
    )
    fmt = args.format(door.format_of(source))
    mapping = ChannelMapping.MIX if args.flag("remix", True) else ChannelMapping.NAMES
    heard = _described(loading, "source_output", f"Loopback to {sink.description}", "audio-card")
    played = _described(
        loading, "sink_input", f"Loopback from {door.source_description(source)}", "audio-input-microphone"
    )
    loading.records(source)
    tap = Tap(door.graph.ids.take(), heard["media.name"], fmt.positions, heard, mapping=mapping)
    tap.placed = args.text("source") is not None
    tap.pinned = DONT_MOVE if args.flag("source_dont_move", False) else ""
    stream = Stream(door.graph.ids.take(), played["media.name"], fmt.positions, played, mapping=mapping)
    stream.chosen = ("sink",) if args.text("sink") is not None else ()
    stream.pinned = DONT_MOVE if args.flag("sink_dont_move", False) else ""
    loop = Loopback(door, loading.module, loading.client.subject)
    loading.module.loops.append(loop)
    loading.module.masters = [source]
    door.made_by |= {tap.id: loading.module, stream.id: loading.module}
    loop.begin(tap, stream, source, sink, fmt, latency * NS_PER_MS, (as_props(heard), as_props(played)))


def _described(loading: Loading, what: str, name: str, icon: str) -> dict[str, str]:
    """The properties of a loopback's recorder or stream; those given as arguments take precedence."""
    given = loading.args.texts(f"{what}_properties")
    return {"media.name": name, "media.icon_name": icon, **_ABSTRACT, **given}


def _frequency(loading: Loading) -> int:
    return loading.args.number("frequency", 1, loading.door.graph.rate // 2) or FREQUENCY


def _tone(loading: Loading, sink: Sink, frequency: int, name: str) -> None:
    graph = loading.door.graph
    stream = Stream(graph.ids.take(), name, ("mono",), {"media.name": name, "sine.hz": str(frequency), **_ABSTRACT})
    stream.feed = Sine(frequency, graph.rate)
    loading.door.made_by[stream.id] = loading.module
    graph.add_stream(stream, sink)
    loading.module.streams.append(stream)
    loading.door.sound_tones(loading.module)


def _sine(loading: Loading) -> None:
    frequency = _frequency(loading)
    sink = loading.door.find_sink(NO_INDEX, loading.args.text("sink"))
    _tone(loading, sink, frequency, f"{frequency} Hz Sine")


def _sine_source(loading: Loading) -> None:
    frequency = _frequency(loading)
    rate = loading.args.number("rate", RATE_MIN, RATE_MAX) or loading.door.graph.rate
    fmt = AudioFormat(SampleFormat.F32LE, rate, ("mono",))
    source = loading.source(fmt, "sine_input", f"Sine source at {frequency} Hz", "abstract")
    source.props.setdefault("sine.hz", str(frequency))
    _tone(loading, source, frequency, f"{frequency} Hz Sine")


# -- built-in behaviour -----------------------------------------------------------------------


def _native_protocol(loading: Loading) -> None:
    """The guest already has its socket. Programs may neither choose paths nor loosen access control."""
    for key in ("socket", "auth-group", "auth-cookie"):
        if loading.args.text(key) is not None:
            raise wrong(f"{key}: programs can't make the daemon open a path; the guest already has its socket")
    if loading.args.flag("auth-anonymous", False):
        raise wrong("auth-anonymous: programs can't let unauthenticated clients in")


def _stream_restore(loading: Loading) -> None:
    if loading.args.text("fallback_table") is not None:
        raise wrong("fallback_table: programs can't make the daemon open a path; set the rules through the extension")
    rules = loading.door.rules
    rules.restores = frozenset(what for what in RESTORED if loading.args.flag(f"restore_{what}", True))


def _device_restore(loading: Loading) -> None:
    devices = loading.door.devices
    devices.restores = frozenset(what for what in LEVELS if loading.args.flag(f"restore_{what}", True))


def _default_device_restore(loading: Loading) -> None:
    loading.door.devices.keeps_defaults = True


def _switch_on_connect(loading: Loading) -> None:
    if loading.args.text("blacklist") is not None:
        raise wrong("blacklist: patterns from programs are not evaluated; let a policy choose by name")


def _switching(door: PulseDoor, args: Args) -> Greet:
    """New devices become the default. Those that a module created count as virtual."""
    virtual = not args.flag("ignore_virtual", True)

    def greet(mix: Sink) -> None:
        if door.loading and not virtual:
            return
        if mix.capture:
            door.set_default_source(mix)
        else:
            door.graph.set_default(mix)
        door.devices.keep_default(mix, mix.kind, lambda kept: None)

    return greet


def _nothing(loading: Loading) -> None:
    """Do nothing: every guest already behaves like this."""


# -- the tables -------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of module. `idle` lists arguments that have no effect here, with the reason.

    `greets` makes what is called for every new sink or source.
    """

    description: str
    valid: tuple[str, ...]
    make: Callable[[Loading], None]
    idle: Mapping[str, str] = MappingProxyType({})
    once: bool = False
    greets: Callable[[PulseDoor, Args], Greet] | None = None

    def args(self, text: str) -> Args:
        """The arguments of a module of this kind; CommandError if they are not its own."""
        args = Args(text, (*self.valid, *self.idle))
        for key in self.idle:
            args.check_idle(key)
        return args


_SINK, _SOURCE = ("sink_name", "sink_properties", *_SPEC), ("source_name", "source_properties", *_SPEC)
_REMAP = ("master", "master_channel_map", "remix")
_ONE_CLOCK = "a guest has a single clock, so there is nothing to adjust"
_CYCLE = "the quantum follows the stream with the lowest latency"
_RESAMPLER = {"resample_method": "each stream's resampler is chosen by its latency"}
_VOLUMES = {
    "use_volume_sharing": "it has its own volume, applied on top of its master's",
    "force_flat_volume": "flat volumes are not supported",
}
_OBSOLETE = "it has no effect in PulseAudio either"
KINDS: dict[str, Kind] = {
    "module-null-sink": Kind(
        "Clocked NULL sink", (*_SINK, "formats"), _null_sink, {"norewinds": "Millrace never rewinds"}
    ),
    "module-null-source": Kind(
        "Clocked NULL source", (*_SOURCE, "description"), _null_source,
        dict.fromkeys(("latency_time", "max_latency_msec"), _CYCLE),
    ),
    "module-combine-sink": Kind(
        "Combine multiple sinks to one", (*_SINK, "slaves", "sinks", "remix"), _combine_sink,
        {**_RESAMPLER, "adjust_time": _ONE_CLOCK},
    ),
    "module-remap-sink": Kind("Virtual channel remapping sink", (*_SINK, *_REMAP), _remap_sink, _RESAMPLER),
    "module-remap-source": Kind("Virtual channel remapping source", (*_SOURCE, *_REMAP), _remap_source, _RESAMPLER),
    "module-virtual-sink": Kind("Virtual sink", (*_SINK, "master"), _virtual_sink, _VOLUMES),
    "module-virtual-source": Kind(
        "Virtual source", (*_SOURCE, "master", "uplink_sink"), _virtual_source, _VOLUMES
    ),
    "module-loopback": Kind(
        "Loopback from source to sink",
        (
            "source", "sink", "latency_msec", *_SPEC, "sink_input_properties", "source_output_properties",
            "source_dont_move", "sink_dont_move", "remix",
        ),
        _loopback,
        dict.fromkeys(
            ("adjust_time", "max_latency_msec", "log_interval", "fast_adjust_threshold_msec", "adjust_threshold_usec"),
            _ONE_CLOCK,
        ),
    ),
    "module-sine": Kind(
        "Sine wave generator", ("sink", "frequency"), _sine, {"rate": "the tone is generated at the guest's rate"}
    ),
    "module-sine-source": Kind(
        "Sine wave source", ("source_name", "source_properties", "rate", "frequency"), _sine_source
    ),
    "module-switch-on-connect": Kind(
        "When a sink/source is added, switch to it", ("ignore_virtual", "blacklist"), _switch_on_connect,
        {"only_from_unavailable": "sinks have no ports, so none can become unavailable"}, once=True,
        greets=_switching,
    ),
    "module-native-protocol-unix": Kind(
        BUILT_IN["module-native-protocol-unix"], ("socket", "auth-anonymous", "auth-cookie", "auth-group"),
        _native_protocol,
        dict.fromkeys(("auth-cookie-enabled", "auth-group-enable"), "access is decided by the owner")
        | {"srbchannel": "shared memory is not supported"},
    ),
    "module-stream-restore": Kind(
        BUILT_IN["module-stream-restore"],
        ("restore_device", "restore_volume", "restore_muted", "fallback_table"), _stream_restore,
        dict.fromkeys(("on_hotplug", "on_rescue"), _OBSOLETE), once=True,
    ),
    "module-device-restore": Kind(
        BUILT_IN["module-device-restore"], ("restore_volume", "restore_muted"), _device_restore,
        {"restore_port": "sinks have no ports", "restore_formats": "sinks take only PCM"}, once=True,
    ),
    "module-default-device-restore": Kind(
        BUILT_IN["module-default-device-restore"], (), _default_device_restore, once=True
    ),
    "module-always-sink": Kind(
        BUILT_IN["module-always-sink"], (), _nothing, {"sink_name": "a guest always has a sink"}, once=True
    ),
    "module-rescue-streams": Kind("When a sink goes away, move its streams to the default", (), _nothing, once=True),
    "module-suspend-on-idle": Kind(
        "Suspend idle sinks and sources", (), _nothing, {"timeout": "a guest is suspended after 0.2 s"}, once=True
    ),
    "module-card-restore": Kind(
        "Switch card profiles automatically", (), _nothing,
        {"restore_bluetooth_profile": "cards are not supported"}, once=True,
    ),
}  # fmt: skip
"""The modules that can be loaded."""

_PATH = "it would make the daemon open a file on behalf of a guest's program"
_ROLES = "the policy routes roles to sinks: [roles] in policy.toml, see docs/policy.md"
_TUNNEL = "it would make the daemon connect to a server on behalf of a guest's program; run"
_SENT = "it would make the daemon send to the network on behalf of a guest's program; run millrace listen --to raw:-"
NOT_SERVED: dict[str, str] = {
    "module-native-protocol-tcp": "programs can't open a guest to the network; the daemon's owner can, with pulse_tcp"
    " in the guest's configuration",
    "module-tunnel-sink": f"{_TUNNEL} parec -d NAME.monitor | pacat -s SERVER",
    "module-tunnel-sink-new": f"{_TUNNEL} parec -d NAME.monitor | pacat -s SERVER",
    "module-tunnel-source": f"{_TUNNEL} parec -s SERVER | pacat -d NAME",
    "module-tunnel-source-new": f"{_TUNNEL} parec -s SERVER | pacat -d NAME",
    "module-simple-protocol-tcp": _SENT,
    "module-rtp-send": _SENT,
    "module-pipe-sink": f"{_PATH}; record the monitor of a module-null-sink by parec -d NAME.monitor > FILE",
    "module-pipe-source": f"{_PATH}; play the file on a module-null-sink with pacat -d NAME < FILE;"
    " its monitor is a source",
    "module-ladspa-sink": f"{_PATH}; run the effect in a program that records one sink's monitor and plays on another",
    "module-echo-cancel": "Millrace has no echo canceller; browsers cancel echo before sending the microphone",
    "module-filter-apply": "load filters explicitly: module-remap-sink, module-virtual-sink, module-loopback",
    "module-filter-heuristics": "Millrace has no echo canceller",
    "module-role-ducking": "the policy ducks other streams during a call: [duck] in policy.toml, docs/policy.md",
    "module-role-cork": "streams are not paused; [duck] in policy.toml lowers their volume instead",
    "module-intended-roles": _ROLES,
    "module-device-manager": f"Millrace keeps no device priorities; {_ROLES}",
    "module-position-event-sounds": "event sounds are not positioned by window",
    "module-augment-properties": "the host's desktop files don't describe the guest's programs; set PULSE_PROP there",
}
"""PulseAudio modules that are not available here, with the reason or an alternative."""
