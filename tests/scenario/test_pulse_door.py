"""The PulseAudio door on a virtual clock: each rule that real clients rely on."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import PULSE_FORMATS, SampleFormat, encode
from millrace.sim.rig import Rig
from millrace.sim.signals import count, sine
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err, Seek
from millrace.wire.pulse.tagstruct import FormatInfo, Spec
from tests.pulsesound import FRAME, S16, STEREO, ms, s16

ODD_LATENCIES = [{"tlength": tlength, "adjust_latency": True} for tlength in (0, 1, ms(1), ms(100_000), 2**32 - 2)]
"""The attributes that libpulse requests for PULSE_LATENCY_MSEC=1, 100000 and the like."""


@pytest.mark.parametrize(
    "latency", [{}, {"tlength": ms(100)}, {"tlength": ms(20), "adjust_latency": True}, *ODD_LATENCIES]
)
def test_every_frame_arrives_once_and_in_order(latency: dict[str, int]) -> None:
    rig = Rig()
    heard = rig.capture()
    signal = count(48_000 * 3)
    player = rig.client().play(S16, STEREO, s16(signal), **latency)
    rig.run(1.0)
    player.drain()
    rig.run(4.0)
    assert np.array_equal(heard.trimmed(), signal)


def test_short_file_plays_completely_because_drain_disables_prebuffering() -> None:
    rig = Rig()
    heard = rig.capture()
    signal = count(1440)
    client = rig.client()
    player = client.play(S16, STEREO, s16(signal))
    rig.run(0.5)
    assert not heard.blocks
    tag = player.drain()
    rig.run(0.02)
    assert tag not in client.replies
    rig.run(0.5)
    assert np.array_equal(heard.trimmed(), signal)
    assert isinstance(client.replies[tag], Reply)
    # As in PulseAudio, the client gets UNDERFLOW, but this is not counted as a fault.
    assert client.named(Command.UNDERFLOW) == [{"channel": player.channel, "offset": ms(30)}]
    assert rig.stream_at(player.index).underruns == 0


def test_drain_of_empty_stream_is_acknowledged_immediately() -> None:
    client = Rig().client()
    player = client.play(S16, STEREO)
    assert isinstance(client.replies[player.drain()], Reply)


def test_drain_fails_if_its_stream_is_deleted() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(1.0)))
    tag = player.drain()
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    reply = client.replies[tag]
    assert isinstance(reply, Failed) and reply.code == Err.NOENTITY


def test_stream_deleted_by_its_clients_clock_has_played_all_that_was_due() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    signal = count(4800)
    player = client.play(S16, STEREO, s16(signal), tlength=ms(200), prebuf=FRAME)
    rig.run(0.03)
    rig.stall(120)
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    rig.run(0.3)
    assert np.array_equal(heard.trimmed(), signal)


def test_drain_pending_at_cork_is_acknowledged_after_uncork() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.5)))
    tag = player.drain()
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    rig.run(2)
    assert tag not in client.replies
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=False)
    rig.run(2)
    assert isinstance(client.replies[tag], Reply)


def test_first_request_is_tlength_and_requests_account_for_every_byte() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(10.0)), tlength=ms(200), minreq=ms(20))
    assert player.reply["missing"] == player.reply["tlength"] == ms(200)
    rig.run(3.0)
    stream = rig.playback_at(player.index)
    asked = player.reply["missing"] + sum(player.requests)
    assert asked - stream.queue.write_index == player.asked
    assert all(size >= ms(20) for size in player.requests)
    assert stream.queue.read_index + rig.graph.quantum_frames * FRAME >= ms(3000) - ms(40)


def test_prebuf_holds_playback_until_enough_is_queued() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(S16, STEREO, tlength=ms(400), prebuf=ms(200))
    client.wire.send_block(player.channel, s16(count(9599)))
    client.exchange()
    rig.run(0.5)
    assert not heard.blocks and not client.named(Command.STARTED)
    client.wire.send_block(player.channel, s16(count(1)))
    client.exchange()
    rig.run(0.1)
    assert heard.blocks and len(client.named(Command.STARTED)) == 1


def test_underflow_is_reported_once_and_new_data_starts_again() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.5)), tlength=ms(200), prebuf=ms(100))
    rig.run(5.0)
    told = client.named(Command.UNDERFLOW)
    assert len(told) == 1 and told[0]["offset"] == ms(500)
    player.data = memoryview(s16(sine(0.5)))
    player.feed()
    rig.run(0.3)
    assert len(client.named(Command.STARTED)) == 2


def test_without_prebuf_time_advances_through_underrun_and_late_sound_is_dropped() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.2)), tlength=ms(100), prebuf=0)
    rig.run(2.0)
    stream = rig.playback_at(player.index)
    assert stream.queue.read_index > ms(1500)
    assert stream.queue.length == 0 and player.asked > ms(1000)
    assert isinstance(client.replies[player.drain()], Reply)


def test_slightly_late_client_without_prebuf_loses_nothing() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    signal = count(48_000)
    data = s16(signal)
    player = client.play(S16, STEREO, data[: ms(300)], tlength=ms(100), prebuf=0)
    rig.run(0.38)
    player.data = memoryview(data[ms(300) :])
    player.feed()
    rig.run(1.2)
    player.drain()
    rig.run(1.0)
    loud = heard.sound[heard.sound.any(axis=1)]
    assert np.array_equal(loud, signal)


def test_corked_streams_keep_their_position() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    client = rig.client()
    signal = count(48_000)
    player = client.play(S16, STEREO, s16(signal))
    rig.run(0.4)
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    rig.run(3.0)
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=False)
    client.ask(Command.TRIGGER_PLAYBACK_STREAM, channel=player.channel)
    player.drain()
    rig.run(2.0)
    loud = heard.sound[heard.sound.any(axis=1)]
    assert np.array_equal(loud, signal)


def test_flush_discards_queued_data_and_requests_it_again() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.5)), tlength=ms(500), prebuf=ms(100))
    rig.run(0.1)
    stream = rig.playback_at(player.index)
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    assert stream.queue.length == 0 and rig.graph.ahead(stream.node) == 0
    assert player.asked == ms(500)
    player.data = memoryview(s16(sine(0.2)))
    player.feed()
    rig.run(0.1)
    assert rig.sink.level > 0.4


@pytest.mark.parametrize(
    ("seek", "offset", "where"),
    [(Seek.RELATIVE, ms(10), ms(110)), (Seek.ABSOLUTE, ms(40), ms(40)), (Seek.RELATIVE_ON_READ, ms(30), ms(30)),
     (Seek.RELATIVE_END, -ms(20), ms(80))],
)  # fmt: skip
def test_seek_modes_move_the_write_index(seek: Seek, offset: int, where: int) -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, tlength=ms(1000), corked=True)
    client.wire.send_block(player.channel, s16(count(4800)))
    client.wire.send_block(player.channel, s16(count(480)), seek=seek, offset=offset)
    client.exchange()
    assert rig.playback_at(player.index).queue.write_index == where + ms(10)


def test_gap_left_by_seek_is_silence() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(S16, STEREO, tlength=ms(1000))
    client.wire.send_block(player.channel, s16(count(480)))
    client.wire.send_block(player.channel, s16(count(480)), seek=Seek.RELATIVE, offset=ms(5))
    client.exchange()
    player.drain()
    rig.run(1.0)
    expected = np.concatenate((count(480), np.zeros((240, 2), np.float32), count(480)))
    assert np.array_equal(heard.trimmed(), expected)


def test_write_beyond_maxlength_overflows_and_stream_continues() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, maxlength=ms(100), tlength=ms(50), corked=True)
    client.wire.send_block(player.channel, s16(count(4800 * 2)))
    client.exchange()
    assert client.named(Command.OVERFLOW) == [{"channel": player.channel}]
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    client.ask(Command.GET_PLAYBACK_LATENCY, channel=player.channel, time=(1, 2))


def test_latency_reports_indices_and_echoes_the_time() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(5.0)))
    rig.run(1.0)
    reply = client.ask(Command.GET_PLAYBACK_LATENCY, channel=player.channel, time=(11, 22))
    assert reply["time"] == (11, 22) and reply["playing"]
    heard_bytes = reply["read_index"] - ms(reply["sink_usec"] / 1000)
    assert abs(heard_bytes - ms(1000)) <= ms(41)
    assert reply["playing_for"] > 0 and reply["underrun_for"] == 0


@pytest.mark.parametrize("fmt", PULSE_FORMATS)
def test_every_sample_format_is_heard_at_its_level(fmt: SampleFormat) -> None:
    rig = Rig()
    heard = rig.capture()
    signal = sine(0.3)
    player = rig.client().play(Spec(fmt, 2, 48_000), STEREO, encode(fmt, signal))
    player.drain()
    rig.run(1.0)
    loud = heard.trimmed()
    tolerance = {SampleFormat.U8: 0.005, SampleFormat.ALAW: 0.02, SampleFormat.ULAW: 0.02}.get(fmt, 2e-5)
    if tolerance == 2e-5:
        assert abs(len(loud) - len(signal)) <= 2
    start = int(np.argmax(np.abs(heard.sound[:, 0]) > 0.01)) - int(np.argmax(np.abs(signal[:, 0]) > 0.01))
    part = heard.sound[max(0, start) : max(0, start) + 10_000]
    assert np.abs(part - signal[: len(part)]).max() < max(tolerance, 0.02 if tolerance > 1e-3 else tolerance)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("tlength_ms", [40, 2000])
def test_other_rates_keep_pitch_and_length(rate: int, tlength_ms: int) -> None:
    from millrace.dsp.measure import frequency_hz

    rig = Rig()
    heard = rig.capture()
    signal = sine(2.0, rate=rate)
    spec = Spec(SampleFormat.S16LE, 2, rate)
    player = rig.client().play(spec, STEREO, s16(signal), tlength=ms(tlength_ms, rate=rate))
    rig.run(1.0)
    player.drain()
    rig.run(3.0)
    loud = heard.trimmed()
    assert abs(len(loud) - 96_000) < 300
    assert abs(frequency_hz(loud[:, 0], 48_000) - 997) < 0.05


def test_formats_api_picks_first_pcm_and_ignores_the_spec() -> None:
    rig = Rig()
    client = rig.client()
    ac3 = FormatInfo(2, {})
    pcm = FormatInfo(1, {"format.sample_format": b'"s24le"\0', "format.rate": b"44100\0", "format.channels": b"1\0"})
    player = client.play(Spec(255, 0, 0), (), formats=[ac3, pcm], volume=(65536,) * 32)
    assert player.reply["spec"] == Spec(SampleFormat.S24LE, 1, 44_100)
    from millrace.wire.pulse.client import playback_fields

    fields = playback_fields(Spec(255, 0, 0), (), formats=[ac3])
    assert client.error(Command.CREATE_PLAYBACK_STREAM, **fields) == Err.NOTSUPPORTED


def test_fix_flags_answer_with_the_sinks_own_values() -> None:
    rig = Rig(rate=96_000, channels=6)
    player = rig.client().play(S16, STEREO, fix_format=True, fix_rate=True, fix_channels=True)
    assert player.reply["spec"] == Spec(SampleFormat.F32LE, 6, 96_000)
    assert len(player.reply["map"]) == 6


def test_two_streams_mix_and_volume_change_does_not_click() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    a = client.play(S16, STEREO, s16(sine(4.0, level=0.4)))
    client.play(S16, STEREO, s16(sine(4.0, 440.0, level=0.4)))
    rig.run(1.0)
    client.ask(Command.SET_SINK_INPUT_VOLUME, index=a.index, volume=(0x8000, 0x8000))
    rig.run(1.0)
    info = client.ask(Command.GET_SINK_INPUT_INFO, index=a.index)
    assert info["volume"] == (0x8000, 0x8000)
    steps = np.abs(np.diff(heard.trimmed()[:, 0]))
    assert steps.max() < 0.4 * (2 * np.pi * 997 / 48_000) + 0.4 * (2 * np.pi * 440 / 48_000) + 0.002
    late = heard.sound[-20_000:, 0]
    spectrum = np.abs(np.fft.rfft(late * np.hanning(len(late))))
    ratio = spectrum[round(997 * len(late) / 48_000)] / spectrum[round(440 * len(late) / 48_000)]
    assert abs(20 * np.log10(ratio) + 18.06) < 0.5


def test_recording_matches_monitor_bit_for_bit() -> None:
    rig = Rig()
    client = rig.client()
    reply = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, STEREO, fragsize=ms(20)))
    signal = count(24_000)
    player = rig.client().play(S16, STEREO, s16(signal))
    player.drain()
    rig.run(2.0)
    got = np.frombuffer(bytes(client.recorded[reply["channel"]]), "<i2").reshape(-1, 2)
    loud = got[got.any(axis=1)]
    assert np.array_equal(loud, np.frombuffer(s16(signal), "<i2").reshape(-1, 2))
    assert abs(len(got) - 96_000) < 48_00
    latency = client.ask(Command.GET_RECORD_LATENCY, channel=reply["channel"], time=(1, 2))
    assert latency["read_index"] == len(got) * FRAME


def test_source_and_recorder_levels_affect_recorders_only_and_ramp() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    reply = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, STEREO, fragsize=ms(20)))
    rig.client().play(S16, STEREO, s16(sine(5.0)))
    rig.run(1.0)
    client.ask(Command.SET_SOURCE_VOLUME, index=NO_INDEX, name="millrace.monitor", volume=(0x8000, 0x8000))
    client.ask(Command.SET_SOURCE_OUTPUT_VOLUME, index=reply["index"], volume=(0x8000, 0x8000))
    rig.run(1.0)
    got = np.frombuffer(bytes(client.recorded[reply["channel"]]), "<i2").reshape(-1, 2)[:, 0] / 32768
    assert np.abs(got[-20_000:]).max() == pytest.approx(0.5 / 64, rel=0.02)
    assert np.abs(heard.sound[-20_000:]).max() == pytest.approx(0.5, rel=0.01)
    assert np.abs(np.diff(got)).max() < 0.5 * 2 * np.pi * 997 / 48_000 + 0.002
    client.ask(Command.SET_SOURCE_MUTE, index=NO_INDEX, name="@DEFAULT_SOURCE@", mute=True)
    rig.run(0.5)
    source = client.ask_list(Command.GET_SOURCE_INFO_LIST)[0]
    assert source["mute"] and source["volume"] == (0x8000, 0x8000)
    late = np.frombuffer(bytes(client.recorded[reply["channel"]])[-4000:], "<i2")
    assert not late.any()


def test_peak_streams_send_one_peak_per_period() -> None:
    rig = Rig()
    client = rig.client()
    spec = Spec(SampleFormat.F32LE, 1, 25)
    fields = record_fields(spec, (0,), fragsize=4, peak_detect=True, source_name=str(rig.sink.id))
    reply = client.ask(Command.CREATE_RECORD_STREAM, **fields)
    rig.client().play(S16, STEREO, s16(sine(3.0, level=0.5)))
    rig.run(2.0)
    peaks = np.frombuffer(bytes(client.recorded[reply["channel"]]), "<f4")
    assert 45 <= len(peaks) <= 51
    assert abs(peaks[-5:].mean() - 0.5) < 0.01


def test_moving_a_stream_notifies_its_client_and_changes_what_is_heard() -> None:
    rig = Rig()
    client = rig.client()
    module = client.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=music")
    music = next(s for s in rig.graph.sinks.values() if s.name == "music")
    player = client.play(S16, STEREO, s16(sine(3.0)))
    rig.run(0.5)
    client.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=NO_INDEX, sink_name="music")
    moved = client.named(Command.PLAYBACK_STREAM_MOVED)
    assert [(m["index"], m["name"]) for m in moved] == [(1, "music")]
    rig.run(0.3)
    assert music.level > 0.4 and rig.sink.level == 0
    client.ask(Command.UNLOAD_MODULE, index=module["index"])
    assert client.named(Command.PLAYBACK_STREAM_MOVED)[-1]["name"] == "millrace"
    rig.run(0.2)
    assert rig.sink.level > 0.4
