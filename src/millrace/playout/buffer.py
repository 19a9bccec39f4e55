"""The samples of an AdaptiveLink: a tape, a resampler whose ratio may change at every pull, and splices."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.dsp.resample import SINC_BYTES, SincResampler
from millrace.dsp.splice import accelerate, expand, last_period, skip
from millrace.dsp.tape import Tape
from millrace.playout.adaptive import conceal_gain
from millrace.units import Frames

# These frames count in `fill`, since they will be heard, but not in `ready`: a pull that relied on them would come out
# short by as much and leave a hole.
LOOKAHEAD: Frames = 21
"""Frames that `sinc_fastest` holds back near unity (measured: 19 to 20)."""
_HISTORY_MS, _BLEND_MS, _FADE_MS = 40, 3, 5


def tape_bytes(rate: int, channels: int, seconds: int = 4) -> int:
    """Memory used by a voice: its tape and its resampler."""
    return 2 * rate * (1000 * seconds + _HISTORY_MS) // 1000 * channels * 4 + channels * SINC_BYTES


class JitterBuffer:
    """`PlayoutBuffer` with real frames: (frames, channels) float32 at `rate`, at most `seconds` of them."""

    def __init__(self, rate: int, channels: int, seconds: int = 4, output_rate: int | None = None) -> None:
        self.rate, self.channels = rate, channels
        # The filter gets longer in proportion when downsampling.
        self.lookahead = -(-LOOKAHEAD * max(rate, output_rate or rate) // (output_rate or rate))
        self._tape = Tape(rate * seconds, rate * _HISTORY_MS // 1000, channels)
        self._resampler = SincResampler(1.0, channels)
        self._out: Samples = np.zeros((0, channels), np.float32)
        self._inside = 0.0
        self._concealed: Frames = 0
        self._loop: Samples = np.zeros((1, channels), np.float32)
        self._fade_in = True

    # -- in --------------------------------------------------------------------------------------

    def write(self, block: Samples) -> Frames:
        """Append new frames, blending from concealment if there was any. Return how many had no room."""
        if not len(block):
            return 0
        if self._concealed:
            n = min(len(block), self.rate * _BLEND_MS // 1000)
            # The new frames do not start where the repeated period happens to end: without a blend that is a click.
            more = self._carry_on(n)
            block = block.copy()
            block[:n] = more + (block[:n] - more) * ramp(n)
            self._concealed = 0
        return len(block) - self._tape.write(block)

    def conceal(self, frames: Frames) -> None:
        """See `PlayoutBuffer`."""
        if frames > 0:
            self._tape.write(self._carry_on(frames))

    # The loop is chosen when concealment begins and then kept, and the counter goes on over several calls: concealing 5
    # ms four times must sound like 20 ms once. Conceal, write and the blend at the end all continue the same loop, so
    # there is no seam between them.
    def _carry_on(self, frames: Frames) -> Samples:
        """The next `frames` of the last period, repeated and fading."""
        if self._concealed == 0:
            self._loop = last_period(self._tape.behind(self._tape.history), self.rate)
        at = np.arange(self._concealed, self._concealed + frames)
        self._concealed += frames
        more: Samples = self._loop[at % len(self._loop)] * conceal_gain(at, self.rate)[:, None]
        return more

    # -- out -------------------------------------------------------------------------------------

    @property
    def fill(self) -> float:
        """See `PlayoutBuffer`."""
        return self._tape.fill + self._inside

    @property
    def ready(self) -> float:
        """See `PlayoutBuffer`."""
        return max(0.0, self.fill - self.lookahead)

    def read(self, out: Samples, ratio: float) -> Frames:
        """Fill `out` at `ratio` output frames per tape frame; return how many there were."""
        # `_inside` is what the resampler has taken in and not yet put out. Without it the fill, and so the latency,
        # would be off by that much, and would jump with the ratio.
        self._resampler.ratio = ratio
        while len(self._out) < len(out) and self._tape.fill:
            take = min(self._tape.fill, int((len(out) - len(self._out)) / ratio) + 1)
            made = self._resampler.process(self._tape.ahead(take))
            self._tape.advance(take)
            self._inside += take
            self._out = np.concatenate((self._out, made)) if len(self._out) else made
        got = min(len(out), len(self._out))
        out[:got] = self._out[:got]
        out[got:] = 0.0
        self._out = self._out[got:]
        self._inside -= got / ratio
        if self._fade_in and got:
            n = min(got, self.rate * _FADE_MS // 1000)
            out[:n] *= ramp(n)
            self._fade_in = False
        return got

    # A new resampler, because the old one still holds the last frames of what ended, and would play them before the
    # next sound.
    def stop(self) -> None:
        """Discard what is queued; what follows starts anew with a fade-in."""
        self._tape.clear()
        self._resampler = SincResampler(1.0, self.channels)
        self._out = self._out[:0]
        self._inside = 0.0
        self._concealed = 0
        self._fade_in = True

    def accelerate(self, most: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        return accelerate(self._tape, self.rate, most)

    def expand(self, most: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        return expand(self._tape, self.rate, most)

    def skip(self, frames: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        return skip(self._tape, self.rate, frames)

    def drop(self, frames: Frames) -> Frames:
        """See `PlayoutBuffer`."""
        n = max(0, min(frames, self._tape.fill))
        self._tape.advance(n)
        self._fade_in = True
        return n
