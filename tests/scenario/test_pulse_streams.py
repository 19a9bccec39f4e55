"""Every flag and attribute of a PulseAudio stream: what it does, or how it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.dsp.measure import frequency_hz
from millrace.sim.rig import Capture, Player, Rig, RigClient
from millrace.sim.signals import count, sine
from millrace.wire.pulse.client import playback_fields, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.pulsesound import FRAME, S16, STEREO, constant, ms, s16

ADJUST, EARLY, VARIABLE = {"adjust_latency": True}, {"early_requests": True}, {"variable_rate": True}


# -- buffer attributes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "tlength", "minreq", "flags"),
    [
        (8_000, 150, 0.5, {}), (8_000, 150, 0.25, EARLY), (8_000, 200, 0.25, ADJUST), (8_000, 5, 0.1, ADJUST),
        (16_000, 5, 0.1, ADJUST), (4_000, 10, 0.5, EARLY), (48_000, 1, 0.1, VARIABLE), (22_050, 60, 0.25, {}),
        (44_100, 20, 0.5, {}), (192_000, 10, 0.5, ADJUST),
    ],
)  # fmt: skip
def test_prompt_client_never_underruns(rate: int, tlength: int, minreq: float, flags: dict[str, bool]) -> None:
    rig = Rig()
    asked = {"tlength": ms(tlength, 2, rate), "minreq": ms(tlength * minreq, 2, rate)} | flags
    player = rig.client().play(Spec(SampleFormat.S16LE, 1, rate), (0,), bytes(rate * 2), **asked)
    rig.run(0.7)
    assert player.reply["tlength"] >= asked["tlength"] * (not flags)
    assert rig.stream_at(player.index).underruns == 0


def test_new_buffer_attributes_take_effect_immediately_without_loss() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(Spec(SampleFormat.S16LE, 2, 44_100), STEREO, s16(sine(3.0, rate=44_100)))
    rig.run(0.5)
    short = ms(20, rate=44_100)
    values = {"maxlength": 4 << 20, "tlength": short, "prebuf": 0, "minreq": short // 4}
    reply = client.ask(
        Command.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel=player.channel, adjust_latency=True, early_requests=False,
        **values,
    )  # fmt: skip
    assert short // 2 <= reply["tlength"] <= short and reply["latency"] < 10_000
    rig.run(2.0)
    player.drain()
    rig.run(1.0)
    loud = heard.trimmed()
    assert abs(len(loud) - 3 * 48_000) <= 2
    assert abs(frequency_hz(loud[:, 0], 48_000) - 997) < 0.05
    # At the change of resamplers the sound is not seamless, but there is no click.
    assert np.abs(np.diff(loud[1_000:-1_000, 0])).max() < 1.3 * 0.5 * 2 * np.pi * 997 / 48_000
    assert rig.stream_at(player.index).underruns == 0


# -- rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [False, True])
def test_rate_change_loses_nothing_and_variable_rate_glides(variable: bool) -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(4.0)), tlength=ms(100), variable_rate=variable)
    rig.run(1.0)
    client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=47_900)
    rig.run(1.0)
    client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=48_000)
    rig.run(1.5)
    player.drain()
    rig.run(1.0)
    loud = heard.trimmed()
    assert abs(len(loud) - 4 * 48_000 - 100) <= 5
    middle = loud[70_000:90_000, 0]
    assert abs(frequency_hz(middle, 48_000) - 997 * 479 / 480) < 0.05
    steps = np.abs(np.diff(loud[1_000:-1_000, 0]))
    if variable:
        assert steps.max() < 0.5 * 2 * np.pi * 997 / 48_000 + 0.001


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("rate", [1, 7, 100, 999])
def test_below_1_khz_each_frame_is_heard_for_its_duration(rate: int, variable: bool) -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    levels = np.resize(np.array([[0.5, 0.25], [-0.25, 0.5], [0.125, -0.5]], np.float32), (2 * rate + 3, 2))
    player = client.play(Spec(SampleFormat.F32LE, 2, rate), STEREO, levels.tobytes(), variable_rate=variable)
    player.drain()
    rig.run(8.0)
    ends = np.arange(len(levels) + 1) * 48_000 // rate
    assert np.array_equal(heard.trimmed(), np.repeat(levels, np.diff(ends), axis=0))
    # What is queued at that moment plays at the new rate, even a high one, and nothing is cut off.
    for other in (44_100, 3, 387_840, 48_000):
        client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=other)
        player.data = memoryview(levels[:6].tobytes())
        player.feed()
        player.drain()
        rig.run(3.0)
    assert not rig.playback_at(player.index).queue.length
    for absurd in (0, 387_841):
        fields = {"channel": player.channel, "rate": absurd}
        assert client.error(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, **fields) == Err.INVALID


@pytest.mark.parametrize("tlength_ms", [60, 2000])
@pytest.mark.parametrize("prebuf", [{}, {"prebuf": 0}])
def test_sound_before_a_pause_is_heard_completely_and_immediately(tlength_ms: int, prebuf: dict[str, int]) -> None:
    """Like speech: between words nothing is written, and nothing is drained."""
    rig = Rig()
    heard = rig.capture(clocked=True)
    rate = 22_050
    frames = [2_205, 4_410, 3_000, 1_871, 5_001]
    player = rig.client().play(
        Spec(SampleFormat.S16LE, 1, rate), (0,), tlength=ms(tlength_ms, 2, rate), adjust_latency=True, **prebuf
    )
    for number, length in enumerate(frames):
        player.data = memoryview(s16(np.full((length, 1), 0.5, np.float32)))
        player.feed()
        if tlength_ms == 2000 and not prebuf:
            player.client.ask(Command.TRIGGER_PLAYBACK_STREAM, channel=player.channel)
        rig.run(length / rate + 0.12 + 0.013 * number)
        loud = np.abs(heard.sound[:, 0]) > 0.2
        edges = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(int)))
        lengths = edges[1::2] - edges[::2]
        assert len(lengths) == number + 1 and abs(lengths[-1] - length * 48_000 / rate) <= 4
    assert rig.playback_at(player.index).held_ns == 0


def test_drain_plays_to_the_last_frame_and_no_further() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    client = rig.client()
    spec = Spec(SampleFormat.S16LE, 1, 22_050)
    word = np.full((2_205, 1), 0.5, np.float32)
    player = client.play(spec, (0,), tlength=ms(120, 2, 22_050))
    rig.run(0.1)
    for _ in range(3):
        player.data = memoryview(s16(word))
        player.feed()
        player.drain()
        rig.run(0.3)
    loud = np.abs(heard.sound[:, 0]) > 0.05
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    lengths = edges[1::2] - edges[::2]
    assert len(lengths) == 3 and np.abs(lengths - 4_800).max() <= 4


def test_flushed_data_is_not_heard_later() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    client = rig.client()
    player = client.play(Spec(SampleFormat.S16LE, 2, 44_100), STEREO, s16(sine(1.0, rate=44_100)), prebuf=FRAME)
    rig.run(0.5)
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    rig.run(0.2)
    before = len(heard.sound)
    player.data = memoryview(bytes(44_100 * FRAME))
    player.feed()
    rig.run(0.8)
    assert not heard.sound[before:].any()


# -- creation ----------------------------------------------------------------------------------


def refused(client: RigClient, **changes: Any) -> int:
    return client.error(Command.CREATE_PLAYBACK_STREAM, **playback_fields(S16, STEREO, **changes))


def levels_of(heard: Capture) -> list[float]:
    return [round(float(v), 2) for v in heard.sound[-2_000]]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [0.5, 0.25]), ({"no_remix": True}, [0.5, 0.25]), ({"no_remap": True}, [0.25, 0.5]),
        ({"no_remap": True, "no_remix": True}, [0.25, 0.5]),
    ],
)  # fmt: skip
def test_channels_map_by_name_or_by_number_without_remapping(flags: dict[str, bool], expected: list[float]) -> None:
    rig = Rig()
    heard = rig.capture()
    # The client's first channel is the right one, not the left.
    rig.client().play(S16, (2, 1), constant(0.25, 0.5), prebuf=FRAME, **flags)
    rig.run(0.3)
    assert levels_of(heard) == expected


def test_without_remixing_channels_missing_in_sink_are_not_heard() -> None:
    for flags, silent in (({}, False), ({"no_remix": True}, True)):
        rig = Rig()
        heard = rig.capture()
        rig.client().play(Spec(SampleFormat.S16LE, 1, 48_000), (0,), constant(0.5), prebuf=2, **flags)
        rig.run(0.3)
        assert (not heard.sound.any()) == silent


def test_channel_mapping_survives_a_move() -> None:
    rig = Rig()
    client = rig.client()
    other = rig.graph.add_sink("other")
    heard = rig.capture(other)
    player = client.play(S16, (2, 1), constant(0.25, 0.5), prebuf=FRAME, no_remap=True)
    client.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=rig.door.sink_indexes.of(other), sink_name=None)
    rig.run(0.3)
    assert levels_of(heard) == [0.25, 0.5]


@pytest.mark.parametrize(
    ("flags", "expected"), [({}, [0.5, 0.25]), ({"no_remap": True}, [0.25, 0.5]), ({"no_remix": True}, [0.5, 0.25])]
)
def test_recorder_channels_map_the_same_way(flags: dict[str, bool], expected: list[float]) -> None:
    rig = Rig()
    client = rig.client()
    fields = record_fields(S16, (2, 1), fragsize=ms(10), source_name="@DEFAULT_MONITOR@", **flags)
    reply = client.ask(Command.CREATE_RECORD_STREAM, **fields)
    rig.client().play(S16, STEREO, constant(0.25, 0.5), prebuf=FRAME)
    rig.run(0.3)
    got = np.frombuffer(bytes(client.recorded[reply["channel"]]), "<i2").reshape(-1, 2)
    assert [round(v / 32768, 2) for v in got[-1_000]] == expected


def test_pinned_stream_stays_and_ends_with_its_sink() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    module = client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=music")
    player = client.play(S16, STEREO, sink_name="music", no_move=True)
    fields = {"index": player.index, "sink_index": rig.sink.id, "sink_name": None}
    assert other.error(Command.MOVE_SINK_INPUT, **fields) == Err.INVALID
    other.ask(Command.SET_DEFAULT_SINK, name="music")
    other.ask(Command.SET_DEFAULT_SINK, name=rig.sink.name)
    assert rig.stream_at(player.index).sink.name == "music"
    other.ask(Command.UNLOAD_MODULE, index=module["index"])
    client.exchange()
    assert client.named(Command.PLAYBACK_STREAM_KILLED) == [{"channel": player.channel}]
    assert not client.named(Command.PLAYBACK_STREAM_MOVED)


def test_pinned_recorder_stays_and_ends_with_its_source() -> None:
    rig = Rig()
    client = rig.client()
    module = client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=music")
    fields = record_fields(S16, STEREO, source_name="music.monitor", no_move=True)
    reply = client.ask(Command.CREATE_RECORD_STREAM, **fields)
    where = {"index": reply["index"], "source_index": rig.sink.id, "source_name": None}
    assert client.error(Command.MOVE_SOURCE_OUTPUT, **where) == Err.INVALID
    client.ask(Command.UNLOAD_MODULE, index=module["index"])
    assert client.named(Command.RECORD_STREAM_KILLED) == [{"channel": reply["channel"]}]


def test_fail_on_suspend_streams_are_refused_or_killed() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    player = client.play(S16, STEREO, fail_on_suspend=True)
    patient = client.play(S16, STEREO)
    recorder = client.ask(
        Command.CREATE_RECORD_STREAM,
        **record_fields(S16, STEREO, fail_on_suspend=True, source_name="@DEFAULT_MONITOR@"),
    )
    other.ask(Command.SUSPEND_SINK, index=NO_INDEX, name="@DEFAULT_SINK@", suspend=True)
    client.exchange()
    assert client.named(Command.PLAYBACK_STREAM_KILLED) == [{"channel": player.channel}]
    assert client.named(Command.RECORD_STREAM_KILLED) == [{"channel": recorder["channel"]}]
    assert list(rig.graph.streams.values()) == [rig.stream_at(patient.index)]
    assert refused(client, fail_on_suspend=True) == Err.BADSTATE
    fields = record_fields(S16, STEREO, fail_on_suspend=True, source_name="@DEFAULT_MONITOR@")
    assert client.error(Command.CREATE_RECORD_STREAM, **fields) == Err.BADSTATE
    assert refused(client, passthrough=True) == Err.NOTSUPPORTED


def test_sink_is_given_by_index_or_by_name_but_not_both() -> None:
    rig = Rig()
    client = rig.client()
    rig.graph.add_sink("other")
    assert client.play(S16, STEREO, sink_index=1).reply["sink_name"] == "other"
    assert client.play(S16, STEREO, sink_name="other").reply["sink_index"] == 1
    assert refused(client, sink_index=1, sink_name="other") == Err.INVALID
    assert refused(client, sink_index=9_999) == refused(client, sink_name="nowhere") == Err.NOENTITY


def test_stream_starts_with_requested_mute_and_volume_only_if_set() -> None:
    rig = Rig()
    client = rig.client()
    for changes, mute, gain in (
        ({"muted": True, "muted_set": True}, True, 1.0),
        ({"muted": False, "muted_set": True}, False, 1.0),
        ({"muted": True}, False, 1.0),
        ({"volume": (0x8000, 0x8000), "volume_set": True}, False, 0.125),
        ({"volume": (0x8000, 0x8000), "volume_set": True, "relative_volume": True}, False, 0.125),
        ({"volume": (0x8000, 0x8000)}, False, 1.0),
    ):
        node = rig.stream_at(client.play(S16, STEREO, **changes).index)
        assert (node.mute, node.gains) == (mute, (gain, gain)), changes


def test_with_fix_channels_volume_maps_to_same_channels_and_sides() -> None:
    rig = Rig(channels=6)
    client = rig.client()
    player = client.play(S16, STEREO, fix_channels=True, volume=(0x10000, 0x8000), volume_set=True)
    volume = client.ask(Command.GET_SINK_INPUT_INFO, index=player.index)["volume"]
    # Front, rear, centre and LFE, as in pa_cvolume_remap.
    assert volume == (0x10000, 0x8000, 0x10000, 0x8000, 0xC000, 0xC000)


def test_at_most_thirty_two_channels_are_played() -> None:
    rig = Rig()
    wide = Spec(SampleFormat.S16LE, 32, 48_000)
    numbers = tuple(range(12, 44))
    reply = rig.client().play(wide, numbers, bytes(64 * 4_800), volume=(0x10000,) * 32).reply
    assert reply["spec"] == wide and reply["map"] == numbers
    rig.run(0.2)


def test_recorder_that_does_not_inhibit_suspend_still_records() -> None:
    rig = Rig()
    client = rig.client()
    fields = record_fields(S16, STEREO, fragsize=ms(10), source_name="@DEFAULT_MONITOR@")
    light = client.ask(Command.CREATE_RECORD_STREAM, **fields | {"dont_inhibit_auto_suspend": True})
    rig.run(1.0)
    assert not rig.graph.running and light["channel"] not in client.recorded
    client.play(S16, STEREO, s16(sine(0.5)), prebuf=FRAME)
    rig.run(0.4)
    assert any(client.recorded[light["channel"]])
    client.ask(Command.CREATE_RECORD_STREAM, **fields)
    rig.run(3.0)
    assert rig.graph.running


def test_recorder_fragments_shrink_only_with_adjust_latency() -> None:
    client = Rig().client()
    for flags, fragsize in (({}, ms(500)), (ADJUST, ms(40)), (EARLY, ms(500)), (ADJUST | EARLY, ms(500))):
        fields = record_fields(S16, STEREO, fragsize=ms(500), **flags)
        assert client.ask(Command.CREATE_RECORD_STREAM, **fields)["fragsize"] == fragsize


# -- synchronised streams ----------------------------------------------------------------------


def together(client: RigClient, *signals: np.ndarray, **changes: Any) -> list[Player]:
    return [
        client.play(S16, STEREO, s16(signal), sync_id=7, corked=True, **{"tlength": ms(100), "prebuf": 0} | changes)
        for signal in signals
    ]


def test_synchronised_streams_start_cork_and_flush_in_the_same_frame() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    a, b = together(client, count(96_000) / 2, -count(96_000) / 2)
    rig.run(0.2)
    for _ in range(3):
        client.ask(Command.CORK_PLAYBACK_STREAM, channel=a.channel, cork=False)
        rig.run(0.25)
        client.ask(Command.CORK_PLAYBACK_STREAM, channel=b.channel, cork=True)
        rig.run(0.1)
    streams = [rig.playback_at(p.index) for p in (a, b)]
    assert streams[0].queue.read_index == streams[1].queue.read_index > ms(600)
    assert not heard.sound.any()
    a.data = b.data = memoryview(b"")
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=a.channel)
    assert [s.queue.length for s in streams] == [0, 0]


def test_underrun_of_one_synchronised_stream_keeps_alignment() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    a, b = together(client, count(48_000) / 2, -count(48_000) / 2)
    late, b.data = b.data, memoryview(b"")
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=a.channel, cork=False)
    rig.run(0.25)
    b.data = late
    b.feed()
    rig.run(0.3)
    assert np.abs(heard.sound[4_000:8_000]).max() > 0
    assert not heard.sound[-4_000:].any()


def test_stream_joins_corked_synchronised_streams_at_their_sink_and_position() -> None:
    rig = Rig()
    client = rig.client()
    other = rig.graph.add_sink("other")
    (first,) = together(client, sine(2.0), sink_name="other")
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=first.channel, cork=False)
    rig.run(0.5)
    assert refused(client, sync_id=7) == Err.INVALID
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=first.channel, cork=True)
    assert refused(client, sync_id=7, sink_name=rig.sink.name) == Err.INVALID
    second = client.play(S16, STEREO, sync_id=7, corked=True, prebuf=0)
    assert second.reply["sink_name"] == "other"
    heard = rig.playback_at(first.index)
    assert rig.playback_at(second.index).queue.read_index == heard.queue.read_index - rig.graph.ahead(heard.node) * 4
    where = {"index": first.index, "sink_index": rig.sink.id, "sink_name": None}
    assert client.error(Command.MOVE_SINK_INPUT, **where) == Err.INVALID
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=second.channel)
    client.ask(Command.MOVE_SINK_INPUT, **where)
    assert rig.stream_at(first.index).sink is not other
