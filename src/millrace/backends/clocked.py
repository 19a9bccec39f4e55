"""Outputs that keep time like a sound card but are none: `null:` and `raw:`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from millrace.backends.base import Pull
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.units import NS_PER_S, HostNs, Positions

log = logging.getLogger("millrace.backends")
PERIOD_NS = 5_000_000
PERIOD_LOW_NS = 2_500_000
BEHIND_MAX_NS = NS_PER_S


class NullOutput:
    """Hears everything at the right pace, or `ppm` faster, and throws it away."""

    name = "null:"

    def __init__(self, period_ns: HostNs = PERIOD_NS, ppm: float = 0.0) -> None:
        self._period_ns = period_ns
        self._pace = 1 + ppm * 1e-6
        self.due_ns: HostNs = 0
        """When the period that `take` is given should have been pulled."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.peak = 0.0
        self.on_end: Callable[[], None] = lambda: None
        self.on_lost: Callable[[HostNs], None] = lambda at_ns: None
        self.on_back: Callable[[], None] = lambda: None

    def start(self, rate: int, positions: Positions, pull: Pull) -> HostNs:
        """See `ClockedOutput`."""
        args = (rate, len(positions), pull)
        self._thread = threading.Thread(target=self._run, args=args, name=self.name, daemon=True)
        self._thread.start()
        return self._period_ns

    def _run(self, rate: int, channels: int, pull: Pull) -> None:
        frames = max(1, rate * self._period_ns // NS_PER_S)
        block = np.zeros((frames, channels), np.float32)
        began, done = time.monotonic_ns(), 0
        while not self._stop.is_set():
            due = self.due_ns = began + round((done + frames) * NS_PER_S / (rate * self._pace))
            wait = due - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / NS_PER_S)
            elif -wait > BEHIND_MAX_NS:
                began -= wait
            pull(block)
            done += frames
            if not self.take(block):
                self.on_end()
                return

    def take(self, block: Samples) -> bool:
        """What to do with a period; False ends."""
        self.peak = float(np.abs(block).max())
        return True

    def stop(self) -> None:
        """See `ClockedOutput`."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)


class RawOutput(NullOutput):
    """Writes interleaved samples to a stream, in real time, silence included."""

    def __init__(self, file: BinaryIO, name: str, period_ns: HostNs = PERIOD_NS) -> None:
        super().__init__(period_ns)
        self.name = f"raw:{name}"
        self._file = file

    def take(self, block: Samples) -> bool:
        """Write one period; a reader that is gone ends it."""
        try:
            self._file.write(encode(SampleFormat.S16LE, block))
            self._file.flush()
        except (BrokenPipeError, ValueError):
            log.info("%s: the reader is gone", self.name)
            return False
        return True
