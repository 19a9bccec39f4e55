"""Introspection: info records that describe a guest's graph to PulseAudio clients."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from millrace.doors.pulse.clients import Client
from millrace.doors.pulse.devicenames import MONITOR
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.formats import info_of, map_numbers, map_of, prop_text, spec_of, volume_of
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.restore import group_of_props
from millrace.doors.pulse.samples import Sample
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Node, NodeState, Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.remembered.streams import GROUP_PROPERTY, INPUT, OUTPUT
from millrace.units import HostNs
from millrace.version import __version__
from millrace.wire.pulse.constants import NO_INDEX, SINK_FLAGS, SOURCE_FLAGS, DeviceState, Encoding
from millrace.wire.pulse.tagstruct import FormatInfo, Props

if TYPE_CHECKING:
    from millrace.doors.pulse.client import PulseClient

DRIVER, PROTOCOL_DRIVER = "millrace", "protocol-native.c"
VOLUME_NORM = 0x10000
Record = dict[str, Any]


# Values are sent with their final NUL. `pa_proplist_gets` returns nothing for a value without it, so a property sent
# as bare text would be missing for every client.
def text_props(**values: str) -> Props:
    """Properties from keyword arguments; `__` in a name stands for a dot."""
    return {key.replace("__", "."): text.encode() + b"\0" for key, text in values.items()}


def as_props(texts: Mapping[str, str]) -> Props:
    """Properties from text."""
    return {key: text.encode("utf-8", "replace") + b"\0" for key, text in texts.items()}


def _grouped(props: Props, kind: str) -> Props:
    """A stream's properties, with the group under which its settings are stored."""
    return props | as_props({GROUP_PROPERTY: group_of_props(props, kind)})


def _device_state(sink: Sink, used: Container[int]) -> DeviceState:
    if sink.suspended or sink.state is NodeState.SUSPENDED:
        return DeviceState.SUSPENDED
    return DeviceState.RUNNING if sink.id in used else DeviceState.IDLE


# Scripts find what they have made by its driver: `pactl list short sink-inputs | grep protocol-native.c`.
def _driver(door: PulseDoor, module: Module) -> str:
    """The driver of what a module made, by the name of its source file as in PulseAudio."""
    return DRIVER if module is door.own_module else f"{module.kind}.c"


def _stream_driver(door: PulseDoor, node: Node, client: int) -> str:
    """The driver of a stream or recorder, which a client, a module or another door made."""
    return PROTOCOL_DRIVER if client != NO_INDEX else _driver(door, door.module_of(node))


def _device(door: PulseDoor, sink: Sink, used: Container[int]) -> Record:
    fmt = door.format_of(sink)
    module = next((m for m in door.modules.values() if sink in m.mixes), door.own_module)
    return {
        "spec": spec_of(fmt), "map": map_of(fmt), "module": module.index,
        "driver": _driver(door, module),
        "base_volume": VOLUME_NORM, "state": _device_state(sink, used), "steps": VOLUME_NORM + 1, "card": NO_INDEX,
        "ports": [], "active_port": None, "formats": [FormatInfo(Encoding.PCM)],
        "configured": door.graph.quantum_ns // 1000,
    }  # fmt: skip


def _device_props(sink: Sink, description: str, kind: str, icon: str) -> Props:
    """The properties of a sink, of its monitor (which does not inherit the sink's), or of a source."""
    own = {} if kind == "monitor" else sink.props
    props = {"device.class": kind, "device.api": "millrace", "device.icon_name": icon} | own
    return as_props({"device.description": description} | props)


def sink_info(door: PulseDoor, sink: Sink, now_ns: HostNs) -> Record:
    """GET_SINK_INFO."""
    props = _device_props(sink, sink.description, "sound", "audio-card")
    return _device(door, sink, door.in_use.played) | {
        "index": door.sink_indexes.of(sink), "name": sink.name, "description": sink.description,
        "volume": volume_of(sink.gains), "mute": sink.mute,
        "monitor_index": door.source_indexes.of(sink), "monitor_name": sink.name + MONITOR,
        "latency": door.monitor_latency_ns(sink, now_ns) // 1000, "flags": SINK_FLAGS, "props": props,
    }  # fmt: skip


def source_info(door: PulseDoor, sink: Sink, now_ns: HostNs) -> Record:
    """GET_SOURCE_INFO of a source or monitor. A monitor taps its sink after the volume, and has its own level."""
    level = sink.recorded
    del now_ns
    description = door.source_description(sink)
    props = _device_props(sink, description, "sound" if sink.capture else "monitor", "audio-input-microphone")
    of = (NO_INDEX, None) if sink.capture else (door.sink_indexes.of(sink), sink.name)
    return _device(door, sink, door.in_use.recorded) | {
        "index": door.source_indexes.of(sink), "name": door.source_name(sink), "description": description,
        "mute": level.mute,
        "volume": volume_of(level.gains), "monitor_of_index": of[0],
        "monitor_of_name": of[1], "latency": 0, "flags": SOURCE_FLAGS, "props": props,
    }  # fmt: skip


