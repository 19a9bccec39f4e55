"""A resampler that is frozen and continued elsewhere gives the same frames as one that was not."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from millrace.doors.resampled import Resampled, ResampledState
from millrace.dsp.convert import Samples
from millrace.dsp.resample import PIECE_FRAMES
from millrace.dsp.resumable import ResamplerState, Resumable, make_resumable
from millrace.sim.signals import sine

RATES = [
    (44_100, 48_000), (48_000, 44_100), (8_000, 48_000), (96_000, 48_000), (192_000, 44_100), (48_000, 8_000),
    (44_099, 48_000), (4, 48_000),
]  # fmt: skip
EXACT = 2.0**-23
"""One step of 24-bit sound: the libraries' sums depend on where their blocks begin."""


def noise(frames: int, seed: int = 7) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, 2)).astype(np.float32)


def resampler(rates: tuple[int, int], low_delay: bool, glide: bool, state: ResamplerState | None = None) -> Resumable:
    made = make_resumable(rates, 2, low_delay, glide, state)
    assert made is not None
    return made


def through(
    sound: Samples, rates: tuple[int, int], low_delay: bool, piece: int, freeze_every: int, glide: bool = False
) -> Samples:
    """All of `sound` in pieces; the resampler is replaced by another one after every `freeze_every` of them."""
    own, out = resampler(rates, low_delay, glide), []
    for number, at in enumerate(range(0, len(sound), piece), 1):
        out.append(own.process(sound[at : at + piece]))
        if number % freeze_every == 0:
            frozen = msgspec.msgpack.encode(own.freeze())
            own = resampler(rates, low_delay, glide, msgspec.msgpack.decode(frozen, type=ResamplerState))
    return np.concatenate([*out, own.finish()])


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("low_delay", [False, True])
@pytest.mark.parametrize(("piece_ms", "freeze_every"), [(10, 19), (1, 64), (40, 1)])
def test_frames_continue_where_they_ended(
    rates: tuple[int, int], low_delay: bool, piece_ms: int, freeze_every: int
) -> None:
    if rates[0] < 1_000:
        sound, piece = noise(40), piece_ms
    else:
        sound, piece = noise(rates[0] // 5), min(PIECE_FRAMES, rates[0] * piece_ms // 1_000)
    expected = through(sound, rates, low_delay, piece, freeze_every=1 << 30)
    got = through(sound, rates, low_delay, piece, freeze_every)
    assert len(got) == len(expected) > 0
    off = float(np.abs(got - expected).max())
    assert off == 0.0 if low_delay or rates[0] < 1_000 else off <= 6 * EXACT, off


def test_consumed_input_is_not_kept() -> None:
    own = resampler((48_000, 44_100), low_delay=False, glide=False)
    for _ in range(100):
        own.process(noise(2_048))
    assert len(own.freeze().last) == 8 * (1_800 * 48_000 // 44_100 + 1)
    assert sum(len(block) for block in own._last) < 4_500


@pytest.mark.parametrize("rates", [(48_024, 48_000), (44_100, 48_000), (48_000, 48_480), (48_000, 24_000)])
def test_changed_ratio_continues_in_phase(rates: tuple[int, int]) -> None:
    """A frame too many or too few would be 0.065 in a sine of 1 kHz."""
    sound, heard = sine(0.2, 1_000), []
    begun = (rates[0], rates[0]) if rates[1] != 48_000 else (48_000, 48_000)
    for freezing in (False, True):
        own, out = resampler(begun, False, glide=True), []
        for number, at in enumerate(range(0, len(sound), 480)):
            if number == 5:
                own.glide(rates)
            out.append(own.process(sound[at : at + 480]))
            if number == 12 and freezing:
                own = resampler(rates, False, True, own.freeze())
        heard.append(np.concatenate(out))
    assert len(heard[0]) == len(heard[1]) and np.abs(heard[0] - heard[1]).max() < 0.001


@pytest.mark.parametrize("rate", [48_000, 44_100])
@pytest.mark.parametrize("glide", [False, True])
def test_client_stream_continues_with_frames_read_but_not_taken(rate: int, glide: bool) -> None:
    sound, heard = noise(rate // 2), []
    for freezing in (False, True):
        at, out, own = 0, [], Resampled(rate, 48_000, 2, low_delay=False, glide=glide)

        def read(into: Samples) -> int:
            nonlocal at
            got = min(len(into), len(sound) - at)
            into[:got] = sound[at : at + got]
            at += got
            return got

        for frames in [480, 7, 120, 1_000] * 30:
            block = np.zeros((frames, 2), np.float32)
            out.append(block[: own.pull(block, read, frames)])
            if freezing:
                state = msgspec.msgpack.decode(msgspec.msgpack.encode(own.freeze()), type=ResampledState)
                own = Resampled(rate, 48_000, 2, low_delay=False, glide=glide, state=state)
        assert own.held_ns == 0
        heard.append(np.concatenate(out))
    assert len(heard[0]) == len(heard[1]) and np.abs(heard[0] - heard[1]).max() <= 6 * EXACT
