"""Recording one stream of a sink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig, RigClient
from millrace.sim.signals import count, sine
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.pulsesound import FRAME, S16, STEREO, constant, ms, s16

# -- one stream of a sink ----------------------------------------------------------------------


def record_one(client: RigClient, index: int, **changes: Any) -> dict[str, Any]:
    fields = record_fields(S16, STEREO, fragsize=ms(10), direct_on_input=index, **changes)
    return client.ask(Command.CREATE_RECORD_STREAM, **fields)


def recorded(client: RigClient, reply: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(bytes(client.recorded.get(reply["channel"], b"")), "<i2").reshape(-1, 2)


def test_one_stream_is_recorded_bit_for_bit_while_others_play() -> None:
    rig = Rig()
    player, noise, client = rig.client(), rig.client(), rig.client()
    signal = count(24_000)
    own = player.play(S16, STEREO, s16(signal), corked=True)
    noise.play(S16, STEREO, s16(sine(2.0)))
    reply = record_one(client, own.index)
    assert reply["source_name"] == rig.sink.name + ".monitor"
    rig.run(0.2)
    player.ask(Command.CORK_PLAYBACK_STREAM, channel=own.channel, cork=False)
    own.drain()
    rig.run(1.0)
    got = recorded(client, reply)
    assert np.array_equal(got[got.any(axis=1)], np.frombuffer(s16(signal), "<i2").reshape(-1, 2))
    # It records silence while the stream does not play, as many frames as a monitor would.
    assert abs(len(got) - 1.2 * 48_000) < 4_800


def test_stream_monitor_has_stream_volume_and_not_sink_volume() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, constant(0.5, 0.5, frames=96_000), prebuf=FRAME)
    reply = record_one(client, player.index)
    client.ask(Command.SET_SINK_VOLUME, index=rig.sink.id, name=None, volume=(0x8000, 0x8000))
    rig.run(0.3)
    assert recorded(client, reply)[-1, 0] / 32768 == pytest.approx(0.5, abs=0.001)
    client.ask(Command.SET_SINK_INPUT_VOLUME, index=player.index, volume=(0x8000, 0x8000))
    rig.run(0.3)
    got = recorded(client, reply)[:, 0] / 32768
    assert got[-1] == pytest.approx(0.5 / 8, abs=0.001) and np.abs(np.diff(got[1_000:])).max() < 0.01
    client.ask(Command.SET_SINK_INPUT_MUTE, index=player.index, mute=True)
    rig.run(0.3)
    assert not recorded(client, reply)[-1_000:].any()


def test_stream_meter_shows_only_its_own_peaks() -> None:
    rig = Rig()
    client = rig.client()
    quiet = client.play(S16, STEREO, s16(sine(3.0, level=0.25)), prebuf=FRAME)
    client.play(S16, STEREO, s16(sine(3.0, level=0.5)), prebuf=FRAME)
    meter = Spec(SampleFormat.F32LE, 1, 25)
    fields = record_fields(meter, (0,), fragsize=4, peak_detect=True, adjust_latency=True, direct_on_input=quiet.index)
    reply = client.ask(Command.CREATE_RECORD_STREAM, **fields | {"source_name": rig.sink.name + ".monitor"})
    rig.run(1.0)
    peaks = np.frombuffer(bytes(client.recorded[reply["channel"]]), "<f4")
    assert len(peaks) >= 20 and peaks[-10:] == pytest.approx([0.25] * 10, abs=0.01)


def test_stream_monitor_follows_and_ends_with_its_stream_and_can_not_be_moved() -> None:
    rig = Rig()
    client = rig.client()
    other = rig.graph.add_sink("other")
    player = client.play(S16, STEREO, s16(sine(3.0)), prebuf=FRAME)
    reply = record_one(client, player.index)
    where = {"index": reply["index"], "source_index": rig.door.source_indexes.of(other), "source_name": None}
    assert client.error(Command.MOVE_SOURCE_OUTPUT, **where) == Err.INVALID
    client.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=rig.door.sink_indexes.of(other), sink_name=None)
    assert [m["name"] for m in client.named(Command.RECORD_STREAM_MOVED)] == ["other.monitor"]
    rig.run(0.3)
    assert recorded(client, reply)[-1_000:].any()
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    assert client.named(Command.RECORD_STREAM_KILLED) == [{"channel": reply["channel"]}]
    assert not rig.graph.taps and not rig.door.records


def test_only_existing_stream_is_recorded_and_only_with_permission_for_its_sink() -> None:
    rig = Rig()
    client = rig.client()
    other = rig.graph.add_sink("other")
    player = client.play(S16, STEREO)
    gone = record_fields(S16, STEREO, direct_on_input=9_999)
    elsewhere = record_fields(S16, STEREO, direct_on_input=player.index, source_index=rig.door.source_indexes.of(other))
    assert client.error(Command.CREATE_RECORD_STREAM, **gone) == Err.NOENTITY
    assert client.error(Command.CREATE_RECORD_STREAM, **elsewhere) == Err.INVALID
    rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    fields = record_fields(S16, STEREO, direct_on_input=player.index)
    assert client.error(Command.CREATE_RECORD_STREAM, **fields) == Err.ACCESS