def sink_input_info(door: PulseDoor, node: Stream, now_ns: HostNs) -> Record | None:
    """GET_SINK_INPUT_INFO of a stream from any door; None if it is not shown or has gone."""
    if node not in door.indexes.inputs:
        return None
    stream = door.playback.get(node.id)
    # Programs take it that a stream has a volume for each channel of its map: `pactl list` aborts if it has not.
    fmt = stream.format if stream else AudioFormat(SampleFormat.F32LE, door.graph.rate, node.positions)
    client = stream.owner.client_index if stream else NO_INDEX
    ahead_ns = door.graph.ahead(node) * 1_000_000_000 // door.graph.rate
    return {
        "index": door.indexes.inputs.of(node), "name": _stream_name(node, stream.props if stream else {}),
        "module": door.module_of(node).index,
        "client": client, "sink": door.sink_indexes.of(node.sink),
        "spec": spec_of(fmt), "map": map_of(fmt),
        "volume": volume_of(node.gains), "buffer_usec": _buffer_usec(stream),
        "sink_usec": (door.monitor_latency_ns(node.sink, now_ns) + ahead_ns) // 1000,
        "resample_method": stream.resample_method if stream else None, "mute": node.mute,
        "driver": _stream_driver(door, node, client),
        "props": _grouped(stream.props if stream else as_props(node.props), OUTPUT),
        "corked": stream.corked if stream else not node.active,
        "has_volume": True, "writable": True, "format": info_of(fmt),
    }  # fmt: skip


def _stream_name(node: Stream | Tap, props: Props) -> str:
    """As its client gave it. The node's own name is cut for display."""
    return prop_text(props, "media.name") or node.name


# A client may seek to any 64-bit index. What lies beyond the buffer's capacity is not sound, and at a low rate its
# duration would not fit into the reply.
def _buffer_usec(stream: PlaybackStream | None) -> int:
    return stream.layout.to_ns(min(stream.queue.length, stream.attr.maxlength)) // 1000 if stream else 0


def source_output_info(door: PulseDoor, stream: RecordStream) -> Record | None:
    """GET_SOURCE_OUTPUT_INFO; None if it has gone."""
    node, source = stream.node, stream.node.sink
    if source is None or node not in door.indexes.outputs:
        return None
    return {
        "index": door.indexes.outputs.of(node), "name": _stream_name(node, stream.props),
        "module": door.module_of(node).index,
        "client": stream.owner.client_index, "source": door.source_indexes.of(source),
        "spec": spec_of(stream.format),
        "map": map_of(stream.format), "buffer_usec": stream.layout.to_ns(stream.queued_bytes) // 1000,
        "source_usec": 0, "resample_method": None,
        "driver": _stream_driver(door, node, stream.owner.client_index),
        "props": _grouped(stream.props, INPUT), "corked": stream.corked, "volume": volume_of(stream.state.gains),
        "mute": stream.state.mute, "has_volume": True,
        "writable": True, "format": info_of(stream.format),
    }  # fmt: skip


def client_info(door: PulseDoor, client: Client) -> Record:
    """GET_CLIENT_INFO."""
    peer = "UNIX socket client" if client.subject.ours else "TCP/IP client"
    own = as_props({"native-protocol.peer": peer, "native-protocol.version": str(client.version)})
    return {
        "index": client.client_index, "name": prop_text(client.props, "application.name"),
        "module": door.own_module.index, "driver": PROTOCOL_DRIVER, "props": own | client.props,
    }  # fmt: skip


def module_info(door: PulseDoor, module: Module) -> Record:
    """GET_MODULE_INFO."""
    used = {link.target for stream in door.graph.streams.values() for link in stream.links}
    users = sum(mix in used for mix in module.mixes) if module.mixes else NO_INDEX
    props = text_props(module__author="Millrace", module__description=module.description, module__version=__version__)
    return {
        "index": module.index, "name": module.name, "argument": module.argument, "users": users, "props": props,
    }  # fmt: skip


def sample_info(sample: Sample) -> Record:
    """GET_SAMPLE_INFO."""
    fmt = sample.format
    return {
        "index": sample.index, "name": sample.name, "volume": (VOLUME_NORM,) * len(fmt.positions),
        "duration": len(sample.data) // fmt.frame_bytes * 1_000_000 // fmt.rate, "spec": spec_of(fmt),
        "map": map_numbers(fmt.positions), "bytes": len(sample.data), "lazy": False, "filename": None,
        "props": sample.props,
    }  # fmt: skip


def server_info(client: PulseClient, user: str, host: str, version: str) -> Record:
    """GET_SERVER_INFO. A default source that is denied to the client is not named."""
    door, fmt = client.door, client.door.sink_format
    source = door.recorded_by_default()
    if source not in door.sources_for(client):
        source = door.default_sink
    return {
        "package": f"PulseAudio (on Millrace {version})", "version": "16.1", "user": user, "host": host,
        "spec": spec_of(fmt), "default_sink": door.default_sink.name, "default_source": door.source_name(source),
        "cookie": int.from_bytes(door.cookie[:4], "big"), "map": map_of(fmt),
    }  # fmt: skip
