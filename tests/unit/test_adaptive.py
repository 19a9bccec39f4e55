"""The adaptive link and its voice, the reorder buffer, the emulators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.clock.jitter import PROFILES
from millrace.clock.pace import RateController
from millrace.dsp.convert import Samples
from millrace.dsp.measure import level_dbfs, phase_jumps, tone_snr_db
from millrace.errors import ConfigError
from millrace.media.audio import AudioPacket
from millrace.playout.adaptive import AdaptiveLink, State, conceal_gain
from millrace.playout.buffer import JitterBuffer
from millrace.playout.reorder import Reorder
from millrace.sim.card import FakeCard
from millrace.sim.clocks import SimClock
from millrace.sim.net import NetEmulator, Path
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S


def test_voice_resamples_continuously_while_ratio_changes() -> None:
    voice = JitterBuffer(48_000, 2)
    signal = sine(2.0)
    voice.write(signal[:48_000])
    voice.write(signal[48_000:])
    out = []
    for k in range(150):
        block = np.empty((480, 2), np.float32)
        assert voice.read(block, 1.0 + 2e-6 * (k % 7)) == 480
        out.append(block)
    sound = np.concatenate(out)
    # The ratio's own saw of 12 ppm is all that is left: 0.3 mrad.
    assert tone_snr_db(sound[4800:, 0], 48_000)[0] > 70
    assert abs(voice.fill - (96_000 - sum(480 / (1.0 + 2e-6 * (k % 7)) for k in range(150)))) < 0.1


def test_concealment_continues_fades_and_crossfades_into_new_sound() -> None:
    voice = JitterBuffer(48_000, 1)
    signal = sine(1.0, 441, channels=1)
    voice.write(signal[:9600])
    for _ in range(8):
        voice.conceal(240)
    voice.write(signal[9600 + 8 * 240 :])
    heard = np.empty((30_000, 1), np.float32)
    voice.read(heard, 1.0)
    assert not len(phase_jumps(heard[500:9600, 0], 48_000, 441, 0.02))
    assert np.abs(np.diff(heard[400:, 0])).max() < 0.5 * 2 * np.pi * 441 / 48_000 * 1.6
    assert level_dbfs(heard[9600:10_400, 0]) == pytest.approx(-6.02, abs=0.3)
    assert level_dbfs(heard[11_300:11_500, 0]) < -20
    assert conceal_gain(np.array([0, 960, 1440, 1920, 9999]), 48_000).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


def playing(latency: str = "normal", packet_ms: int = 20) -> tuple[AdaptiveLink, JitterBuffer, list[float]]:
    """A link that has played 10 s of a tone."""
    pace = RateController(48_000, PROFILES[latency])
    voice = JitterBuffer(48_000, 1)
    link = AdaptiveLink(48_000, 48_000, pace, voice)
    heard: list[float] = []
    run(link, voice, heard, 0, 10_000, packet_ms)
    return link, voice, heard


def run(
    link: AdaptiveLink,
    voice: JitterBuffer,
    heard: list[float],
    start: int,
    end: int,
    packet_ms: int = 20,
    late_ms: int = 0,
) -> None:
    """Run from `start` to `end` ms, with packets that arrive `late_ms` late."""
    for ms in range(start, end, 5):
        now = ms * NS_PER_MS
        if (ms - late_ms) % packet_ms == 0 and ms >= late_ms:
            media = (ms - late_ms) * NS_PER_MS
            n = packet_ms * 48
            at = (ms - late_ms) * 48
            voice.write((0.5 * np.sin(2 * np.pi * 440 / 48_000 * np.arange(at, at + n))).astype(np.float32)[:, None])
            link.pace.arrived(media, packet_ms * NS_PER_MS, now)
            link.written(media, n)
        block = np.zeros((240, 1), np.float32)
        if link.pull(240, now):
            voice.read(block[link.lead :], link.ratio)
        heard.extend(block[:, 0].tolist())


def test_small_latency_error_is_spliced_and_large_one_skipped() -> None:
    for extra_ms, skips in ((40, 0), (400, 1)):
        link, voice, heard = playing()
        # The path was 40 or 400 ms slower until now.
        voice.write(np.zeros((extra_ms * 48, 1), np.float32))
        link.voice.conceal(1)
        run(link, voice, heard, 10_000, 12_000)
        assert abs(link.late_ns) < 3 * NS_PER_MS
        assert link.tally.skips == skips and link.tally.underruns == 0
        assert not len(phase_jumps(np.array(heard[48_000 * 9 : 48_000 * 10 - 4800], np.float32), 48_000, 440))


def test_link_underruns_once_fades_and_returns_at_target() -> None:
    link, voice, heard = playing()
    for ms in range(10_000, 11_000, 5):
        block = np.zeros((240, 1), np.float32)
        if link.pull(240, ms * NS_PER_MS):
            voice.read(block, link.ratio)
        heard.extend(block[:, 0].tolist())
    assert link.state is State.PRIMING and link.tally.underruns == 1
    run(link, voice, heard, 11_000, 13_000)
    assert link.state is State.PLAYING and link.tally.underruns == 1
    assert abs(link.late_ns) < 3 * NS_PER_MS
    sound = np.array(heard, np.float32)
    assert np.abs(np.diff(sound)).max() < 0.5 * 2 * np.pi * 440 / 48_000 * 1.6


def test_concealed_frames_replace_lost_frames() -> None:
    link, _, _ = playing()
    assert link.missing(10_040 * NS_PER_MS) == 40 * 48
    assert link.missing(9_000 * NS_PER_MS) == 0
    assert link.missing(60_000 * NS_PER_MS) == 0
    for ms in range(10_000, 10_050, 5):
        link.pull(240, ms * NS_PER_MS)
        link.voice.drop(240)
    assert 0 < link.replaced(10_000) < 2400
    assert link.replaced(10_000) == 0


def test_concealment_before_late_sound_does_not_replace_later_losses() -> None:
    link, _, _ = playing()
    for ms in range(10_000, 10_030, 5):
        link.pull(240, ms * NS_PER_MS)
        link.voice.drop(240)
    assert link.replaced(1) == 1
    link.written(10_000 * NS_PER_MS, 960)
    assert link.replaced(1) == 0


# -- reorder ------------------------------------------------------------------------------------------


def packet(sequence: int) -> AudioPacket:
    return AudioPacket(1, 960, sequence % (1 << 32), 0, 0, b"")


@given(st.permutations(range(12)), st.integers(0, (1 << 32) - 1))
def test_reorder_buffer_outputs_packets_in_order(order: list[int], first: int) -> None:
    buffer = Reorder()
    out = [p.sequence for p in buffer.add(packet(first))]
    for k in order:
        out += [p.sequence for p in buffer.add(packet(first + 1 + k))]
    assert out == [(first + k) % (1 << 32) for k in range(13)] and not buffer.waiting


def test_reorder_buffer_waits_for_missing_packet_until_released() -> None:
    buffer = Reorder()
    assert len(buffer.add(packet(5))) == 1
    assert buffer.add(packet(7)) == [] and buffer.add(packet(8)) == [] and buffer.waiting
    assert [p.sequence for p in buffer.release()] == [7, 8]
    assert buffer.add(packet(6)) == [] and not buffer.waiting, "it is too late"
    assert [p.sequence for k in range(200) for p in buffer.add(packet(10 + k))][-1] == 209


# -- the emulators --------------------------------------------------------------------------------------


def test_same_seed_repeats_network() -> None:
    path = Path(10 * NS_PER_MS, "exp", 3e6, loss=0.1, duplicate=0.05, reorder=0.05)
    runs = []
    for _ in range(2):
        net: NetEmulator[int] = NetEmulator(path, 7)
        out = []
        for k in range(2000):
            net.send(k, k * NS_PER_MS)
            out += net.receive(k * NS_PER_MS)
        runs.append(out)
        assert 150 < net.lost < 250 and net.duplicated > 50 and net.reordered > 50
    assert runs[0] == runs[1]


def test_network_keeps_order_rate_and_stalls() -> None:
    net: NetEmulator[int] = NetEmulator(Path(NS_PER_MS, "exp", 5e6), 3)
    for k in range(500):
        net.send(k, k * NS_PER_MS)
    assert net.receive(10 * NS_PER_S) == list(range(500)) and net.next_timeout() is None
    slow: NetEmulator[int] = NetEmulator(Path(0, rate_bps=8000))
    for k in range(10):
        slow.send(k, 0, 100)
    assert len(slow.receive(500 * NS_PER_MS)) == 5
    stalled: NetEmulator[int] = NetEmulator(Path(0, stalls=((NS_PER_S, 3 * NS_PER_S),)))
    stalled.send(1, 2 * NS_PER_S)
    assert stalled.next_timeout() == 3 * NS_PER_S


def test_burst_loss_loses_that_many_packets_in_a_row() -> None:
    path = Path(loss=0.05, burst=True)
    lost = path.losses(np.random.default_rng(2), 200_000)
    assert lost.mean() == pytest.approx(0.05, rel=0.15)
    assert (lost[1:] & lost[:-1]).sum() / lost.sum() > 0.6
    net: NetEmulator[int] = NetEmulator(path, 2)
    for k in range(50_000):
        net.send(k, k)
    assert net.lost / 50_000 == pytest.approx(0.05, rel=0.25)
    with pytest.raises(ConfigError, match="exp"):
        Path(jitter="nonsense")
    with pytest.raises(ConfigError, match="shares"):
        Path(loss=1.5)


def test_wrong_clock_and_its_inverse_agree() -> None:
    clock = SimClock(-300.0, 20.0, 0.7)
    true = np.linspace(0, 86_400e9, 1000)
    assert np.abs(clock.when(clock.read(true)) - true).max() < 1.0
    assert SimClock(0.0, jumps=((5.0, 100.0),)).read(np.array([4.0, 6.0])).tolist() == [4.0, 106.0]


def test_fake_card_pulls_by_own_clock_and_keeps_frames() -> None:
    card = FakeCard(48_000, 2, 480, SimClock(ppm=1_000.0), 5 * NS_PER_S)
    assert card.sound.shape == (0, 2)
    given: list[int] = []

    def pull(block: Samples, now_ns: int) -> None:
        assert block.shape == (480, 2) and not block.any()
        block += len(given) + 1
        given.append(now_ns)

    card.handle_timeout(5 * NS_PER_S - 1, pull)
    assert not given and card.next_timeout() == 5 * NS_PER_S
    while (due := card.next_timeout()) < 6 * NS_PER_S:
        card.handle_timeout(due, pull)
    # A clock 1000 ppm fast has pulled after 99.9 ms what lasts 100.
    assert len(given) == 101 and given[10] - given[0] == round(100 * NS_PER_MS / 1.001)
    card.handle_timeout(6 * NS_PER_S + 55 * NS_PER_MS, pull)
    assert len(given) == 106 and set(given[101:]) == {6 * NS_PER_S + 55 * NS_PER_MS}, "all that is due"
    assert card.sound.shape == (106 * 480, 2) and card.sound[::480, 1].tolist() == list(range(1, 107))


def test_frames_without_room_count_as_overrun() -> None:
    link, voice, _ = playing()
    before = link.tally.left_out_frames
    block = np.zeros((48_000, 1), np.float32)
    for second in range(10, 16):
        link.written(second * NS_PER_S, len(block), voice.write(block))
    left_out = link.tally.left_out_frames - before
    assert left_out == link.tally.overrun_frames > 48_000
    assert link.fill_ns == round(voice.fill * NS_PER_S / 48_000) < 5 * NS_PER_S
