"""Resamplers that can be frozen to a value, and continue from it in another process.

The libraries don't give out their state. But all of it follows from the input, and only the last input frames still
matter. So these are kept, and a new resampler is fed with them. Two more things make the new one continue the output
frame for frame. One is the phase: output frames lie on a grid of `rate_out`, and both resamplers must use the same
grid. Silence fed in advance shifts it to where it was. The other is that both libraries give out their frames in
batches. A new resampler may be some frames ahead of the old one, or behind; `inside` tells which frame comes next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import gcd

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.resample import (
    PIECE_FRAMES,
    Resampler,
    SincResampler,
    make_resampler,
    remembered,
    stretched,
)
from millrace.units import Frames


@dataclass(slots=True)
class ResamplerState:
    """What a resampler has yet to give out, as a value."""

    inside: int = 0
    """Output frames that its input so far will still yield, times the input rate, to be exact."""
    last: bytes = b""
    """The last input frames, as float32; set when it is frozen."""


class Resumable:
    """A resampler that starts with a new `state`, or continues from an earlier one."""

    def __init__(
        self, inner: Resampler, rates: tuple[int, int], channels: int, remembers: Frames, state: ResamplerState
    ) -> None:
        self.inner, self.state = inner, state
        self._rates, self._channels, self._remembers = rates, channels, remembers
        self._last: deque[Samples] = deque()
        self._last_frames: Frames = 0
        self._ahead: Samples | None = None
        """Frames that it gave out before their turn."""
        self._skip: Frames = 0
        """Frames that it will give out although its predecessor has done so."""
        if state.inside or state.last:
            self._catch_up(np.frombuffer(state.last, np.float32).reshape(-1, channels))
            state.last = b""

    def _catch_up(self, last: Samples) -> None:
        """Feed the predecessor's last frames, and before them silence that shifts the grid of the output."""
        rate_in, rate_out = self._rates
        common = gcd(rate_in, rate_out)
        grid, inside = rate_in // common, round(self.state.inside / common) * common
        silence = (inside // common * pow(rate_out // common, -1, grid) - len(last)) % grid
        lacks = inside - (silence + len(last)) * rate_out
        if lacks > 0:
            silence += -(-lacks // (grid * rate_out)) * grid
        given = ((silence + len(last)) * rate_out - inside) // rate_in
        fed = np.concatenate((np.zeros((silence, self._channels), np.float32), last))
        made = [self.inner.process(fed[at : at + PIECE_FRAMES]) for at in range(0, len(fed), PIECE_FRAMES)]
        out = np.concatenate(made)[given:] if made else fed
        self._ahead = out if len(out) else None
        self._skip = max(0, given - sum(map(len, made)))
        self._remember(last)

    @property
    def name(self) -> str:
        """The resampler's name, as users see it."""
        return self.inner.name

    @property
    def inside(self) -> float:
        """Output frames that its input so far will still yield."""
        return max(0, self.state.inside) / self._rates[0]

    def process(self, block: Samples) -> Samples:
        """See `Resampler`."""
        out = self.inner.process(block)
        if self._skip or self._ahead is not None:
            out = self._in_turn(out)
        rate_in, rate_out = self._rates
        self.state.inside += len(block) * rate_out - len(out) * rate_in
        if self._remembers:
            self._remember(block)
        return out

    def _in_turn(self, out: Samples) -> Samples:
        """The frames that come next, where the resampler is ahead of its predecessor or behind."""
        skip = min(self._skip, len(out))
        self._skip -= skip
        out = out[skip:]
        ahead, self._ahead = self._ahead, None
        return out if ahead is None else np.concatenate((ahead, out))

    def _remember(self, block: Samples) -> None:
        # A copy: the caller's array may be reused.
        self._last.append(block[-self._remembers :].copy())
        self._last_frames += len(self._last[-1])
        while self._last_frames - len(self._last[0]) >= self._remembers:
            self._last_frames -= len(self._last.popleft())

    def finish(self) -> Samples:
        """See `Resampler`."""
        return self._in_turn(self.inner.finish())

    def glide(self, rates: tuple[int, int]) -> None:
        """Continue at another ratio, if the resampler can."""
        assert isinstance(self.inner, SincResampler)
        self.state.inside = self.state.inside * rates[1] // self._rates[1]
        self._rates = rates
        self.inner.step_to(rates[1] / rates[0])

    def freeze(self) -> ResamplerState:
        """Its state, from which another can continue."""
        if self._last:
            self.state.last = np.concatenate(self._last)[-self._remembers :].tobytes()
        return self.state


def make_resumable(
    rates: tuple[int, int], channels: int, low_delay: bool, glide: bool = False, state: ResamplerState | None = None
) -> Resumable | None:
    """A resampler between two rates, None if they are the same; with `glide`, one whose ratio can change seamlessly."""
    rate_in, rate_out = rates
    gliding = glide and not stretched(rate_in, rate_out)
    if gliding:
        inner: Resampler | None = SincResampler(rate_out / rate_in, channels)
    else:
        inner = make_resampler(rate_in, rate_out, channels, low_delay)
    if inner is None:
        return None
    return Resumable(inner, rates, channels, remembered(inner, rate_in, rate_out), state or ResamplerState())
