"""A client's frames at the graph's rate: read as they are where the rates agree, else through a resampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.resample import PIECE_FRAMES, Resampler, SincResampler, make_resampler, stretched
from millrace.units import Frames, HostNs, frames_to_ns

Read = Callable[[Samples], Frames]
"""Fills the head of an array with frames at the client's rate; returns how many."""


class Resampled:
    """Fills arrays at `rate_out` from what `read` gives at `rate_in`.

    With `glide` the resampler is one whose rate may change without a seam, and is there at equal rates too.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, low_delay: bool, glide: bool = False) -> None:
        self._rates, self._channels = (rate_in, rate_out), channels
        self._low_delay, self._glide = low_delay, glide
        self._pending: Samples | None = None
        self.tail_done = False
        self._resampler: Resampler | None = None
        self._begin()

    def change(self, rate_in: int, low_delay: bool) -> None:
        """Go on from another rate, or with another delay; what was read before comes out first."""
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
        """Frames read and not made yet, at `rate_out`."""

    @property
    def _glides(self) -> bool:
        return self._glide and not stretched(*self._rates)

    def _keep(self, more: Samples) -> None:
        """Queue what was made behind what is not taken yet."""
        pending = self._pending
        self._pending = more if pending is None or not len(pending) else np.concatenate((pending, more))

    @property
    def method(self) -> str | None:
        """The resampler's name, None where none is needed."""
        return None if self._resampler is None else str(getattr(self._resampler, "name", "src-sinc-fastest"))

    @property
    def direct(self) -> bool:
        """Whether what is read next is given as it is: there is no resampler, and nothing left of one."""
        return self._resampler is None and self._pending is None

    @property
    def pending(self) -> bool:
        """Whether frames are resampled and not taken."""
        return self._pending is not None and len(self._pending) > 0

    @property
    def held_ns(self) -> HostNs:
        """What was read and not taken, the resampler's own delay included."""
        pending = 0 if self._pending is None else len(self._pending)
        return frames_to_ns(pending + max(0, round(self._inside)), self._rates[1])

    def clear(self) -> None:
        """Forget what is not taken, and what the resampler remembers of it."""
        self._pending = None
        self._begin()

    def pull(self, out: Samples, read: Read, due: Frames) -> Frames:
        """Fill the head of `out`. Where `read` is dry before `due` frames, what the resampler holds back comes too."""
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
        """Fill the head of `out` with what is made already."""
        pending = self._pending
        if pending is None:
            return 0
        got = min(len(pending), len(out))
        out[:got] = pending[:got]
        # A copy: a view of some frames would keep all that was made with them.
        self._pending = pending[got:].copy() if got < len(pending) else None
        return got

    def _more(self, frames: Frames, read: Read, ending: bool) -> Samples | None:
        """Resample as much input as gives about `frames`, or a piece of it; None when there is no more."""
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
