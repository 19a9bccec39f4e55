"""Conversion, channel maps, rings, mixing, resampling, measuring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.dsp.channels import Mapping, mapped, mix_matrix
from millrace.dsp.convert import (
    FLOAT_LIMIT,
    NAMES,
    PULSE_FORMATS,
    SAMPLE_BYTES,
    SampleFormat,
    decode,
    encode,
    silence_byte,
)
from millrace.dsp.measure import frequency_hz, level_dbfs, phase_jumps, silent_runs
from millrace.dsp.mix import Limiter, cubic_to_gain, gain_to_cubic, peak, ramp
from millrace.dsp.resample import make_resampler
from millrace.dsp.splice import accelerate, best_match, expand, last_period, match, skip
from millrace.dsp.tape import Tape
from millrace.sim.signals import sine
from millrace.units import DEFAULT_MAPS

ROUNDED = ["s32le", "s32be", "u32le", "u32be", "uLaw"]
EXACT = [fmt for fmt, name in NAMES.items() if name not in ROUNDED]


def decoded(fmt: SampleFormat, data: bytes) -> np.ndarray:
    out = np.empty(len(data) // SAMPLE_BYTES[fmt], np.float32)
    decode(fmt, data, out)
    return out


@pytest.mark.parametrize("fmt", EXACT)
def test_formats_up_to_24_bits_survive_a_round_trip_bit_for_bit(fmt: SampleFormat) -> None:
    data = np.random.default_rng(1).integers(0, 256, 1000 * SAMPLE_BYTES[fmt], np.uint8)
    if fmt in (SampleFormat.F32LE, SampleFormat.F32BE):
        data = np.random.default_rng(1).uniform(-1, 1, 1000).astype("<f4" if fmt is SampleFormat.F32LE else ">f4")
    if fmt is SampleFormat.S24_32LE:
        data[3::4] = 0
    if fmt is SampleFormat.S24_32BE:
        data[0::4] = 0
    assert encode(fmt, decoded(fmt, data.tobytes())) == data.tobytes()


def test_s32_keeps_24_bits_and_mulaw_has_one_zero() -> None:
    values = np.random.default_rng(2).integers(-(2**31), 2**31, 1000).astype("<i4")
    back = np.frombuffer(encode(SampleFormat.S32LE, decoded(SampleFormat.S32LE, values.tobytes())), "<i4")
    assert np.abs(back.astype(np.int64) - values).max() <= 2**8
    codes = bytes(range(256))
    again = encode(SampleFormat.ULAW, decoded(SampleFormat.ULAW, codes))
    assert [i for i in range(256) if again[i] != codes[i]] in ([0x7F], [0xFF])


@pytest.mark.parametrize("fmt", list(SampleFormat))
def test_silence_is_silence_and_overs_clip(fmt: SampleFormat) -> None:
    quiet = decoded(fmt, encode(fmt, np.zeros(4, np.float32)))
    assert np.abs(quiet).max() < 3e-4
    if fmt in PULSE_FORMATS:
        assert np.array_equal(decoded(fmt, bytes((silence_byte(fmt),)) * 4 * SAMPLE_BYTES[fmt]), quiet)
    if fmt in (SampleFormat.F32LE, SampleFormat.F32BE):
        return
    loud = decoded(fmt, encode(fmt, np.array([2.0, -2.0], np.float32)))
    assert 0.96 < loud[0] <= 1.0 and -1.0 <= loud[1] < -0.96


def test_unsigned_samples_equal_signed_ones_about_mid_scale() -> None:
    for unsigned, signed in (("U16", "S16"), ("U32", "S32")):
        for end, dtype in (("LE", "<"), ("BE", ">")):
            bits = int(unsigned[1:])
            values = np.array([0, 1, 1 << (bits - 1), (1 << (bits - 1)) + 1, (1 << bits) - 1], np.int64)
            low = values - (1 << (bits - 1))
            ours = decoded(SampleFormat[unsigned + end], values.astype(f"{dtype}u{bits // 8}").tobytes())
            assert np.array_equal(
                ours, decoded(SampleFormat[signed + end], low.astype(f"{dtype}i{bits // 8}").tobytes())
            )
            assert ours[3] == 2.0 ** (1 - bits) and ours[0] == -1.0


def test_known_companding_values() -> None:
    # ITU-T G.711, tables 1a and 2a: the largest and smallest positive outputs, on a 16-bit scale.
    assert decoded(SampleFormat.ALAW, b"\xaa")[0] * 32768 == 32256
    assert decoded(SampleFormat.ALAW, b"\xd5")[0] * 32768 == 8
    assert decoded(SampleFormat.ULAW, b"\x80")[0] * 32768 == 32124


def test_nan_and_infinite_floats_are_replaced() -> None:
    bad = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5], "<f4")
    out = decoded(SampleFormat.F32LE, bad.tobytes())
    assert list(out) == [0, 0, 0, FLOAT_LIMIT, -FLOAT_LIMIT, 0.5]


def test_no_mix_exceeds_full_scale() -> None:
    for n, source in DEFAULT_MAPS.items():
        for m, target in DEFAULT_MAPS.items():
            matrix = mix_matrix(source, target)
            assert (matrix is None) == (source == target)
            if matrix is not None:
                assert matrix.shape == (n, m) and matrix.any()
                assert matrix.sum(axis=0).max() <= 1.0001


FL, FR, FC, RL, RR, RC = (f"{depth}-{side}" for depth in ("front", "rear") for side in ("left", "right", "center"))
LFE, SL, SR, MONO = "lfe", "side-left", "side-right", "mono"
FLC, FRC = "front-left-of-center", "front-right-of-center"
SURROUND_51, SIDE_51 = (FL, FR, RL, RR, FC, LFE), (FL, FR, FC, LFE, SL, SR)
# As PulseAudio 16.1 prints them: a row for each output.
MIXES: list[tuple[tuple[str, ...], tuple[str, ...], list[list[float]]]] = [
    (SURROUND_51, (FL, FR), [[0.621, 0, 0.069, 0, 0.31, 0], [0, 0.621, 0, 0.069, 0.31, 0]]),
    (SURROUND_51, (MONO,), [[0.167] * 6]),
    ((FL, FR), SURROUND_51, [[1, 0], [0, 1], [1, 0], [0, 1], [0.5, 0.5], [0, 0]]),
    ((MONO,), SURROUND_51, [[1], [1], [1], [1], [1], [0]]),
    ((FL, FR, RL, RR, SL, SR), (FL, FR, RL, RR), [[0.9, 0, 0, 0, 0.1, 0], [0, 0.9, 0, 0, 0, 0.1],
                                                  [0, 0, 0.9, 0, 0.1, 0], [0, 0, 0, 0.9, 0, 0.1]]),
    ((FL, FR, FC), (FL, FR, RL, RR), [[0.667, 0, 0.333], [0, 0.667, 0.333], [1, 0, 0], [0, 1, 0]]),
    ((FL, FR, RL, RR, RC), (FL, FR, RL, RR), [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.667, 0, 0.333],
                                              [0, 0, 0, 0.667, 0.333]]),
    ((FL, FR, RC), (FL, FR), [[0.667, 0, 0.333], [0, 0.667, 0.333]]),
    ((FL, FR, FC, RC), (FL, FR, FC), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.9, 0.1]]),
    ((FC, RC), (FL, FR), [[0.25, 0.25], [0.25, 0.25]]),
    ((FL, FR), (FC,), [[0.5, 0.5]]),
    ((FL, RL, FR), (FR,), [[0, 0, 1]]),
    ((FL, FR), (MONO, MONO), [[0.5, 0.5], [0.5, 0.5]]),
    ((MONO, MONO), (FL, FR), [[0.5, 0.5], [0.5, 0.5]]),
    ((FL, FR), (FL, FR, FL, FR), [[1, 0], [0, 1], [1, 0], [0, 1]]),
    ((FL, FL, FR, FR), (FL, FR), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
    ((MONO, FL, FR), (FL, FR, FC), [[0.5, 0.5, 0], [0.5, 0, 0.5], [1, 0, 0]]),
    ((LFE,), (FL, FR), [[0], [0]]),
    ((MONO, FL, FR), (MONO,), [[0.6, 0.2, 0.2]]),
    # Side and rear loudspeakers stand in for each other, once, and before an average has used them.
    (SIDE_51, SURROUND_51, [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1],
                            [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
    (SURROUND_51, SIDE_51, [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1],
                            [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
    (SIDE_51, DEFAULT_MAPS[8], [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1],
                                [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]),
    ((FL, FR, SL, SR), (FL, FR, RL, RR), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ((FL, FR, FC, LFE, RC, SL, SR), (FL, FR, RL, RR), [[0.667, 0, 0.333, 0, 0, 0, 0], [0, 0.667, 0.333, 0, 0, 0, 0],
                                                       [0, 0, 0, 0, 0.333, 0.667, 0], [0, 0, 0, 0, 0.333, 0, 0.667]]),
    ((FL, FR, FC, LFE, RL, RR, FLC, FRC), SIDE_51,
     [[0.9, 0, 0, 0, 0, 0, 0.1, 0], [0, 0.9, 0, 0, 0, 0, 0, 0.1], [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0],
      [0, 0, 0, 0, 0.9, 0, 0.1, 0], [0, 0, 0, 0, 0, 0.9, 0, 0.1]]),
    (SURROUND_51, (SL, SR), [[0.069, 0, 0.621, 0, 0.31, 0], [0, 0.069, 0, 0.621, 0.31, 0]]),
    ((FL, SL), (RL, SL), [[0.1, 0.9], [0.1, 0.9]]),
    ((FL, RL), (RL, SL), [[0, 1], [0.5, 0.5]]),
    ((FL, RL), (FC, SL), [[0.5, 0.5], [0.5, 0.5]]),
    ((RC, SL, SL), (RL,), [[0.2, 0.4, 0.4]]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "rows"), MIXES)
def test_channels_are_mixed_as_by_pulseaudio(
    source: tuple[str, ...], target: tuple[str, ...], rows: list[list[float]]
) -> None:
    matrix = mix_matrix(source, target)
    assert matrix is not None and np.allclose(matrix.T, rows, atol=1e-3)


def test_channels_with_same_name_are_all_heard_without_remixing() -> None:
    """And not louder than full scale together."""
    matrix = mapped((FL, FL), (FL, FR), Mapping.NAMES)
    assert matrix is not None and np.allclose(matrix.T, [[0.5, 0.5], [0, 0]])


@given(st.lists(st.tuples(st.booleans(), st.integers(-8, 40)), max_size=60))
def test_tape_is_a_queue_that_keeps_history(steps: list[tuple[bool, int]]) -> None:
    tape, everything, head = Tape(32, 8, 1), [0.0] * 8, 8
    for write, n in steps:
        if write:
            block = np.arange(len(everything), len(everything) + max(0, n), dtype=np.float32)[:, None]
            done = tape.write(block)
            assert done == min(len(block), 32 - (len(everything) - head))
            everything += [float(x) for x in block[:done, 0]]
        else:
            n = max(-tape.past, min(n, tape.fill), tape.fill - 32)
            tape.advance(n)
            head += n
        assert tape.fill == len(everything) - head
        assert tape.ahead(40)[:, 0].tolist() == everything[head:]
        known = min(8, tape.past)
        assert tape.around(known, 0)[:, 0].tolist() == everything[head - known : head]
        assert tape.behind(4)[:, 0].tolist() == everything[-4:]


def tape_of(signal: np.ndarray, played: int) -> Tape:
    tape = Tape(96_000, 1920, signal.shape[1])
    assert tape.write(signal) == len(signal)
    tape.advance(played)
    return tape


@pytest.mark.parametrize("hz", [100.0, 440.0, 997.0, 3000.0])
def test_splices_of_a_tone_leave_no_discontinuity(hz: float) -> None:
    signal = sine(1.0, hz)
    for splice in (
        lambda t: -accelerate(t, 48_000, 10_000),
        lambda t: -skip(t, 48_000, 9600),
        lambda t: expand(t, 48_000, 10_000),
    ):
        tape = tape_of(signal, 4800)
        changed = splice(tape)
        heard = np.concatenate((signal[:4800], tape.ahead(96_000)))
        assert changed and len(heard) == len(signal) + changed
        assert not len(phase_jumps(heard[:, 0], 48_000, hz, 0.02))
        assert abs(level_dbfs(heard[:, 0]) - -6.02) < 0.1


def test_small_splice_waits_for_matching_place_and_large_one_does_not() -> None:
    for most, done in ((480, False), (10_000, True)):
        tape = Tape(48_000, 4800, 1)
        tape.write(np.random.default_rng(3).uniform(-1, 1, (9600, 1)).astype(np.float32))
        tape.advance(4800)
        assert bool(accelerate(tape, 48_000, most)) == bool(expand(tape, 48_000, most)) == done


def test_splices_need_enough_sound_and_respect_the_limit() -> None:
    tape = tape_of(sine(0.004), 0)
    assert accelerate(tape, 48_000, 10_000) == skip(tape, 48_000, 9600) == 0
    tape = tape_of(sine(1.0), 4800)
    assert accelerate(tape, 48_000, 100) == expand(tape, 48_000, 100) == 0
    assert 144 <= accelerate(tape, 48_000, 200) <= 200 + 96
    assert 144 <= expand(tape, 48_000, 200) <= 200 + 96


def test_continuation_extends_the_waveform() -> None:
    signal = sine(0.1, 440)
    loop = last_period(signal[:3000], 48_000)
    more = np.tile(loop, (3, 1))
    assert not len(phase_jumps(np.concatenate((signal[:3000], more))[:, 0], 48_000, 440, 0.02))
    assert not last_period(signal[:100], 48_000).any()
    assert best_match(signal[50:90], signal[:400]) == 50


def test_cubic_volumes_match_pulseaudio() -> None:
    assert abs(20 * np.log10(cubic_to_gain(0x8000)) + 18.06) < 0.01
    for volume in (0, 1, 1000, 0x8000, 0x10000, 0x18000):
        assert gain_to_cubic(cubic_to_gain(volume)) == volume


def test_peak_and_ramp() -> None:
    assert peak(np.array([0.25, -0.75], np.float32)) == 0.75
    assert peak(np.zeros(0, np.float32)) == 0.0
    assert ramp(4)[-1, 0] == 1.0 and ramp(4)[0, 0] == 0.25


def test_limiter_is_identity_within_full_scale_and_recovers() -> None:
    limiter = Limiter(960)
    quiet = sine(0.02, level=0.9)
    block = quiet.copy()
    limiter.apply(block, 0.9)
    assert np.array_equal(block, quiet)
    for _ in range(5):
        loud = sine(0.02, level=3.0)
        limiter.apply(loud, 3.0)
        assert np.abs(loud).max() <= 1.0
    assert limiter.gain < 0.4
    for _ in range(40):
        limiter.apply(quiet.copy(), 0.9)
    assert limiter.gain == 1.0


@pytest.mark.parametrize("low_delay", [True, False])
@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(44_100, 48_000), (48_000, 44_100), (8_000, 48_000), (192_000, 48_000)]
)
def test_resampling_keeps_pitch_level_and_tail(rate_in: int, rate_out: int, low_delay: bool) -> None:
    resampler = make_resampler(rate_in, rate_out, 2, low_delay)
    assert resampler is not None
    signal = sine(1.0, rate=rate_in)
    parts = [resampler.process(signal[i : i + 441]) for i in range(0, len(signal), 441)]
    out = np.concatenate([*parts, resampler.finish()])
    assert abs(len(out) - rate_out) < rate_out * 0.01 + 80
    middle = out[rate_out // 4 : rate_out * 3 // 4, 0]
    assert abs(frequency_hz(middle, rate_out) - 997) < 0.05
    assert abs(level_dbfs(middle) + 6.02) < 0.02


def test_equal_rates_need_no_resampler() -> None:
    assert make_resampler(48_000, 48_000, 2, True) is None


def test_measuring_recovers_known_signal() -> None:
    tone = sine(1.0)[:, 0]
    assert abs(frequency_hz(tone, 48_000) - 997) < 0.01
    assert abs(level_dbfs(tone) + 6.02) < 0.01
    assert level_dbfs(np.zeros(10, np.float32)) == -np.inf and frequency_hz(np.zeros(100, np.float32), 48_000) == 0
    assert not len(phase_jumps(tone, 48_000, 997))
    broken = np.delete(tone, 10_000)
    assert abs(phase_jumps(broken, 48_000, 997)[0] - 10_000) <= 2
    gap = tone.copy()
    gap[500:600] = 0
    assert silent_runs(gap, 50) == [(500, 100)]


def test_stereo_tone_in_opposite_phase_is_spliced_where_it_fits() -> None:
    tone = sine(0.1, 440)[:, :1]
    for right in (-1.0, -0.97):
        signal = np.concatenate((tone, np.float32(right) * tone), axis=1)
        at, likeness = match(signal[2000:2096], signal[:700])
        assert abs((2000 - at) * 440 / 48_000 % 1.0 - 0.5) > 0.49 and likeness > 0.99
        assert match(signal[2000:2096], signal[2000:2700]) == (0, pytest.approx(1.0, abs=1e-3))
    assert match(np.zeros((96, 2), np.float32), signal[:700]) == (0, 1.0)


def test_mulaw_silence_is_its_documented_byte() -> None:
    tiny = np.float32(1e-6)
    samples = np.array([0.0, -0.0, tiny, -tiny], np.float32)
    assert encode(SampleFormat.ULAW, samples) == b"\xff\xff\xff\x7f"
    for fmt in (SampleFormat.ALAW, SampleFormat.ULAW, SampleFormat.U8):
        assert encode(fmt, np.zeros(1, np.float32))[0] == silence_byte(fmt)


@pytest.mark.parametrize("frames", [120, 240, 480, 960, 1920])
def test_limiter_release_is_independent_of_block_length(frames: int) -> None:
    limiter = Limiter(1920, 0.25)
    for _ in range(10 * 1920 // frames):
        limiter.apply(np.zeros((frames, 1), np.float32), 0.0)
    assert limiter.gain == pytest.approx(0.25 * Limiter.RELEASE**10)
