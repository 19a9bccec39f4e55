"""Converts a client's frames to the graph's rate: directly if the rates agree, else through a resampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.resample import PIECE_FRAMES, SincResampler, stretched
from millrace.dsp.resumable import ResamplerState, Resumable, make_resumable
from millrace.units import Frames, HostNs, frames_to_ns

Read = Callable[[Samples], Frames]
"""Fills the head of an array with frames at the client's rate; returns the number of frames."""


@dataclass(slots=True)
class ResampledState:
    """What has been read and not given out, as a value."""

    tail_done: bool = False
    pending: bytes = b""
    """Resampled frames that nobody has taken, as float32; set when it is frozen."""
    resampler: ResamplerState = field(default_factory=ResamplerState)


# Frames pass through three places: the client's buffer, the resampler, and `_pending`, which holds what came out of
# the resampler and did not fit the caller's array. Their order is the order of time, so whatever replaces the
# resampler must first let out what it holds (`change`), and a caller that asks whether all has been played must add
# `held_ns` to its own buffer. A change of ratio within a gliding resampler keeps its contents and needs none of this.
class Resampled:
    """Fills arrays at `rate_out` with frames read at `rate_in`.

    `glide` selects a resampler whose ratio can change seamlessly; it is then used even if the rates are equal. It can
    continue from another one's state, if that had the same rates.
    """

    def __init__(
        self, rate_in: int, rate_out: int, channels: int, low_delay: bool, glide: bool = False,
        state: ResampledState | None = None,
    ) -> None:  # fmt: skip
        state = state or ResampledState()
        self._rates, self._channels = (rate_in, rate_out), channels
        self._low_delay, self._glide = low_delay, glide
        self._pending: Samples | None = None
        if state.pending:
            self._pending = np.frombuffer(state.pending, np.float32).reshape(-1, channels)
        self.tail_done = state.tail_done
        self._resampler: Resumable | None = None
        self._begin(state.resampler)

    def freeze(self) -> ResampledState:
        """Its state, from which another can continue."""
        pending = b"" if self._pending is None else self._pending.tobytes()
        inside = ResamplerState() if self._resampler is None else self._resampler.freeze()
        return ResampledState(self.tail_done, pending, inside)

    def change(self, rate_in: int, low_delay: bool) -> None:
        """Continue from another rate, or with another delay. Frames read before the change come out first."""
        if (rate_in, low_delay) == (self._rates[0], self._low_delay):
            return
        self._rates, self._low_delay = (rate_in, self._rates[1]), low_delay
        resampler, glides = self._resampler, self._glide and not stretched(*self._rates)
        if resampler is not None and glides and isinstance(resampler.inner, SincResampler):
            resampler.glide(self._rates)
            return
        if resampler is not None:
            self._keep(resampler.finish())
        self._begin(None)

    def _begin(self, state: ResamplerState | None) -> None:
        self._resampler = make_resumable(self._rates, self._channels, self._low_delay, self._glide, state)

    def _keep(self, more: Samples) -> None:
        """Append resampled frames to those not taken yet."""
        pending = self._pending
        self._pending = more if pending is None or not len(pending) else np.concatenate((pending, more))

    @property
    def method(self) -> str | None:
        """The resampler's name; None if none is needed."""
        return None if self._resampler is None else self._resampler.name

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
        inside = 0 if self._resampler is None else round(self._resampler.inside)
        return frames_to_ns(pending + inside, self._rates[1])

    def clear(self) -> None:
        """Discard the waiting frames and the resampler's state."""
        self._pending = None
        self._begin(None)

    # `due` is what keeps the end of a word from being cut off. A resampler holds back the last milliseconds until
    # more input comes. If the client has run dry and silence would be substituted for those frames anyway, the
    # resampler is flushed and plays them now; `tail_done` prevents a second flush until there is new input.
    def pull(self, out: Samples, read: Read, due: Frames) -> Frames:
        """Fill the head of `out`. If `read` runs dry before `due` frames, flush the resampler's tail too."""
        # As `direct`, without the call: this is once for each piece of each stream.
        if self._resampler is None and self._pending is None:
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
            return block[:got] if self._resampler is None else self._resampler.process(block[:got])
        if not ending or self.tail_done or self._resampler is None:
            return None
        self.tail_done = True
        tail = self._resampler.finish()
        self._begin(None)
        return tail
