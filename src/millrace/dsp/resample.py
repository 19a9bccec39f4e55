"""Resampling at fixed ratios by soxr or libsamplerate, depending on how much delay is acceptable.

soxr HQ is four times cheaper but holds back hundreds of frames; libsamplerate's `sinc_fastest` holds back 20 and is
used for streams that ask for low latency. Both libraries are imported on first use: most sound needs no resampling, and
startup stays quick.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from millrace.dsp.convert import Samples
from millrace.units import NS_PER_S, RATE_MIN, Frames, HostNs

SOXR_HOLDS: Frames = 1400
SINC_HOLDS: Frames = 20
"""The most that each holds back, in frames of the lower of its two rates (measured from 4 to 384 kHz: 1,367 and 20)."""


SINC_STRETCH_MAX = 256
"""libsamplerate's largest ratio."""


def stretched(low: int, high: int) -> bool:
    """Whether a filter between these rates would hold back seconds of sound; frames are then repeated instead."""
    return low < RATE_MIN or low * SINC_STRETCH_MAX < high


def holds_ns(rate_in: int, rate_out: int, low_delay: bool) -> HostNs:
    """The most that a resampler between these rates holds back; 0 if none is needed."""
    if rate_in == rate_out or stretched(rate_in, rate_out):
        return 0
    return (SINC_HOLDS if low_delay else SOXR_HOLDS) * NS_PER_S // min(rate_in, rate_out)


SOXR_REMEMBERS: Frames = 1800
SINC_REMEMBERS: Frames = 64
"""How many of the last frames, at the lower rate, the output of each may still depend on: those that it holds back, and
the length of its filter."""


SOXR_BYTES, SINC_BYTES = 144 * 1024, 64 * 1024
"""Memory per channel at usual rates with pieces of PIECE_FRAMES; up to twice that from 1 to 384 kHz. It is booked, and
`python -m bench memory` compares what is booked with resident memory."""


PIECE_FRAMES: Frames = 2048
"""The best size of input to a resampler, at the higher of its rates. soxr keeps buffers as large as the largest piece
it was ever given."""


FRAME_BYTES = 4
"""One channel of a frame."""


