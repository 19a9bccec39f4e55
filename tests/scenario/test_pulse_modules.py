"""Modules that do more than create sinks: loopbacks, tones, following defaults; and what the log says about them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from millrace.daemon.app import Daemon
from millrace.doors.pulse.modkinds import KINDS, NOT_SERVED
from millrace.dsp.convert import SampleFormat
from millrace.dsp.measure import frequency_hz
from millrace.sim.rig import Rig
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.nativebus import running
from tests.scenario.pulseobjects import burst, inputs, modules, sink
from tests.scenario.pulseviews import load, sinks_of, sources_of

from .test_pulse_restore import Program

# -- tones, and sinks and sources made of others -------------------------------------------------


def test_tone_is_heard_on_its_sink_and_ends_with_its_stream() -> None:
    rig = Rig()
    client = rig.client()
    index = load(client, "module-sine", "frequency=1000")
    (tone,) = inputs(client)
    assert (tone["module"], tone["name"]) == (index, "1000 Hz Sine")
    capture = rig.capture()
    rig.run(1)
    sound = capture.sound[4800:40_000, 0]
    assert round(frequency_hz(sound, 48_000)) == 1000 and round(float(sound.max()), 3) == 0.5
    client.ask(Command.SUSPEND_SINK, index=rig.sink.id, name=None, suspend=True)
    rig.run(1)
    assert not rig.graph.running
    client.ask(Command.SUSPEND_SINK, index=rig.sink.id, name=None, suspend=False)
    assert rig.stream_at(tone["index"]).active
    client.ask(Command.KILL_SINK_INPUT, index=tone["index"])
    assert "module-sine" not in modules(client)
    rig.run(1)
    assert not rig.graph.running


def test_sine_source_plays_while_recorded_and_is_no_sink_input() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-sine-source", "source_name=tone frequency=500 rate=44100")
    assert sources_of(client)["tone"]["spec"] == Spec(SampleFormat.F32LE, 1, 44_100)
    rig.run(1)
    assert not rig.graph.running and not inputs(client)
    spec = Spec(SampleFormat.F32LE, 1, 48_000)
    channel = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, (0,), source_name="tone"))["channel"]
    rig.run(1)
    sound = np.frombuffer(bytes(client.recorded[channel]), np.float32)[4800:40_000]
    assert round(frequency_hz(sound, 48_000)) == 500
    client.ask(Command.DELETE_RECORD_STREAM, channel=channel)
    rig.run(1)
    assert not rig.graph.running


def test_virtual_devices_are_named_after_masters_and_heard_through_them() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-virtual-sink", "use_volume_sharing=no")
    load(client, "module-virtual-source", "master=millrace.monitor")
    assert sinks_of(client)["millrace.vsink"]["description"] == "Virtual Sink millrace.vsink on millrace"
    assert "millrace.monitor.vsource" in sources_of(client)
    here, there = rig.capture(), rig.capture(sink(rig, "millrace.monitor.vsource"))
    burst(client, "millrace.vsink")
    rig.run(1)
    assert len(here.trimmed()) == len(there.trimmed()) == 4800


# -- defaults that follow ------------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "virtual"), [("", False), ("ignore_virtual=no", True)])
def test_switch_on_connect_makes_new_devices_the_default(argument: str, virtual: bool) -> None:
    rig = Rig()
    client = rig.client()
    index = load(client, "module-switch-on-connect", argument)
    load(client, "module-null-sink", "sink_name=made")
    assert rig.sink.name == ("made" if virtual else "millrace")
    rig.graph.add_sink("hall")
    rig.graph.add_source("line", "Line")
    assert (rig.sink.name, rig.door.recorded_by_default().name) == ("hall", "line")
    client.ask(Command.UNLOAD_MODULE, index=index)
    rig.graph.add_sink("cellar")
    assert rig.sink.name == "hall"


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("module-rescue-streams", ""),
        ("module-suspend-on-idle", "timeout=5"),
        ("module-card-restore", ""),
        ("module-remap-sink", "resample_method=copy"),
        ("module-loopback", "source=millrace.monitor adjust_time=3"),
    ],
)
def test_loading_builtin_behaviour_succeeds_and_unused_argument_is_noted(name: str, argument: str) -> None:
    rig = Rig()
    load(rig.client(), name, argument)
    idle = [key for key in KINDS[name].idle if f"{key}=" in argument]
    assert [
        line.startswith(f"{name} {key} has no effect: ") for key, line in zip(idle, rig.modules_told, strict=True)
    ] == [True for _ in idle]


def test_refusal_says_why_and_what_to_do_untruncated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(daemon: Daemon) -> None:
        program = Program(daemon)
        for name in ("module-nonsense", *NOT_SERVED):
            await program.ask(Command.LOAD_MODULE, name=name, argument="")
        await program.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=x nonsense=1")

    with caplog.at_level(logging.WARNING):
        running(tmp_path, test)
    lines = [record.getMessage() for record in caplog.records if "was not loaded" in record.getMessage()]
    assert len(lines) == len(NOT_SERVED) + 2
    assert all(name in lines[0] for name in KINDS) and "…" not in "".join(lines)
    for line, (name, why) in zip(lines[1:], NOT_SERVED.items(), strict=False):
        assert line.endswith(f"module {name} was not loaded: {why}")


# -- recorders of few frames ---------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "glide"), [(1, False), (25, False), (999, True)])
def test_low_rate_recorder_gets_the_mean_of_each_period(rate: int, glide: bool) -> None:
    rig = Rig()
    client = rig.client()
    spec = Spec(SampleFormat.F32LE, 1, rate)
    fields = record_fields(spec, (0,), source_name="millrace.monitor", variable_rate=glide)
    reply = client.ask(Command.CREATE_RECORD_STREAM, **fields)
    burst(client, "millrace", seconds=5)
    rig.run(5)
    heard = np.frombuffer(bytes(client.recorded[reply["channel"]]), np.float32)
    assert abs(len(heard) - 5 * rate) <= max(1, rate // 10) and round(float(heard[len(heard) // 2]), 2) == 0.5
    index = client.ask(Command.UPDATE_RECORD_STREAM_SAMPLE_RATE, channel=reply["channel"], rate=48_000)
    assert index == {}
    rig.run(0.5)
    client.ask(Command.UPDATE_RECORD_STREAM_SAMPLE_RATE, channel=reply["channel"], rate=2)
    assert (
        client.error(Command.CREATE_RECORD_STREAM, **record_fields(Spec(SampleFormat.F32LE, 1, 0), (0,))) == Err.INVALID
    )
