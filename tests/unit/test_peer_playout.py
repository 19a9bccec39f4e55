"""What a listener decodes and plays: lost and damaged packets, jitter, stalls, other rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from millrace.codec.opus import OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.pcm import encode_pcm
from millrace.codec.settings import CodecSettings, changed
from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.errors import RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.playout.decode import PacketDecoder
from millrace.playout.playout import Playout, State
from millrace.sim.signals import count, sine
from millrace.units import NS_PER_MS, NS_PER_S, default_map
from tests.peerformat import FORMAT

# -- the decoder and the playout ------------------------------------------------------------------


def pcm_packets(signal: np.ndarray, size: int = 960) -> list[AudioPacket]:
    return [
        AudioPacket(
            1,
            size,
            i,
            1000 + i * size,
            i * size * NS_PER_S // 48_000,
            encode_pcm("s16", signal[i * size : (i + 1) * size]),
        )
        for i in range(len(signal) // size)
    ]


def test_lost_opus_packets_are_concealed_to_the_frame() -> None:
    encoder = OpusEncoder(
        2, changed(CodecSettings(), {"application": "voip", "bitrate": "24k", "fec": "on", "loss": "20"})
    )
    signal = sine(2.0, 300)
    packets = [
        AudioPacket(
            1,
            960,
            i,
            i * 960,
            i * 20 * NS_PER_MS,
            encoder.encode(np.ascontiguousarray(signal[i * 960 : (i + 1) * 960])),
        )
        for i in range(100)
    ]
    decoder = PacketDecoder(CodecParameters(1, "opus", 48_000, list(default_map(2)), lookahead=312))
    lost = {20, 50, 51}
    parts = [part for i, p in enumerate(packets) if i not in lost for part in decoder.decode(p)]
    assert decoder.lost_packets == 3
    assert sum(len(part.block) for part in parts) == 96_000
    assert [a.position + len(a.block) for a in parts[:-1]] == [b.position for b in parts[1:]]
    sound = np.concatenate([part.block for part in parts])
    assert level_dbfs(sound[20 * 960 : 21 * 960, 0]) > -15
    assert decoder.decode(packets[3]) == []


def test_damaged_packet_costs_one_packet_and_bad_format_is_refused() -> None:
    decoder = PacketDecoder(CodecParameters(1, "opus", 48_000, list(default_map(2))))
    parts = decoder.decode(AudioPacket(1, 960, 0, 0, 0, b"\xff\xff\xff"))
    assert decoder.lost_packets == 1 and len(parts[0].block) == 960
    for bad in (
        CodecParameters(1, "opus", 44_100, ["mono"]),
        CodecParameters(1, "s16", 0, ["mono"]),
        CodecParameters(1, "s16", 48_000, []),
    ):
        with pytest.raises(RemoteProtocolError):
            PacketDecoder(bad)
    with pytest.raises(RemoteProtocolError, match="permutation"):
        PacketDecoder(CodecParameters(1, "s16", 48_000, ["front-left", "front-right"], order=[0, 0]))


def run_playout(
    delays_ms: list[float], signal: np.ndarray, profile: str = "normal", rate: int = 48_000
) -> tuple[Playout, np.ndarray]:
    """Packets arrive with these extra delays; the card pulls 5 ms at a time."""
    playout = Playout(rate, default_map(2), profile)
    playout.set_format(FORMAT)
    arrivals = sorted(
        (p.host_ns + 40 * NS_PER_MS + round(delays_ms[i % len(delays_ms)] * NS_PER_MS), i, p)
        for i, p in enumerate(pcm_packets(signal))
    )
    out, now = [], 0
    block = np.empty((rate // 200, 2), np.float32)
    while now < arrivals[-1][0] + NS_PER_S:
        while arrivals and arrivals[0][0] <= now:
            playout.push(arrivals.pop(0)[2], now)
            if not arrivals:
                playout.silence()
                arrivals = [(1 << 62, 0, pcm_packets(signal)[0])]
        if arrivals and arrivals[0][0] == 1 << 62 and playout.state is State.QUIET:
            break
        playout.pull(block, now)
        out.append(block.copy())
        now += 5 * NS_PER_MS
    return playout, np.concatenate(out)


def test_smooth_arrivals_play_every_frame_once() -> None:
    signal = count(28_800)
    playout, heard = run_playout([0.0], signal)
    assert playout.tally.underruns == 0 and playout.tally.left_out_frames == 0
    loud = heard[heard.any(axis=1)]
    # A ramp: after fading in it climbs by 1/32768 a frame, without a step, to its end.
    assert np.allclose(np.diff(loud[300:28_000, 0]), 1 / 32768, atol=1e-5)
    assert abs(len(loud) - len(signal)) < 50


def test_jitter_below_quantile_is_absorbed() -> None:
    random = np.random.default_rng(3)
    delays = [0.0, *random.uniform(0, 8, 300)]
    playout, _heard = run_playout(delays, count(48_000 * 5))
    assert playout.tally.underruns == 0


def test_stall_is_one_faded_underrun_and_latency_recovers() -> None:
    delays = [0.0] * 400
    for i in range(200, 215):
        delays[i] = max(0.0, 300.0 - (i - 200) * 20)
    playout, heard = run_playout(delays, sine(8.0))
    assert 1 <= playout.tally.underruns <= 2
    assert np.abs(np.diff(heard[:, 0])).max() < 0.5 * 2 * np.pi * 997 / 48_000 * 1.5 + 0.02
    assert playout.tally.left_out_frames > 48_000 * 0.15


def test_counters_survive_a_change_of_rate() -> None:
    playout, _ = run_playout([0.0] * 50 + [300.0] * 50, sine(2.0))
    counted = replace(playout.tally)
    assert counted.underruns > 0
    playout.set_format(CodecParameters(2, "s16", 44_100, list(default_map(2))))
    assert playout.tally == counted


def test_other_rate_and_layout_are_converted() -> None:
    playout = Playout(44_100, default_map(1), "normal")
    playout.set_format(FORMAT)
    for packet in pcm_packets(sine(1.0)):
        playout.push(packet, packet.host_ns)
    out = np.zeros((44_100, 1), np.float32)
    playout.silence()
    for i in range(100):
        playout.pull(out[i * 441 : (i + 1) * 441], (i + 2) * 10 * NS_PER_MS)
    assert playout.played_frames > 40_000
    # It starts up to a pull late, and works that off.
    assert abs(frequency_hz(out[2000:40_000, 0], 44_100) - 997) < 0.5
    assert abs(level_dbfs(out[2000:40_000, 0]) - -6.02) < 0.1
