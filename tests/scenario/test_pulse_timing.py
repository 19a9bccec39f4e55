"""The timing information that clients get, on a virtual clock: it must agree with what was rendered."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.sim.rig import Player, Rig
from millrace.sim.signals import sine
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests.pulsesound import FRAME, S16, STEREO, ms, s16

NEVER = (1 << 64) - 1


def timing(player: Player) -> dict[str, int]:
    return player.client.ask(Command.GET_PLAYBACK_LATENCY, channel=player.channel, time=(1, 2))


def heard_ms(reply: dict[str, int]) -> float:
    return (reply["read_index"] / FRAME - reply["sink_usec"] * 48 / 1000) / 48


def test_stream_not_started_is_not_playing_and_has_no_underrun() -> None:
    player = Rig().client().play(S16, STEREO, tlength=ms(100))
    reply = timing(player)
    assert not reply["playing"] and reply["playing_for"] == 0 and reply["underrun_for"] == NEVER


def test_playing_for_counts_from_first_frame_pulled() -> None:
    rig = Rig()
    player = rig.client().play(S16, STEREO, s16(sine(2.0)), tlength=ms(100))
    rig.run(0.5)
    reply = timing(player)
    assert reply["playing"] and reply["playing_for"] == reply["read_index"] > 0 == reply["underrun_for"]


def test_underrun_silence_is_counted_while_clock_stands_still() -> None:
    rig = Rig()
    player = rig.client().play(S16, STEREO, s16(sine(0.5)), tlength=ms(100), adjust_latency=True)
    rig.run(0.5)
    silence = []
    for _ in range(5):
        rig.run(0.1)
        reply = timing(player)
        assert not reply["playing"] and reply["playing_for"] == 0 and reply["read_index"] == ms(500)
        silence.append(reply["underrun_for"])
    # The graph is idle by now, but the silence still grows by exactly the time that has passed.
    assert not rig.graph.running
    assert [b - a for a, b in itertools.pairwise(silence)] == pytest.approx([ms(100)] * 4, abs=ms(40))
    player.data = memoryview(s16(sine(0.5)))
    player.feed()
    assert not timing(player)["playing"], "nothing of it is rendered yet"
    rig.run(0.2)
    reply = timing(player)
    assert reply["playing"] and reply["underrun_for"] == 0 and reply["playing_for"] == reply["read_index"] - ms(500)


@pytest.mark.parametrize("pause", [0.003, 0.008, 0.06, 0.11, 0.3])
@pytest.mark.parametrize("prebuf", [{}, {"prebuf": 0}])
def test_clock_never_exceeds_written_data_nor_goes_back(pause: float, prebuf: dict[str, int]) -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(30.0)), tlength=ms(60), adjust_latency=True, **prebuf)
    last = 0.0
    for _ in range(10):
        rig.run(0.15)
        data, player.data = player.data, memoryview(b"")
        rig.run(0.035 + pause)
        reply = timing(player)
        now = heard_ms(reply)
        # The difference may be one cycle, and what is dropped if the client is late without prebuffering.
        slack = 20 if not prebuf else 20 + 1000 * pause
        assert last - 11 <= now <= reply["write_index"] / FRAME / 48 + slack
        assert reply["playing"] == (reply["playing_for"] > 0)
        last = now
        player.data = data
        player.feed()


def test_gap_shorter_than_a_cycle_is_reported_too() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.305)), tlength=ms(100), adjust_latency=True)
    rig.run(0.31)
    assert not client.named(Command.UNDERFLOW)
    player.data = memoryview(s16(sine(0.5)))
    player.feed()
    rig.run(0.1)
    assert [told["offset"] for told in client.named(Command.UNDERFLOW)] == [ms(305)]
    assert len(client.named(Command.STARTED)) == 2
    assert rig.stream_at(player.index).underruns == 1


def test_flush_is_reported_as_underflow_without_fault() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(0.5)), tlength=ms(200))
    rig.run(0.1)
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    assert len(client.named(Command.UNDERFLOW)) == 1
    assert rig.stream_at(player.index).underruns == 0
    rig.run(0.1)
    assert not timing(player)["playing"]


def test_pause_is_no_underrun_and_next_data_is_a_new_start() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(3.0)), tlength=ms(200))
    rig.run(0.3)
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    rig.run(0.3)
    assert not timing(player)["playing"] and timing(player)["underrun_for"] == NEVER
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=False)
    rig.run(0.2)
    assert timing(player)["playing"] and timing(player)["playing_for"] < ms(300)
    assert not client.named(Command.UNDERFLOW) and len(client.named(Command.STARTED)) == 2


@pytest.mark.parametrize("tlength_ms", [60, 400])
def test_frames_held_by_resampler_are_part_of_latency(tlength_ms: int) -> None:
    rig = Rig()
    heard = rig.capture()
    spec = Spec(SampleFormat.S16LE, 2, 22_050)
    data = s16(sine(2.0, rate=22_050))
    player = rig.client().play(spec, STEREO, data, tlength=ms(tlength_ms, rate=22_050), prebuf=FRAME)
    rig.run(1.0)
    reply = timing(player)
    told = reply["read_index"] / FRAME / 22.05 - reply["sink_usec"] / 1000
    # The mix is ahead of the clock by what is not due yet, which the latency includes too.
    begun = heard.positions[0] / 48
    assert told == pytest.approx(rig.now_ns / 1e6 - begun, abs=1.0)


def test_time_without_prebuffering_is_exact_at_any_rate() -> None:
    rig = Rig()
    spec = Spec(SampleFormat.S16LE, 2, 22_050)
    player = rig.client().play(spec, STEREO, tlength=ms(20, rate=22_050), prebuf=0)
    rig.run(10.0)
    stream = rig.playback_at(player.index)
    waited = 0.2
    assert stream.queue.read_index == pytest.approx((10.0 - waited) * 22_050 * FRAME, abs=22_050 * FRAME * 0.011)


@pytest.mark.parametrize("rate", [22_050, 44_100, 96_000])
def test_drain_after_pause_releases_frames_held_by_resampler(rate: int) -> None:
    rig = Rig()
    client = rig.client()
    capture = rig.capture()
    spec = Spec(SampleFormat.F32LE, 1, rate)
    for _ in range(3):
        before = np.count_nonzero(capture.sound[:, 0])
        tone = np.full(rate // 10, 0.5, np.float32)
        player = client.play(spec, (0,), tone.tobytes(), tlength=rate // 50 * 4, prebuf=4)
        rig.run(0.5)
        tag = client.send(Command.DRAIN_PLAYBACK_STREAM, channel=player.channel)
        rig.run(0.3)
        client.exchange()
        assert tag in client.replies
        assert abs(np.count_nonzero(capture.sound[:, 0]) - before - 4800) <= 2
        client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)


@pytest.mark.parametrize("tlength_ms", [60, 250, 2000])
@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_sound_ends_completely_before_pause_and_next_starts_anew(rate: int, tlength_ms: int) -> None:
    rig = Rig()
    client = rig.client()
    capture = rig.capture()
    word = np.full(rate // 5, 0.5, np.float32)
    player = client.play(
        Spec(SampleFormat.F32LE, 1, rate), (0,), word.tobytes(), tlength=rate * tlength_ms // 1000 * 4, prebuf=4
    )
    for number in range(1, 4):
        rig.run(1)
        assert abs(np.count_nonzero(capture.sound[:, 0]) - number * 9600) <= 3 * number
        player.data = memoryview(word.tobytes())
        player.feed()
