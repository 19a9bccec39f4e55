"""A client's frames at the graph's rate: read as they are where the rates agree, else through a resampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.resample import Resampler, make_resampler
from millrace.units import Frames, HostNs, frames_to_ns

Read = Callable[[Samples], Frames]
"""Fills the head of an array with frames at the client's rate; returns how many."""


class Resampled:
    """Fills arrays at `rate_out` from what `read` gives at `rate_in`."""

    def __init__(self, rate_in: int, rate_out: int, channels: int, low_delay: bool) -> None:
        self._rates, self._channels, self._low_delay = (rate_in, rate_out), channels, low_delay
        self._pending: Samples | None = None
        self.tail_done = False
        self._resampler: Resampler | None = None
        self._in: Frames = 0
        self._out: Frames = 0
        self._begin()

    def _begin(self) -> None:
        self._resampler = make_resampler(*self._rates, self._channels, self._low_delay)
        self._in = self._out = 0

    @property
    def method(self) -> str | None:
        """The resampler's name, None where none is needed."""
        return None if self._resampler is None else str(getattr(self._resampler, "name", "src-sinc-fastest"))

    @property
    def pending(self) -> bool:
        """Whether frames are resampled and not taken."""
        return self._pending is not None and len(self._pending) > 0

    @property
    def held_ns(self) -> HostNs:
        """What was read and not taken, the resampler's own delay included."""
        pending = 0 if self._pending is None else len(self._pending)
        inside = frames_to_ns(self._in, self._rates[0]) - frames_to_ns(self._out, self._rates[1])
        return max(0, inside) + frames_to_ns(pending, self._rates[1])

    def clear(self) -> None:
        """Forget what is not taken, and what the resampler remembers of it."""
        self._pending = None
        self._begin()

    def pull(self, out: Samples, read: Read, ending: bool) -> Frames:
        """Fill the head of `out`; with `ending`, what the resampler holds back comes too when `read` is dry."""
        if self._resampler is None:
            return read(out)
        pending = self._pending
        while pending is None or len(pending) < len(out):
            more = self._more(len(out) - (0 if pending is None else len(pending)), read, ending)
            if more is None:
                break
            pending = more if pending is None or not len(pending) else np.concatenate((pending, more))
        if pending is None:
            return 0
        got = min(len(pending), len(out))
        out[:got] = pending[:got]
        self._pending = pending[got:]
        return got

    def _more(self, frames: Frames, read: Read, ending: bool) -> Samples | None:
        """Resample as much input as gives about `frames`; None when there is no more."""
        assert self._resampler is not None
        block = np.empty((frames * self._rates[0] // self._rates[1] + 1, self._channels), np.float32)
        got = read(block)
        if got:
            made = self._resampler.process(block[:got])
            self._in, self._out = self._in + got, self._out + len(made)
            return made
        if not ending or self.tail_done:
            return None
        self.tail_done = True
        tail = self._resampler.finish()
        self._begin()
        return tail
