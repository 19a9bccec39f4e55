"""Converts a client's frames to the graph's rate: directly if the rates agree, else through a resampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.resample import PIECE_FRAMES, Resampler, SincResampler, make_resampler, stretched
from millrace.units import Frames, HostNs, frames_to_ns

Read = Callable[[Samples], Frames]
"""Fills the head of an array with frames at the client's rate; returns the number of frames."""


# Frames pass through three places: the client's buffer, the resampler, and `_pending`, which holds what came out of
# the resampler and did not fit the caller's array. Their order is the order of time, so whatever replaces the
# resampler must first let out what it holds (`change`), and a caller that asks whether all has been played must add
# `held_ns` to its own buffer. A change of ratio within a gliding resampler keeps its contents and needs none of this.
class Resampled:
    """Fills arrays at `rate_out` with frames read at `rate_in`.

    `glide` selects a resampler whose ratio can change seamlessly; it is then used even if the rates are equal.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, low_delay: bool, glide: bool = False) -> None:
        self._rates, self._channels = (rate_in, rate_out), channels
        self._low_delay, self._glide = low_delay, glide
        self._pending: Samples | None = None
        self.tail_done = False
        self._resampler: Resampler | None = None
        self._begin()

    def change(self, rate_in: int, low_delay: bool) -> None:
        """Continue from another rate, or with another delay. Frames read before the change come out first."""
        if (rate_in, low_delay) == (self._rates[0], self._low_delay):
            return
        self._rates, self._low_delay = (rate_in, self._rates[1]), low_delay
        if self._glides and isinstance(self._resampler, SincResampler):
            self._resampler.ratio = self._rates[1] / rate_in
            return
        if self._resampler is not None:
            self._keep(self._resampler.finish())
        self._begin()

    def _begin(self) -> None:
        rate_in, rate_out = self._rates
        if self._glides:
            self._resampler = SincResampler(rate_out / rate_in, self._channels)
        else:
            self._resampler = make_resampler(rate_in, rate_out, self._channels, self._low_delay)
        self._inside = 0.0
        """Frames inside the resampler, at `rate_out`."""

    @property
    def _glides(self) -> bool:
        return self._glide and not stretched(*self._rates)

    def _keep(self, more: Samples) -> None:
        """Append resampled frames to those not taken yet."""
        pending = self._pending
        self._pending = more if pending is None or not len(pending) else np.concatenate((pending, more))

    @property
    def method(self) -> str | None:
        """The resampler's name; None if none is needed."""
        return None if self._resampler is None else str(getattr(self._resampler, "name", "src-sinc-fastest"))

    @property
    def direct(self) -> bool:
        """Whether frames pass unchanged: there is no resampler, and no output of an earlier one is left."""
        return self._resampler is None and self._pending is None

    @property
    def pending(self) -> bool:
        """Whether resampled frames are waiting."""
        return self._pending is not None and len(self._pending) > 0

    @property
    def held_ns(self) -> HostNs:
        """Duration of sound read but not taken, including the resampler's delay."""
        pending = 0 if self._pending is None else len(self._pending)
        return frames_to_ns(pending + max(0, round(self._inside)), self._rates[1])

    def clear(self) -> None:
        """Discard the waiting frames and the resampler's state."""
        self._pending = None
        self._begin()

    # `due` is what keeps the end of a word from being cut off. A resampler holds back the last milliseconds until
    # more input comes. If the client has run dry and silence would be substituted for those frames anyway, the
    # resampler is flushed and plays them now; `tail_done` prevents a second flush until there is new input.
    def pull(self, out: Samples, read: Read, due: Frames) -> Frames:
        """Fill the head of `out`. If `read` runs dry before `due` frames, flush the resampler's tail too."""
        if self.direct:
            return read(out)
        filled = self._take(out)
        while filled < len(out):
            more = self._more(len(out) - filled, read, filled < due)
            if more is None:
                break
            self._keep(more)
            filled += self._take(out[filled:])
        return filled

    def _take(self, out: Samples) -> Frames:
        """Fill the head of `out` from the waiting frames."""
        pending = self._pending
        if pending is None:
            return 0
        got = min(len(pending), len(out))
        out[:got] = pending[:got]
        # A copy: a view would keep the whole array alive.
        self._pending = pending[got:].copy() if got < len(pending) else None
        return got

    def _more(self, frames: Frames, read: Read, ending: bool) -> Samples | None:
        """Resample enough input for about `frames`, at most one piece at a time; None if there is no more."""
        frames = min(frames, PIECE_FRAMES, PIECE_FRAMES * self._rates[1] // self._rates[0] + 1)
        block = np.empty((frames * self._rates[0] // self._rates[1] + 1, self._channels), np.float32)
        got = read(block)
        if got:
            made = block[:got] if self._resampler is None else self._resampler.process(block[:got])
            self._inside += got * self._rates[1] / self._rates[0] - len(made)
            return made
        if not ending or self.tail_done or self._resampler is None:
            return None
        self.tail_done = True
        tail = self._resampler.finish()
        self._begin()
        return tail
