"""Modules that create sinks and sources: what they make of their arguments, and what is heard through them."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Sink
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.scenario.pulseviews import load, quiet_recorder, sinks_of, sources_of


def played(rig: Rig, client: RigClient, sink: str, *heard: Sink, positions: int = 2) -> list[np.ndarray]:
    """Play a constant on one sink; returns the last frame at each of some sinks, None for silence."""
    captures = [rig.capture(one) for one in heard]
    spec = Spec(SampleFormat.F32LE, positions, 48_000)
    levels = np.arange(1, positions + 1, dtype=np.float32) / 10
    tone = np.tile(levels, (24_000, 1))
    player = client.play(spec, tuple(range(1, positions + 1)), tone.tobytes(), sink_name=sink, tlength=9600)
    rig.run(0.4)
    frames = [capture.sound[-2000] for capture in captures]
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    rig.run(0.5)
    return frames


def test_null_sink_follows_its_arguments_and_is_removed_on_unload() -> None:
    rig = Rig()
    client = rig.client()
    argument = "sink_name=a rate=44100 format=u8 channel_map=surround-40 sink_properties=device.description=O'Brien"
    index = load(client, "module-null-sink", argument)
    made = sinks_of(client)["a"]
    assert made["description"] == "O'Brien" and made["props"]["device.description"] == b"O'Brien\0"
    assert made["spec"] == Spec(SampleFormat.U8, 4, 44_100) and made["module"] == index
    assert [module["argument"] for module in client.ask_list(Command.GET_MODULE_INFO_LIST)][-1] == argument
    load(client, "module-null-sink", "sink_name=a")
    load(client, "module-null-sink", "sink_name=with/slash")
    assert list(sinks_of(client)) == ["millrace", "a", "a.2", "with_slash"]
    client.ask(Command.UNLOAD_MODULE, index=index)
    assert list(sinks_of(client)) == ["millrace", "a.2", "with_slash"]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("module-null-sink", "nonsense=1"),
        ("module-null-sink", "sink_name=x sink_name=y"),
        ("module-null-sink", "sink_name=x channels=4 channel_map=stereo"),
        ("module-null-sink", "sink_name="),
        ("module-null-sink", "sink_name=x sink_properties='open"),
        ("module-null-sink", "sink_name=x sink_properties=device.description"),
        ("module-combine-sink", "sink_name=x slaves=millrace,nowhere"),
        ("module-combine-sink", "slaves=millrace sinks=millrace"),
        ("module-remap-sink", "master=nowhere"),
        ("module-remap-sink", "sink_name=x channels=2 master_channel_map=surround-40"),
        ("module-remap-source", "master=nowhere"),
        ("module-loopback", "source=nowhere"),
        ("module-loopback", "latency_msec=0"),
        ("module-loopback", "sink=millrace sink_properties=a.b=c"),
        ("module-virtual-source", "master=millrace.monitor uplink_sink=x"),
        ("module-sine", "frequency=0"),
        ("module-sine", "frequency=30000"),
        ("module-null-sink", "formats=ac3-iec61937"),
        ("module-stream-restore", "fallback_table=/etc/passwd"),
        ("module-switch-on-connect", "blacklist=(a+)+$"),
        ("module-pipe-sink", "file=/tmp/x"),
        ("module-echo-cancel", ""),
        ("module-native-protocol-unix", "socket=/tmp/elsewhere"),
        ("module-native-protocol-unix", "auth-anonymous=1"),
        ("module-always-sink", ""),
        ("module-nonsense", ""),
    ],
)
def test_module_with_impossible_arguments_fails_and_leaves_nothing(name: str, argument: str) -> None:
    rig = Rig()
    client = rig.client()
    before = sinks_of(client), sources_of(client), client.ask_list(Command.GET_MODULE_INFO_LIST)
    assert client.error(Command.LOAD_MODULE, name=name, argument=argument) == Err.MODINITFAILED
    assert (sinks_of(client), sources_of(client), client.ask_list(Command.GET_MODULE_INFO_LIST)) == before
    assert not rig.sink.links
    assert len(rig.modules_told) == 1 and rig.modules_told[0].startswith(f"{name} {argument}".rstrip() + ": ")


def test_builtin_modules_are_listed_and_protocol_loads_again() -> None:
    client = Rig().client()
    names = {module["name"] for module in client.ask_list(Command.GET_MODULE_INFO_LIST)}
    assert {"module-native-protocol-unix", "module-always-sink"} <= names
    client.ask(Command.UNLOAD_MODULE, index=load(client, "module-native-protocol-unix"))
    for module in client.ask_list(Command.GET_MODULE_INFO_LIST):
        if module["name"] in ("module-millrace", "module-native-protocol-unix"):
            assert client.error(Command.UNLOAD_MODULE, index=module["index"]) == Err.ACCESS


def test_remapped_sink_swaps_channels_and_remixes_only_if_allowed() -> None:
    rig = Rig()
    client = rig.client()
    swapped = "sink_name=swap master=millrace channel_map=left,right master_channel_map=right,left"
    first = load(client, "module-remap-sink", swapped)
    made = sinks_of(client)["swap"]
    assert made["props"]["device.master_device"] == b"millrace\0" and made["description"].startswith("Remapped ")
    (frame,) = played(rig, client, "swap", rig.sink)
    assert np.allclose(frame, [0.2, 0.1], atol=1e-3)
    client.ask(Command.UNLOAD_MODULE, index=first)
    load(client, "module-remap-sink", "sink_name=quad channel_map=surround-40 remix=no")
    (frame,) = played(rig, client, "quad", rig.sink)
    assert np.allclose(frame, [0.1, 0.2], atol=1e-3)
    assert "millrace.remapped" not in sinks_of(client)
    load(client, "module-remap-sink")
    assert "millrace.remapped" in sinks_of(client)


def test_loopback_and_remapped_source_hear_their_source_at_its_level() -> None:
    rig = Rig()
    client = rig.client()
    under = load(client, "module-null-sink", "sink_name=under")
    load(client, "module-loopback", "source=under.monitor sink=millrace latency_msec=20")
    load(
        client, "module-remap-source", "source_name=lone master=under.monitor channel_map=mono master_channel_map=left"
    )
    lone = next(source for source in rig.graph.sources.values() if source.name == "lone")
    here, mono = played(rig, client, "under", rig.sink, lone)
    assert np.allclose(here, [0.1, 0.2], atol=1e-3) and np.allclose(mono, [0.1], atol=1e-3)
    client.ask(Command.SET_SOURCE_VOLUME, index=NO_INDEX, name="under.monitor", volume=(0x8000, 0x8000))
    here, mono = played(rig, client, "under", rig.sink, lone)
    assert np.allclose(here, [0.0125, 0.025], atol=1e-3) and np.allclose(mono, [0.0125], atol=1e-3)
    client.ask(Command.UNLOAD_MODULE, index=under)
    names = [module["name"] for module in client.ask_list(Command.GET_MODULE_INFO_LIST)]
    assert "module-loopback" not in names and "module-remap-source" not in names
    assert "lone" not in sources_of(client) and not rig.sink.links


def test_null_source_is_silent_and_keeps_recorder_running() -> None:
    rig = Rig()
    client = rig.client()
    index = load(client, "module-null-source", "source_name=quiet channels=1")
    recorder = client.ask(Command.CREATE_RECORD_STREAM, **quiet_recorder())
    rig.run(1.0)
    assert len(client.recorded[recorder["channel"]]) > 80_000 and not any(client.recorded[recorder["channel"]])
    client.ask(Command.UNLOAD_MODULE, index=index)
    assert [one["index"] for one in client.named(Command.RECORD_STREAM_MOVED)] == [rig.sink.id]


def test_combined_sinks_deliver_sound_once() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-combine-sink", "sink_name=one")
    load(client, "module-combine-sink", "sink_name=two")
    for name in ("one", "two"):
        (frame,) = played(rig, client, name, rig.sink)
        assert np.allclose(frame, [0.1, 0.2], atol=1e-3), name
    load(client, "module-null-sink", "sink_name=aside")
    load(client, "module-combine-sink", "sink_name=whole")
    aside = next(sink for sink in rig.graph.sinks.values() if sink.name == "aside")
    near, there = played(rig, client, "whole", rig.sink, aside)
    assert np.allclose(near, [0.1, 0.2], atol=1e-3) and not there.any(), "sinks of modules are included only if named"
    # If named, combined sinks may be slaves of each other; each final sink still gets the sound once.
    load(client, "module-null-sink", "sink_name=far")
    far = next(sink for sink in rig.graph.sinks.values() if sink.name == "far")
    for name, slaves in (
        ("three", "millrace,one,far"),
        ("four", "one,two"),
        ("five", "three,four,far"),
        ("six", "far,far"),
    ):
        load(client, "module-combine-sink", f"sink_name={name} slaves={slaves}")
        near, there = played(rig, client, name, rig.sink, far)
        assert np.allclose(near, 0 if name == "six" else [0.1, 0.2], atol=1e-3), name
        assert np.allclose(there, 0 if name == "four" else [0.1, 0.2], atol=1e-3), name


def test_recording_module_needs_its_loaders_grant() -> None:
    rig = Rig()
    rig.graph.add_source("microphone", "Microphone")
    client = rig.client()
    load(client, "module-remap-source", "master=microphone source_name=mine")
    load(client, "module-loopback", "source=microphone sink=millrace")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    rig.admission.enforce()
    assert "mine" not in sources_of(client) and not next(iter(rig.graph.sources.values())).links
    for argument in ("module-remap-source master=microphone", "module-loopback source=microphone sink=millrace"):
        name, _, rest = argument.partition(" ")
        assert client.error(Command.LOAD_MODULE, name=name, argument=rest) == Err.ACCESS
    # A source derived from a monitor counts as a monitor.
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.ALLOW)
    load(client, "module-remap-source", "master=millrace.monitor source_name=quiet channels=1 master_channel_map=left")
    rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    assert client.error(Command.CREATE_RECORD_STREAM, **quiet_recorder()) == Err.ACCESS
