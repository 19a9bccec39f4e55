"""Outputs without a device that keep time like a sound card: `null:` and `raw:`."""

from __future__ import annotations

import logging
import select
import threading
import time
from io import RawIOBase

import numpy as np

from millrace.backends.base import OutputWatch, Pull
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.errors import OutputLost
from millrace.units import NS_PER_S, HostNs, Positions

log = logging.getLogger("millrace.backends")
PERIOD_NS = 5_000_000
PERIOD_LOW_NS = 2_500_000
BEHIND_MAX_NS = NS_PER_S
ROOM_S = 0.1


class NullOutput:
    """Pulls at the nominal rate, or `ppm` faster, and discards everything."""

    name = "null:"

    def __init__(self, period_ns: HostNs = PERIOD_NS, ppm: float = 0.0) -> None:
        self._period_ns = period_ns
        self._pace = 1 + ppm * 1e-6
        self.due_ns: HostNs = 0
        """When the period passed to `take` was due to be pulled."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.peak = 0.0

    def start(self, rate: int, positions: Positions, pull: Pull, watch: OutputWatch) -> HostNs:
        """See `ClockedOutput`."""
        args = (rate, len(positions), pull, watch)
        self._thread = threading.Thread(target=self._run, args=args, name=self.name, daemon=True)
        self._thread.start()
        return self._period_ns

    def _run(self, rate: int, channels: int, pull: Pull, watch: OutputWatch) -> None:
        """The thread's main function. Any end not caused by `stop` is reported."""
        try:
            if not self._play(rate, channels, pull):
                watch.output_ended(None)
        except OutputLost as error:
            watch.output_ended(error)
        except Exception:
            log.exception("%s ended because of an internal error", self.name)
            watch.output_ended(OutputLost(f"{self.name}: an internal error; see the log"))

    def _play(self, rate: int, channels: int, pull: Pull) -> bool:
        """Play until `stop` is called; False if `take` ended playback."""
        frames = max(1, rate * self._period_ns // NS_PER_S)
        block = np.zeros((frames, channels), np.float32)
        # Each period is due at a multiple of the exact duration since the start. Sleeping for one period at a time
        # would add up what each sleep overshoots, and the output would run slow.
        began, done = time.monotonic_ns(), 0
        while not self._stop.is_set():
            due = self.due_ns = began + round((done + frames) * NS_PER_S / (rate * self._pace))
            wait = due - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / NS_PER_S)
            elif -wait > BEHIND_MAX_NS:
                # Too far behind to catch up: shift the schedule.
                began -= wait
            pull(block)
            done += frames
            if not self.take(block):
                return False
        return True

    def take(self, block: Samples) -> bool:
        """Consume one period. Returning False or raising OutputLost ends playback."""
        self.peak = float(np.abs(block).max())
        return True

    def stop(self) -> None:
        """See `ClockedOutput`."""
        self._stop.set()
        # A thread that ends by itself reports that itself, and the report may lead to `stop`, still in this thread.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)


class RawOutput(NullOutput):
    """Writes interleaved samples to a stream in real time, including silence."""

    def __init__(self, file: RawIOBase, name: str, period_ns: HostNs = PERIOD_NS) -> None:
        super().__init__(period_ns)
        self.name = f"raw:{name}"
        self._file = file

    def take(self, block: Samples) -> bool:
        """Write one period; return False if the reader has closed the pipe."""
        left = memoryview(encode(SampleFormat.S16LE, block))
        try:
            while len(left) and not self._stop.is_set():
                # Unbuffered, so that errors surface here. A non-blocking pipe may take only a part.
                written = self._file.write(left)
                left = left[written or 0 :]
                if written is None:
                    select.select([], [self._file], [], ROOM_S)
        except BrokenPipeError:
            log.info("%s: the reader is gone", self.name)
            return False
        except OSError as error:
            raise OutputLost(f"{self.name}: {error.strerror}; the file ends here") from None
        return True

    def stop(self) -> None:
        """See `ClockedOutput`. If the thread is stuck on a pipe that nobody reads, leave the file open for it."""
        super().stop()
        if self._thread is None or not self._thread.is_alive():
            try:
                self._file.close()
            except OSError as error:
                raise OutputLost(f"{self.name}: {error.strerror}; its end may be missing") from None