def resampler_bytes(rate_in: int, rate_out: int, channels: int, low_delay: bool) -> int:
    """The memory used by the result of `make_resampler`."""
    if stretched(rate_in, rate_out):
        return channels * FRAME_BYTES * 2 * (rate_out // rate_in + 1)
    if rate_in == rate_out:
        return 0
    own, frames = (SINC_BYTES, SINC_REMEMBERS) if low_delay else (SOXR_BYTES, SOXR_REMEMBERS)
    return channels * (own + FRAME_BYTES * _at_input(frames, rate_in, rate_out))


def _at_input(frames: Frames, rate_in: int, rate_out: int) -> Frames:
    """Frames of the lower rate, at the input's."""
    return -(-frames * rate_in // min(rate_in, rate_out))


def remembered(resampler: Resampler, rate_in: int, rate_out: int) -> Frames:
    """How many of its last input frames a resampler's output may still depend on."""
    return _at_input(resampler.remembers, rate_in, rate_out)


class Resampler(Protocol):
    """Converts frames from one rate to another, keeping history between calls."""

    @property
    def name(self) -> str:
        """What users see."""
        ...

    @property
    def remembers(self) -> Frames:
        """How many of its last input frames, at the lower rate, its output may still depend on."""
        ...

    def process(self, block: Samples) -> Samples:
        """Feed (frames, channels); return what is ready, possibly nothing."""
        ...

    def finish(self) -> Samples:
        """Feed silence until the last real frame is out; return the rest."""
        ...


# soxr's stream takes a one-dimensional array for mono, and keeps the dtype it was made with; libsamplerate wants the
# same of mono. Both may return no frames for a piece, and more than its share for a later one.
class SoxrResampler:
    """Best quality for the CPU time; for streams whose latency does not matter."""

    name = "soxr-hq"
    remembers = SOXR_REMEMBERS

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        import soxr

        self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")
        self._channels = channels

    def process(self, block: Samples) -> Samples:
        """See `Resampler`."""
        flat = block if self._channels > 1 else block[:, 0]
        return self._shaped(self._stream.resample_chunk(np.ascontiguousarray(flat)))

    def finish(self) -> Samples:
        """See `Resampler`."""
        empty = np.zeros((0, self._channels) if self._channels > 1 else 0, np.float32)
        return self._shaped(self._stream.resample_chunk(empty, last=True))

    def finish_of(self, block: Samples) -> Samples:
        """Resample all of `block` at once, to its end."""
        flat = block if self._channels > 1 else block[:, 0]
        return self._shaped(self._stream.resample_chunk(np.ascontiguousarray(flat), last=True))

    def _shaped(self, out: Samples) -> Samples:
        return out.reshape(-1, self._channels)


class SincResampler:
    """The shortest delay (19 frames at unity), and a ratio that may change at every call."""

    name = "src-sinc-fastest"
    remembers = SINC_REMEMBERS
    _TAIL = 64

    def __init__(self, ratio: float, channels: int) -> None:
        import samplerate

        self._resampler = samplerate.Resampler("sinc_fastest", channels=channels)
        self._channels = channels
        self.ratio = ratio
        self._owed = 0.0

    def process(self, block: Samples) -> Samples:
        """See `Resampler`."""
        out = self._process(block, False)
        # What has been fed and not come out yet, in output frames. `finish` feeds silence to push it out, and cuts off
        # what that silence itself became.
        self._owed += len(block) * self.ratio - len(out)
        return out

    def finish(self) -> Samples:
        """See `Resampler`. Returns everything up to the last frame fed, without the silence fed after it."""
        tail = self._process(np.zeros((self._TAIL, self._channels), np.float32), True)
        return tail[: max(0, round(self._owed))]

    # Given a new ratio at the next call instead, libsamplerate goes over to it during that call, and a call has no room
    # for the frames that the old ratio would have made: the input that is left over is lost.
    def step_to(self, ratio: float) -> None:
        """Change to a very different ratio, at once."""
        self.ratio = ratio
        self._resampler.set_ratio(ratio)

    def _process(self, block: Samples, last: bool) -> Samples:
        flat = block if self._channels > 1 else block[:, 0]
        out: Samples = self._resampler.process(flat, self.ratio, end_of_input=last)
        return np.asarray(out, np.float32).reshape(-1, self._channels)


class TrivialResampler:
    """Repeats each frame for its duration at a higher rate, with no delay. The name is PulseAudio's."""

    name = "trivial"
    remembers = 0

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._rates, self._channels = (rate_in, rate_out), channels
        self._fed = 0

    def process(self, block: Samples) -> Samples:
        """See `Resampler`."""
        rate_in, rate_out = self._rates
        # Whole numbers, so the error never adds up; the pattern repeats after `rate_in` frames, so `_fed` need not
        # grow.
        ends = np.arange(self._fed, self._fed + len(block) + 1) * rate_out // rate_in
        self._fed = (self._fed + len(block)) % rate_in
        return np.repeat(block, np.diff(ends), axis=0)

    def finish(self) -> Samples:
        """See `Resampler`."""
        return np.zeros((0, self._channels), np.float32)


def make_resampler(rate_in: int, rate_out: int, channels: int, low_delay: bool) -> Resampler | None:
    """A resampler between two fixed rates, or None if they are the same."""
    if rate_in == rate_out:
        return None
    if rate_in < rate_out and stretched(rate_in, rate_out):
        return TrivialResampler(rate_in, rate_out, channels)
    if low_delay and rate_in <= rate_out * SINC_STRETCH_MAX:
        return SincResampler(rate_out / rate_in, channels)
    return SoxrResampler(rate_in, rate_out, channels)
