"""What PulseAudio clients are shown of a guest, record by record."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse import infos
from millrace.doors.pulse.samples import Sample
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Stream
from millrace.media.format import AudioFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS, default_map
from millrace.version import __version__
from millrace.wire.pulse.constants import NO_INDEX, PROTOCOL_VERSION, Command, DeviceState, Encoding
from millrace.wire.pulse.layouts import REPLIES, read_fields, write_fields
from millrace.wire.pulse.session import HEADER
from millrace.wire.pulse.tagstruct import Reader, Spec, Writer
from tests.caller import Caller
from tests.unit.test_graph import Tone

S16 = Spec(SampleFormat.S16LE, 2, 24_000)
STEREO = (1, 2)
F32 = Spec(SampleFormat.F32LE, 2, 48_000)


def subset(record: Any, **expected: Any) -> None:
    """A record has these fields among others."""
    assert {key: record[key] for key in expected} == expected


def text(record: Any, key: str) -> str:
    return str(record["props"][key].removesuffix(b"\0").decode())


def test_properties_are_zero_terminated_with_dots_for_underscores() -> None:
    assert infos.text_props(device__api="x", a="ü") == {"device.api": b"x\0", "a": "ü".encode() + b"\0"}
    assert infos.as_props({"a.b": "\ud800"}) == {"a.b": b"?\0"}


def test_each_record_has_exactly_the_fields_of_its_layout() -> None:
    rig = Rig()
    caller = Caller(rig)
    stream, recorder = caller.play(S16, STEREO)["index"], caller.record(S16, STEREO)["index"]
    door, now_ns = rig.door, rig.now_ns
    made = {
        Command.GET_SINK_INFO: infos.sink_info(door, rig.sink, now_ns),
        Command.GET_SOURCE_INFO: infos.source_info(door, rig.sink, now_ns),
        Command.GET_SINK_INPUT_INFO: infos.sink_input_info(door, rig.stream_at(stream), now_ns),
        Command.GET_SOURCE_OUTPUT_INFO: infos.source_output_info(door, rig.record_at(recorder)),
        Command.GET_CLIENT_INFO: infos.client_info(door, caller),
        Command.GET_MODULE_INFO: infos.module_info(door, door.own_module),
        Command.GET_SAMPLE_INFO: infos.sample_info(Sample(7, "bell", door.sink_format, b"", {})),
        Command.GET_SERVER_INFO: infos.server_info(caller, "user", "host", "1"),
    }
    for command, record in made.items():
        assert record is not None
        writer = Writer()
        write_fields(REPLIES[command], record, writer, PROTOCOL_VERSION)
        assert set(read_fields(REPLIES[command], Reader(writer.data), PROTOCOL_VERSION)) == set(record), command.name


def test_sink_shows_its_level_and_monitor_its_recording_level() -> None:
    rig = Rig()
    rig.graph.set_gains(rig.sink, (1.0, 0.125))
    rig.sink.recorded.gains, rig.sink.recorded.mute = (0.125, 1.0), True
    rig.sink.props = {"device.icon_name": "speaker", "device.description": "Loud"}
    sink, monitor = infos.sink_info(rig.door, rig.sink, rig.now_ns), infos.source_info(rig.door, rig.sink, rig.now_ns)
    subset(
        sink, index=rig.sink.id, name="millrace", volume=(0x10000, 0x8000), mute=False, spec=F32, map=STEREO,
        monitor_index=rig.sink.id, monitor_name="millrace.monitor", module=rig.door.own_module.index,
        base_volume=0x10000, steps=0x10001, ports=[], active_port=None, card=NO_INDEX, configured=40_000, latency=0,
        state=DeviceState.SUSPENDED,
    )  # fmt: skip
    assert [one.encoding for one in sink["formats"]] == [Encoding.PCM]
    assert text(sink, "device.api") == "millrace"
    assert (text(sink, "device.class"), text(sink, "device.icon_name")) == ("sound", "speaker")
    assert text(sink, "device.description") == "Loud"
    subset(
        monitor, index=rig.sink.id, name="millrace.monitor", volume=(0x8000, 0x10000), mute=True, latency=0,
        monitor_of_index=rig.sink.id, monitor_of_name="millrace", description="Monitor of millrace",
    )  # fmt: skip
    # A monitor has properties of its own: its sink's would have it pass for a sink.
    assert (text(monitor, "device.class"), text(monitor, "device.icon_name")) == ("monitor", "audio-input-microphone")
    assert text(monitor, "device.description") == "Monitor of millrace"


def test_source_is_not_shown_as_monitor() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone", ("mono",))
    record = infos.source_info(rig.door, source, rig.now_ns)
    subset(
        record, name="microphone", description="Microphone", monitor_of_index=NO_INDEX, monitor_of_name=None, map=(0,),
        spec=Spec(SampleFormat.F32LE, 1, 48_000),
    )  # fmt: skip
    assert text(record, "device.class") == "sound"


def test_sink_state_reflects_its_use() -> None:
    rig = Rig()

    def state() -> DeviceState:
        return DeviceState(infos.sink_info(rig.door, rig.sink, rig.now_ns)["state"])

    assert state() is DeviceState.SUSPENDED, "nothing has played there yet"
    node = Stream(rig.graph.ids.take(), "tone", default_map(2), feed=Tone())
    rig.graph.add_stream(node, rig.sink)
    rig.graph.activate(node)
    rig.run(0.1)
    assert state() is DeviceState.RUNNING
    rig.graph.deactivate(node, "paused")
    rig.run(1.0)
    assert state() is DeviceState.IDLE
    rig.graph.suspend(rig.sink, True)
    assert state() is DeviceState.SUSPENDED


def test_sink_latency_is_frames_mixed_but_not_heard() -> None:
    rig = Rig()
    rig.sink.outlet_latency_ns = 30 * NS_PER_MS
    assert infos.sink_info(rig.door, rig.sink, rig.now_ns)["latency"] == 30_000
    rig.capture(clocked=True)
    rig.run(0.1)
    mixed_ns = rig.graph.position * 1_000_000_000 // 48_000 - rig.now_ns
    assert mixed_ns > 0
    assert infos.sink_info(rig.door, rig.sink, rig.now_ns)["latency"] == 30_000 + mixed_ns // 1000


def test_stream_is_shown_in_its_programs_format() -> None:
    rig = Rig()
    caller = Caller(rig, props={"application.name": b"player\0"})
    made = caller.play(S16, STEREO, tlength=9_600, props={"media.name": b"song\0"}, muted=True, muted_set=True)
    stream = rig.playback_at(made["index"])
    stream.queue.write(bytes(4_800))
    record = infos.sink_input_info(rig.door, stream.node, rig.now_ns)
    subset(
        record, index=made["index"], name="song", client=caller.client_index, sink=rig.sink.id, spec=S16, map=STEREO,
        buffer_usec=50_000, module=rig.door.own_module.index, mute=True, volume=(0x10000, 0x10000), has_volume=True,
        writable=True, corked=False, driver="protocol-native.c", resample_method=stream.resample_method,
    )  # fmt: skip
    assert stream.resample_method and text(record, "media.name") == "song"
    assert text(record, "module-stream-restore.id") == "sink-input-by-application-name:player"
    stream.set_corked(True)
    record = infos.sink_input_info(rig.door, stream.node, rig.now_ns)
    assert record is not None and record["corked"] is True


def test_stream_of_another_door_is_shown_in_graph_format() -> None:
    rig = Rig()
    node = Stream(rig.graph.ids.take(), "film", default_map(2), {"media.role": "movie"}, feed=Tone())
    rig.graph.add_stream(node, rig.sink)
    record = infos.sink_input_info(rig.door, node, rig.now_ns)
    subset(record, client=NO_INDEX, spec=F32, buffer_usec=0, resample_method=None, corked=True, sink_usec=0)
    assert text(record, "module-stream-restore.id") == "sink-input-by-media-role:movie"
    rig.graph.activate(node)
    rig.run(0.1)
    record = infos.sink_input_info(rig.door, node, rig.now_ns)
    assert record is not None and record["corked"] is False
    ahead_ns = rig.graph.ahead(node) * 1_000_000_000 // 48_000
    assert record["sink_usec"] == (ahead_ns + rig.door.monitor_latency_ns(rig.sink, rig.now_ns)) // 1000 > 0


def test_stream_of_another_door_has_its_own_channels() -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.LOAD_MODULE, name="module-sine", argument="")
    (tone,) = client.ask_list(Command.GET_SINK_INPUT_INFO_LIST)
    assert (tone["spec"].channels, len(tone["map"]), len(tone["volume"])) == (1, 1, 1)


def test_source_streams_and_removed_streams_are_not_sink_inputs() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    node = Stream(rig.graph.ids.take(), "voice", default_map(2), feed=Tone())
    rig.graph.add_stream(node, source)
    assert infos.sink_input_info(rig.door, node, rig.now_ns) is None
    rig.graph.move_stream(node, rig.sink)
    assert infos.sink_input_info(rig.door, node, rig.now_ns) is not None
    rig.graph.remove_stream(node)
    assert infos.sink_input_info(rig.door, node, rig.now_ns) is None


def test_recorder_shows_frames_waiting_for_its_client() -> None:
    rig = Rig()
    caller = Caller(rig, props={"application.name": b"recorder\0"})
    made = caller.record(S16, STEREO, fragsize=480, corked=True)
    record = rig.record_at(made["index"])
    record.state.mute, record.state.gains = True, (0.125, 1.0)
    record._queue += bytes(960)
    told = infos.source_output_info(rig.door, record)
    subset(
        told, index=made["index"], name="recorder", client=caller.client_index, source=rig.sink.id,
        spec=S16, map=STEREO, buffer_usec=10_000, corked=True, mute=True, volume=(0x8000, 0x10000),
        module=rig.door.own_module.index,
    )  # fmt: skip
    assert text(told, "module-stream-restore.id") == "source-output-by-application-name:recorder"


def test_client_is_shown_with_its_properties() -> None:
    rig = Rig()
    ours, foreign = Caller(rig, props={"application.name": b"player\0"}), Caller(rig, trusted=False)
    record = infos.client_info(rig.door, ours)
    subset(record, index=ours.client_index, name="player", module=rig.door.own_module.index)
    assert text(record, "native-protocol.peer") == "UNIX socket client"
    assert text(record, "native-protocol.version") == "35"
    assert text(infos.client_info(rig.door, foreign), "native-protocol.peer") == "TCP/IP client"
    ours.props["native-protocol.peer"] = b"mine\0"
    assert text(infos.client_info(rig.door, ours), "native-protocol.peer") == "mine"


def test_module_use_count_is_streams_on_its_devices() -> None:
    rig = Rig()
    caller = Caller(rig)
    caller.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra rate=24000 format=s16le")
    module = next(m for m in rig.door.modules.values() if m.name == "module-null-sink")
    extra = module.mixes[0]
    subset(
        infos.module_info(rig.door, module), index=module.index, name="module-null-sink", users=0,
        argument="sink_name=extra rate=24000 format=s16le",
    )  # fmt: skip
    subset(infos.sink_info(rig.door, extra, rig.now_ns), module=module.index, spec=S16)
    for _ in range(2):
        caller.play(S16, STEREO, sink_name="extra")
    record = infos.module_info(rig.door, module)
    assert record["users"] == 1 and text(record, "module.version") == __version__
    assert text(record, "module.author") == "Millrace" and text(record, "module.description")
    assert infos.module_info(rig.door, rig.door.own_module)["users"] == NO_INDEX


def test_sample_duration_is_in_whole_frames_of_its_rate() -> None:
    fmt = AudioFormat(SampleFormat.S16LE, 24_000, default_map(2))
    record = infos.sample_info(Sample(7, "bell", fmt, bytes(4 * 2_400 + 2), {"a": b"b\0"}))
    subset(
        record, index=7, name="bell", duration=100_000, bytes=9_602, spec=S16, map=STEREO, props={"a": b"b\0"},
        volume=(0x10000, 0x10000), lazy=False, filename=None,
    )  # fmt: skip


def test_default_source_is_named_only_to_clients_that_may_record_it() -> None:
    rig = Rig()
    caller = Caller(rig)
    source = rig.graph.add_source("microphone", "Microphone")
    record = infos.server_info(caller, "user", "host", "1.2.3")
    subset(
        record, package="PulseAudio (on Millrace 1.2.3)", version="16.1", user="user", host="host", spec=F32,
        map=STEREO, default_sink="millrace", default_source="microphone", cookie=0x00010203,
    )  # fmt: skip
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    assert infos.server_info(caller, "user", "host", "1.2.3")["default_source"] == "millrace.monitor"
    rig.graph.remove_source(source)
    assert infos.server_info(caller, "user", "host", "1.2.3")["default_source"] == "millrace.monitor"


@pytest.mark.parametrize("gain", [0.0, 1.0, 1e30])
def test_levels_are_clamped_to_protocol_range(gain: float) -> None:
    rig = Rig()
    rig.graph.set_gains(rig.sink, (gain,))
    volume = infos.sink_info(rig.door, rig.sink, rig.now_ns)["volume"]
    assert all(0 <= one <= 0x7FFFFFFF for one in volume) and np.isfinite(volume).all()


def test_texts_are_truncated_for_display_only() -> None:
    rig, long = Rig(), "n" * 60_000
    given = {"application.name": long.encode() + b"\0", "media.name": long.encode() + b"\0"}
    caller = Caller(rig, props=dict(given))
    stream = caller.play(S16, STEREO, props=given | {"media.role": long.encode() + b"\0"})
    recorder = caller.record(S16, STEREO, props=given)
    assert caller.ask(
        Command.LOAD_MODULE, name="module-null-sink",
        argument=f"sink_name=long sink_properties=device.description={long[:9000]}",
    )  # fmt: skip
    playing, recording = rig.stream_at(stream["index"]), rig.record_at(recorder["index"]).node
    for _ in range(2):
        for node in (playing, recording):
            assert len(node.name) == 200 and max(map(len, node.props.values())) == 256
        made = infos.sink_input_info(rig.door, playing, rig.now_ns)
        assert made is not None and made["name"] == text(made, "media.name") and len(made["name"]) == len(long)
        record = infos.source_output_info(rig.door, rig.door.records[recording.id])
        assert record is not None and record["name"] == text(record, "media.name") and len(record["name"]) == len(long)
        long = "m" * 50_000
        assert caller.ask(Command.SET_PLAYBACK_STREAM_NAME, channel=stream["channel"], name=long) == {}
        assert caller.ask(Command.SET_RECORD_STREAM_NAME, channel=recorder["channel"], name=long) == {}
    assert len(caller.name) == 200 and len(infos.client_info(rig.door, caller)["name"]) == 60_000
    sink = next(sink for sink in rig.graph.sinks.values() if sink.name == "long")
    whole = text(infos.sink_info(rig.door, sink, rig.now_ns), "device.description")
    assert len(sink.description) == 200 and len(whole) == 9000


def test_buffered_time_of_a_stream_that_seeks_far_ahead_fits_into_the_reply() -> None:
    rig = Rig()
    client = rig.client()
    client.play(Spec(SampleFormat.U8, 1, 1), (0,), b"\x80" * 4)
    rig.run(0.02)
    (stream,) = client.server.streams.values()
    client.server.receive(HEADER.pack(1, stream.channel, 0x7FFFFFFF, 0xFFFFFF00, 1) + b"\x80", rig.now_ns)
    assert stream.queue.length >= 2**62
    shown = infos.sink_input_info(client.server.door, stream.node, rig.now_ns)
    assert shown is not None and shown["buffer_usec"] == stream.attr.maxlength * 1_000_000


def test_position_of_a_stream_that_seeks_on_and_on_fits_into_replies() -> None:
    rig = Rig()
    caller = Caller(rig)
    answer = caller.play(Spec(SampleFormat.U8, 1, 1), (0,))
    (stream,) = caller.streams.values()
    for offset in (1, -1, -1):
        for _ in range(3):
            stream.write(0, offset * ((1 << 63) - 1), b"\x80")
        fields = caller.ask(Command.GET_PLAYBACK_LATENCY, channel=answer["channel"], time=(0, 0))
        assert abs(fields["write_index"]) < 1 << 63
        msgspec.msgpack.encode(stream.queue.freeze())
