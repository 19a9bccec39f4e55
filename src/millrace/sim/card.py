"""A sound card with its own clock, in virtual time: it says when it will pull, and keeps what it gets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.dsp.convert import Samples
from millrace.sim.clocks import SimClock
from millrace.units import NS_PER_S, Frames, HostNs

Pull = Callable[[Samples, HostNs], None]


class FakeCard:
    """Pulls `period` frames at `rate` by its own clock, from true time `start_ns` on, and keeps them."""

    def __init__(self, rate: int, channels: int, period: Frames, clock: SimClock, start_ns: HostNs) -> None:
        self.rate, self.period, self.clock = rate, period, clock
        self.start_ns = start_ns
        self.blocks: list[Samples] = []
        self._channels = channels
        self._pulls = 0

    def next_timeout(self) -> HostNs:
        """The true time of the next pull."""
        shown = np.array([self._pulls * self.period * NS_PER_S / self.rate])
        return self.start_ns + round(float(self.clock.when(shown)[0]))

    def handle_timeout(self, now_ns: HostNs, pull: Pull) -> None:
        """Pull everything due."""
        while self.next_timeout() <= now_ns:
            block = np.zeros((self.period, self._channels), np.float32)
            pull(block, now_ns)
            self.blocks.append(block)
            self._pulls += 1

    @property
    def sound(self) -> Samples:
        """All that was heard."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros((0, self._channels), np.float32)
