"""PulseAudio clients against a graph on virtual time: what they may ask, what is bounded, and what harms nobody."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.sim.rig import Rig
from millrace.sim.signals import count, sine
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err, Facility
from millrace.wire.pulse.tagstruct import Spec
from tests.pulsesound import FRAME, S16, STEREO, ms, s16


def test_combined_sink_is_heard_on_all_its_slaves() -> None:
    rig = Rig()
    client = rig.client()
    for name in ("a", "b"):
        client.ask(Command.LOAD_MODULE, name="module-null-sink", argument=f"sink_name={name}")
    client.ask(Command.LOAD_MODULE, name="module-combine-sink", argument="sink_name=both slaves=a,b")
    player = client.play(S16, STEREO, s16(sine(2.0)), sink_name="both")
    rig.run(0.5)
    levels = {s.name: s.level for s in rig.graph.sinks.values()}
    assert levels["a"] > 0.4 and levels["b"] > 0.4 and levels["millrace"] == 0
    assert player.reply["sink_name"] == "both"


def test_unknown_modules_fail_as_in_pulseaudio() -> None:
    client = Rig().client()
    assert client.error(Command.LOAD_MODULE, name="module-udev-detect", argument="") == Err.MODINITFAILED


def test_kill_suspend_and_default_notify_affected_clients() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    other.ask(Command.SUBSCRIBE, mask=0x2FF)
    player = client.play(S16, STEREO, s16(sine(2.0)))
    rig.run(0.3)
    other.ask(Command.SUSPEND_SINK, index=NO_INDEX, name="millrace", suspend=True)
    client.exchange()
    assert client.named(Command.PLAYBACK_STREAM_SUSPENDED) == [{"channel": player.channel, "suspended": True}]
    assert not rig.stream_at(player.index).active
    other.ask(Command.SUSPEND_SINK, index=NO_INDEX, name="millrace", suspend=False)
    assert rig.stream_at(player.index).active
    other.ask(Command.KILL_SINK_INPUT, index=player.index)
    client.exchange()
    assert client.named(Command.PLAYBACK_STREAM_KILLED) == [{"channel": player.channel}]
    events = {(n["event"], n["index"]) for n in other.named(Command.SUBSCRIBE_EVENT)}
    assert (Facility.SINK_INPUT, player.index) in events
    assert (Facility.SINK_INPUT | 0x20, player.index) in events


def test_samples_are_uploaded_played_and_removed() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    signal = count(4410)
    spec = Spec(SampleFormat.S16LE, 2, 48_000)
    data = s16(signal)
    up = client.ask(Command.CREATE_UPLOAD_STREAM, name="bell", spec=spec, map=STEREO, length=len(data), props={})
    client.wire.send_block(up["channel"], data)
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=up["channel"])
    assert client.ask_list(Command.GET_SAMPLE_INFO_LIST)[0]["name"] == "bell"
    client.ask(Command.PLAY_SAMPLE, sink_index=NO_INDEX, sink_name=None, volume=0x10000, name="bell", props={})
    rig.run(1.0)
    assert np.array_equal(heard.trimmed(), signal)
    assert not rig.graph.streams
    client.ask(Command.REMOVE_SAMPLE, name="bell")
    assert client.error(Command.GET_SAMPLE_INFO, index=NO_INDEX, name="bell") == Err.NOENTITY


def test_introspection_answers_everything_in_order() -> None:
    for version in (13, 16, 21, 30, 35):
        rig = Rig()
        client = rig.client(version)
        client.play(S16, STEREO, s16(sine(1.0)))
        client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, STEREO))
        rig.run(0.2)
        server = client.ask(Command.GET_SERVER_INFO)
        assert (server["default_sink"], server["default_source"]) == ("millrace", "millrace.monitor")
        sinks = client.ask_list(Command.GET_SINK_INFO_LIST)
        assert [s["monitor_name"] for s in sinks] == ["millrace.monitor"]
        for command in (
            Command.GET_SOURCE_INFO_LIST, Command.GET_SINK_INPUT_INFO_LIST, Command.GET_SOURCE_OUTPUT_INFO_LIST,
            Command.GET_CLIENT_INFO_LIST, Command.GET_MODULE_INFO_LIST,
        ):  # fmt: skip
            assert client.ask_list(command), command
        assert client.ask_list(Command.GET_SAMPLE_INFO_LIST) == []
        assert client.error(Command.GET_CARD_INFO, index=0, name=None) == Err.NOENTITY
        for name in ("@DEFAULT_SINK@", "millrace", "default", str(rig.sink.id)):
            assert client.ask(Command.LOOKUP_SINK, name=name)["index"] == rig.sink.id
        assert (
            client.error(Command.EXTENSION, index=NO_INDEX, name="module-stream-restore", rest=b"") == Err.NOEXTENSION
        )


def test_wrong_cookie_and_old_versions_are_refused_before_anything_is_shown() -> None:
    rig = Rig()
    stranger = rig.client(trusted=False, login=False)
    assert stranger.error(Command.GET_SERVER_INFO) == Err.ACCESS
    assert stranger.error(Command.AUTH, version=35, cookie=bytes(256)) == Err.ACCESS
    assert stranger.server.closing
    friend = rig.client(trusted=False, login=False)
    friend.ask(Command.AUTH, version=35, cookie=rig.door.cookie)
    assert rig.client(login=False).error(Command.AUTH, version=12, cookie=b"") == Err.VERSION


def test_vanished_client_leaves_others_bit_exact() -> None:
    rig = Rig()
    heard = rig.capture()
    victim = rig.client()
    signal = count(48_000 * 2)
    player = rig.client().play(S16, STEREO, s16(signal))
    victim.play(S16, STEREO, s16(np.zeros((96_000, 2), np.float32)))
    rig.run(0.7)
    victim.close()
    rig.run(0.8)
    player.drain()
    rig.run(2.0)
    assert np.array_equal(heard.trimmed(), signal)
    assert len(rig.graph.streams) == 1 and len(rig.door.clients) == 1


def test_properties_and_uploads_of_a_client_are_bounded() -> None:
    client = Rig().client()
    big = {f"key{i}": bytes(60_000) for i in range(4)}
    client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=1, props=big)
    more = {f"more{i}": bytes(60_000) for i in range(4)}
    assert client.error(Command.UPDATE_CLIENT_PROPLIST, mode=1, props=more) == Err.TOOLARGE
    client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=0, props=more)
    client.ask(Command.REMOVE_CLIENT_PROPLIST, keys=["more0"])
    length = 16 * 1024 * 1024
    for name in ("a", "b"):
        client.ask(Command.CREATE_UPLOAD_STREAM, name=name, spec=S16, map=STEREO, length=length, props={})
    fields = {"name": "c", "spec": S16, "map": STEREO, "length": length, "props": {}}
    assert client.error(Command.CREATE_UPLOAD_STREAM, **fields) == Err.TOOLARGE


def test_killed_stream_fails_its_pending_drain() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    player = client.play(S16, STEREO, s16(sine(1.0)))
    tag = player.drain()
    other.ask(Command.KILL_SINK_INPUT, index=player.index)
    client.exchange()
    reply = client.replies[tag]
    assert isinstance(reply, Failed) and reply.code == Err.NOENTITY


def test_too_many_streams_are_refused_and_the_rest_work() -> None:
    from millrace.wire.pulse.client import playback_fields

    rig = Rig()
    client = rig.client()
    tags = [
        client.wire.send_request(Command.CREATE_PLAYBACK_STREAM, playback_fields(S16, STEREO)) for _ in range(10_000)
    ]
    client.exchange()
    answers = [client.replies[tag] for tag in tags]
    made = sum(isinstance(a, Reply) for a in answers)
    assert made == 256
    assert {a.code for a in answers if isinstance(a, Failed)} == {Err.TOOLARGE}
    client.close()
    assert not rig.graph.streams


@pytest.mark.parametrize(
    "spec",
    [
        Spec(3, 2, 0),
        Spec(3, 2, 387_841),
        Spec(3, 2, 10**9),
        Spec(99, 2, 48_000),
        Spec(3, 0, 48_000),
        Spec(3, 33, 48_000),
    ],
)
def test_absurd_specs_are_invalid(spec: Spec) -> None:
    from millrace.wire.pulse.client import playback_fields

    fields = playback_fields(spec, (), volume=(65536,))
    assert Rig().client().error(Command.CREATE_PLAYBACK_STREAM, **fields) == Err.INVALID


def test_idle_guests_are_not_scheduled() -> None:
    rig = Rig()
    rig.capture()
    client = rig.client()
    client.ask(Command.SUBSCRIBE, mask=0x2FF)
    assert rig.driver.next_timeout() is None
    player = client.play(S16, STEREO, s16(sine(0.2)))
    player.drain()
    rig.run(2.0)
    assert rig.driver.next_timeout() is None and not rig.graph.running
    states = [(c.old.value, c.new.value) for c in rig.sink.trace]
    assert states == [("suspended", "running"), ("running", "idle")]


def test_quantum_follows_lowest_requested_latency() -> None:
    rig = Rig()
    client = rig.client()
    client.play(S16, STEREO, s16(sine(9.0)))
    rig.run(0.1)
    assert rig.graph.quantum_frames == 1920
    fast = client.play(S16, STEREO, s16(sine(9.0)), tlength=ms(10), adjust_latency=True)
    rig.run(0.1)
    assert rig.graph.quantum_frames == 120
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=fast.channel)
    rig.run(0.1)
    assert rig.graph.quantum_frames == 1920


def test_quantum_stays_short_for_underrun_stream_until_it_is_corked() -> None:
    rig = Rig()
    client = rig.client()
    client.play(S16, STEREO, s16(sine(9.0)))
    fast = client.play(S16, STEREO, s16(sine(0.1)), tlength=ms(10), adjust_latency=True)
    rig.run(1.0)
    # It waits for its client, whose next data would run dry again within one long cycle.
    assert not rig.playback_at(fast.index).node.active and rig.graph.quantum_frames == 120
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=fast.channel, cork=True)
    rig.run(0.1)
    assert rig.graph.quantum_frames == 1920


def test_nan_floats_from_one_client_do_not_spoil_the_mix() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    poison = np.full((48_000, 2), np.nan, "<f4").tobytes()
    client.play(Spec(SampleFormat.F32LE, 2, 48_000), STEREO, poison, prebuf=8)
    client.play(S16, STEREO, s16(sine(1.0)), prebuf=FRAME)
    rig.run(1.0)
    assert np.abs(heard.sound).max() > 0.4
    assert np.isfinite(heard.sound).all() and np.abs(heard.sound).max() <= 1.0


def test_loud_mixes_are_limited_not_clipped() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    for _ in range(4):
        client.play(S16, STEREO, s16(sine(2.0, level=0.9)))
    rig.run(1.5)
    assert np.abs(heard.sound).max() <= 1.0
    late = heard.sound[-4096:, 0].astype(float)
    spectrum = np.abs(np.fft.rfft(late * np.hanning(len(late))))
    fundamental, third = (spectrum[round(f * len(late) / 48_000)] for f in (997, 2991))
    assert 20 * np.log10(third / fundamental) < -50


def test_refused_property_update_changes_nothing() -> None:
    rig = Rig()
    client = rig.client()
    for name in ("kept", "more"):
        client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=2, props={name: bytes(60_000)})
    refused = 0
    for k in range(4):
        try:
            client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=2, props={f"big{k}": bytes(60_000)})
        except AssertionError:
            refused += 1
    shown = client.ask(Command.GET_CLIENT_INFO, index=client.server.client_index)["props"]
    assert refused == 2 and {"kept", "more", "big0", "big1"} <= set(shown) and "big3" not in shown
    client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=0, props={"other": b"1\0"})
    assert "kept" not in client.ask(Command.GET_CLIENT_INFO, index=client.server.client_index)["props"]


def test_source_level_applies_before_remapping_to_recorder_channels() -> None:
    """A mono recorder of a source whose left is at 20 % and whose right is muted, as in PulseAudio 16.1."""
    rig = Rig()
    client = rig.client()
    mono = Spec(SampleFormat.F32LE, 1, 48_000)
    reply = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(mono, (0,), source_name="millrace.monitor"))
    sound = np.zeros((96_000, 2), np.float32)
    sound[:, 0] = 0.5
    player = rig.client().play(Spec(SampleFormat.F32LE, 2, 48_000), STEREO, sound.tobytes())
    one = client.ask(
        Command.CREATE_RECORD_STREAM,
        **record_fields(mono, (0,), source_name="millrace.monitor", direct_on_input=player.index),
    )
    rig.run(0.5)
    client.ask(Command.SET_SOURCE_VOLUME, index=NO_INDEX, name="millrace.monitor", volume=(0x8000, 0))
    rig.run(0.5)
    for channel in (reply["channel"], one["channel"]):
        heard = np.frombuffer(bytes(client.recorded[channel]), "<f4")
        assert heard[-1] == pytest.approx(0.25 / 8, abs=1e-4)
        assert heard.max() == pytest.approx(0.25, abs=1e-4)
        assert np.abs(np.diff(heard[2_000:])).max() < 0.01, "a level change ramps"
