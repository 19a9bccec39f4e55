"""Loopback modules: what they hear, where they play, and how late."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Capture, Rig
from millrace.units import NS_PER_MS
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.scenario.pulseobjects import F32, burst, inputs, modules, outputs, sink
from tests.scenario.pulseviews import load, sinks_of


def edges(capture: Capture) -> tuple[int, int]:
    """The first and the last frame of a burst."""
    loud = [
        position + at
        for block, position in zip(capture.blocks, capture.positions, strict=True)
        for at in np.flatnonzero(block[:, 0] > 0.25)
    ]
    return loud[0], loud[-1]


def test_loopback_is_a_recorder_and_stream_in_requested_format() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    asked = "format=u8 rate=22050 channels=1 sink_input_properties=a.b=c source_output_properties=media.name=X"
    first = load(client, "module-loopback", f"source=under.monitor sink=millrace {asked}")
    second = load(client, "module-loopback", "source=under.monitor sink=millrace")
    assert [one["module"] for one in inputs(client)] == [one["module"] for one in outputs(client)] == [first, second]
    played, heard = inputs(client)[0], outputs(client)[0]
    assert played["spec"] == heard["spec"] == Spec(SampleFormat.U8, 1, 22_050)
    assert (played["client"], played["sink"]) == (NO_INDEX, rig.door.sink_indexes.of(rig.sink))
    assert (heard["client"], heard["source"]) == (NO_INDEX, rig.door.source_indexes.of(sink(rig, "under")))
    assert played["props"]["a.b"] == b"c\0" and played["props"]["media.role"] == b"abstract\0"
    assert played["name"] == "Loopback from Monitor of Null Output" and heard["name"] == "X"
    assert played["resample_method"] is not None and inputs(client)[1]["resample_method"] is None


@pytest.mark.parametrize(("argument", "latency_ms"), [("latency_msec=40", 40), ("", 200), ("latency_msec=1000", 1000)])
def test_loopback_plays_completely_at_its_latency_and_becomes_idle(argument: str, latency_ms: int) -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    load(client, "module-loopback", f"source=under.monitor sink=millrace {argument}")
    before, after = rig.capture(sink(rig, "under")), rig.capture()
    for _ in range(2):
        burst(client, "under")
        rig.run(4)
        assert not rig.graph.running, "an idle graph stops"
    late_ms = (after.began() - before.began()) / 48
    assert latency_ms <= late_ms < latency_ms + 45
    assert np.array_equal(before.trimmed()[:4800], after.trimmed()[:4800])
    assert np.count_nonzero(before.sound) == np.count_nonzero(after.sound)
    assert not rig.troubles


@pytest.mark.parametrize("form", ["", "rate=44100", "rate=47999"])
def test_loopback_latency_does_not_drift(form: str) -> None:
    """Neither in continuous playback, nor over pauses, nor when the machine stalls."""
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    load(client, "module-loopback", f"source=under.monitor sink=millrace latency_msec=40 {form}")
    dice, late_ms = random.Random(1), []
    for number in range(16):
        before, after = rig.capture(sink(rig, "under")), rig.capture()
        seconds = 8.0 if number == 6 else dice.uniform(0.03, 0.3)
        burst(client, "under", seconds)
        rig.run(0.1)
        if number % 3 == 2:
            rig.stall(dice.uniform(20, 1500))
        rig.run(seconds + dice.uniform(0.3, 1.0))
        for tap in [tap for tap in rig.graph.taps.values() if tap.consumer in (before, after)]:
            rig.graph.remove_tap(tap)
        late_ms += [(b - a) / 48 for a, b in zip(edges(before), edges(after), strict=True)]
    assert late_ms[12] == pytest.approx(late_ms[13], abs=0.05), "throughout the long one"
    assert all(40 <= late < 40 + 25 for late in late_ms), late_ms
    assert not any(stream.queue.length for stream in rig.door.playback.values())


@pytest.mark.parametrize("form", ["", "rate=44100", "rate=8000 format=u8", "rate=96000"])
def test_low_latency_loopback_requests_no_shorter_cycles_than_useful(form: str) -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    load(client, "module-loopback", f"source=under.monitor sink=millrace latency_msec=1 {form}")
    before, after = rig.capture(sink(rig, "under")), rig.capture()
    burst(client, "under", 3)
    rig.run(1)
    assert rig.graph.quantum_ns == 5 * NS_PER_MS
    rig.run(4)
    assert 10 <= (after.began() - before.began()) / 48 <= 15
    assert not rig.troubles


def test_loopback_is_leveled_moved_and_killed_like_any_stream() -> None:
    rig = Rig()
    client = rig.client()
    for name in ("under", "aside"):
        load(client, "module-null-sink", f"sink_name={name}")
    load(client, "module-loopback", "source=under.monitor latency_msec=20")
    here, there = rig.capture(), rig.capture(sink(rig, "aside"))
    played, heard = inputs(client)[0]["index"], outputs(client)[0]["index"]
    client.ask(Command.SET_SINK_INPUT_VOLUME, index=played, volume=(0x8000, 0x8000))
    client.ask(Command.SET_SOURCE_OUTPUT_VOLUME, index=heard, volume=(0x8000, 0x8000))
    burst(client, "under")
    rig.run(1)
    assert np.allclose(here.trimmed()[2000], 0.5 / 64, atol=1e-4)
    client.ask(Command.SET_SOURCE_OUTPUT_MUTE, index=heard, mute=True)
    for _ in range(2):
        here.blocks.clear()
        burst(client, "under")
        rig.run(1)
    assert not here.sound.any()
    client.ask(Command.SET_SOURCE_OUTPUT_MUTE, index=heard, mute=False)
    client.ask(Command.MOVE_SINK_INPUT, index=played, sink_index=NO_INDEX, sink_name="aside")
    burst(client, "under")
    rig.run(1)
    assert not here.sound.any() and there.sound.any()
    client.ask(Command.MOVE_SOURCE_OUTPUT, index=heard, source_index=NO_INDEX, source_name="millrace.monitor")
    client.ask(Command.SET_SOURCE_MUTE, index=NO_INDEX, name="millrace.monitor", mute=True)
    for _ in range(2):
        there.blocks.clear()
        burst(client, "millrace")
        rig.run(1)
    assert not there.sound.any(), "the source's level applies after the move too"
    client.ask(Command.SET_SOURCE_MUTE, index=NO_INDEX, name="millrace.monitor", mute=False)
    burst(client, "millrace")
    rig.run(1)
    assert there.sound.any()
    assert outputs(client)[0]["source"] == rig.sink.id
    client.ask(Command.KILL_SOURCE_OUTPUT, index=heard)
    assert "module-loopback" not in modules(client) and not outputs(client)
    assert played not in [one["index"] for one in inputs(client)]
    load(client, "module-loopback", "source=under.monitor")
    client.ask(Command.KILL_SINK_INPUT, index=inputs(client)[-1]["index"])
    assert "module-loopback" not in modules(client) and not outputs(client)


def test_loopback_may_be_loaded_but_not_moved_to_hear_itself() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    index = load(client, "module-loopback", "source=millrace.monitor sink=millrace latency_msec=100")
    client.ask(Command.SET_SINK_INPUT_VOLUME, index=inputs(client)[0]["index"], volume=(0x8000, 0x8000))
    capture = rig.capture()
    burst(client, "millrace", 0.05)
    rig.run(3)
    tops = sorted({round(float(block.max()), 3) for block in capture.blocks if block.max() > 1e-3}, reverse=True)
    assert tops[:2] == [0.5, 0.062], "an echo at an eighth"
    client.ask(Command.UNLOAD_MODULE, index=index)
    load(client, "module-loopback", "source=under.monitor")
    played, heard = inputs(client)[-1]["index"], outputs(client)[-1]["index"]
    to_sink: dict[str, Any] = {"index": played, "sink_index": NO_INDEX, "sink_name": "under"}
    to_source: dict[str, Any] = {"index": heard, "source_index": NO_INDEX, "source_name": "millrace.monitor"}
    assert client.error(Command.MOVE_SINK_INPUT, **to_sink) == Err.INVALID
    assert client.error(Command.MOVE_SOURCE_OUTPUT, **to_source) == Err.INVALID
    client.ask(Command.SET_DEFAULT_SINK, name="under")
    assert inputs(client)[-1]["sink"] == rig.stream_at(played).sink.id == sink(rig, "millrace").id
    # It is unloaded with its source, because on the default source it would record its own output.
    client.ask(Command.SET_DEFAULT_SINK, name="millrace")
    under = next(m for m in client.ask_list(Command.GET_MODULE_INFO_LIST) if m["argument"] == "sink_name=under")
    client.ask(Command.UNLOAD_MODULE, index=under["index"])
    assert "module-loopback" not in modules(client) and not outputs(client)


@pytest.mark.parametrize(
    "made", ["module-null-source source_name=s", "module-remap-source source_name=s master=a.monitor"]
)
def test_recorders_of_removed_source_continue_on_default_source(made: str) -> None:
    rig = Rig()
    client = rig.client()
    for name in ("a", "b"):
        load(client, "module-null-sink", f"sink_name={name}")
    index = load(client, *made.split(" ", 1))
    load(client, "module-loopback", "source=s sink=b")
    for argument in ("source=s sink=b source_dont_move=yes", "source=s sink=millrace"):
        load(client, "module-loopback", argument)
    recorder = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(F32, (1, 2), source_name="s"))
    client.ask(Command.UNLOAD_MODULE, index=index)
    # One may not be moved, and one would record its own output: these two end.
    assert modules(client).count("module-loopback") == 1 and len(inputs(client)) == 1
    assert [one["source"] for one in outputs(client)] == [rig.door.source_indexes.of(rig.sink)] * 2
    assert [told["channel"] for told in client.named(Command.RECORD_STREAM_MOVED)] == [recorder["channel"]]
    heard = rig.capture(sink(rig, "b"))
    burst(client, "millrace")
    rig.run(2)
    assert np.count_nonzero(heard.sound) == 2 * 4800
    # The source that they named is gone, so they follow the default from now on.
    client.ask(Command.SET_DEFAULT_SOURCE, name="a.monitor")
    assert [one["source"] for one in outputs(client)] == [rig.door.source_indexes.of(sink(rig, "a"))] * 2


def test_recording_module_without_permission_for_default_source_ends() -> None:
    rig = Rig()
    client = rig.client()
    microphone = rig.graph.add_source("microphone", "Microphone")
    rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.ALLOW)
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
    load(client, "module-null-sink", "sink_name=under")
    index = load(client, "module-remap-source", "source_name=s master=under.monitor")
    load(client, "module-loopback", "source=s")
    client.ask(Command.CREATE_RECORD_STREAM, **record_fields(F32, (1, 2), source_name="s"))
    client.ask(Command.UNLOAD_MODULE, index=index)
    assert client.named(Command.RECORD_STREAM_KILLED) and not outputs(client)
    assert "module-loopback" not in modules(client) and not microphone.taps


def test_loopback_without_its_sink_ends_if_it_would_hear_itself() -> None:
    rig = Rig()
    client = rig.client()
    a, b = (load(client, "module-null-sink", f"sink_name={name}") for name in ("a", "b"))
    load(client, "module-loopback", "source=a.monitor sink=b")
    client.ask(Command.UNLOAD_MODULE, index=a)
    assert [one["source"] for one in outputs(client)] == [rig.door.source_indexes.of(rig.sink)]
    client.ask(Command.UNLOAD_MODULE, index=b)
    assert "module-loopback" not in modules(client) and not outputs(client) and not inputs(client)


def test_unloading_completes_though_its_client_leaves() -> None:
    """Also, if two sinks are removed at once, nothing is left even if streams of one would have moved to the other."""
    rig = Rig()
    client, other = rig.client(), rig.client()
    a, b = (load(client, "module-null-sink", f"sink_name={name}") for name in ("a", "b"))
    client.ask(Command.SET_DEFAULT_SINK, name="b")
    for _ in range(20):
        other.play(F32, (1, 2), sink_name="a")
    client.server.over = lambda: True
    client.send(Command.UNLOAD_MODULE, index=a)
    at_b = len([one for one in inputs(other) if one["sink"] == rig.door.sink_indexes.of(sink(rig, "b"))])
    assert 0 < at_b < 20 and client.server.unfinished
    other.ask(Command.UNLOAD_MODULE, index=b)
    rig.clients.remove(client)
    while not client.server.closed():
        pass
    assert list(rig.door.clients) == [other.server.index]
    assert list(sinks_of(other)) == ["millrace"] and modules(other).count("module-null-sink") == 0
    assert [one["sink"] for one in inputs(other)] == [rig.door.sink_indexes.of(rig.sink)] * 20 and not rig.graph.leaving


def test_loopback_hears_only_what_its_loader_may_record() -> None:
    rig = Rig()
    rig.graph.add_source("microphone", "Microphone")
    client, other = rig.client(), rig.client()
    load(client, "module-null-sink", "sink_name=under")
    load(client, "module-loopback", "source=under.monitor")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    move: dict[str, Any] = {"index": outputs(client)[0]["index"], "source_index": NO_INDEX}
    assert other.error(Command.MOVE_SOURCE_OUTPUT, **move, source_name="microphone") == Err.ACCESS
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.ALLOW)
    other.ask(Command.MOVE_SOURCE_OUTPUT, **move, source_name="microphone")
    rig.admission.enforce()
    assert "module-loopback" in modules(client)
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    rig.admission.enforce()
    assert "module-loopback" not in modules(client)


def test_long_loopback_is_charged_to_guest_and_released() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=under")
    before = rig.graph.budget.held
    loaded = []
    while True:
        tag = client.send(
            Command.LOAD_MODULE, name="module-loopback", argument="source=under.monitor latency_msec=30000"
        )
        reply = client.replies[tag]
        if not hasattr(reply, "records"):
            break
        loaded.append(reply.records[0]["index"])
    assert loaded and len(inputs(client)) == len(outputs(client)) == len(loaded)
    for index in loaded:
        client.ask(Command.UNLOAD_MODULE, index=index)
    assert rig.graph.budget.held == before and not rig.door.made_by
