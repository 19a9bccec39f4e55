"""Capture for a machine: a tap on a source, queued at the machine's own rate until the machine reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from millrace.absent import nothing
from millrace.dsp.convert import Samples
from millrace.dsp.resample import Resampler, make_resampler, resampler_bytes
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Tap
from millrace.units import NS_PER_MS, Frames, Positions, ns_to_frames

KEEP_NS = 100 * NS_PER_MS
"""Older sound is dropped: a guest that reads late should get current sound, not a growing delay."""


def capture_charges(graph_rate: int, rate: int, channels: int) -> dict[Hashable, int]:
    """What a queue takes, in parts."""
    resampler = resampler_bytes(graph_rate, rate, channels, low_delay=True)
    return {"queue": 2 * ns_to_frames(KEEP_NS, rate) * channels * 4, "resampler": resampler}


# Two clocks meet here, and nothing tracks the difference. The graph fills the queue at the host's pace; the machine
# empties it at its own, by asking (QEMU) or as fast as its server takes messages (SPICE). A machine that reads too
# slowly loses the oldest sound, one that reads too fast gets short answers and takes its time from them. Resampling
# to a measured clock would add the delay of a jitter buffer to every recording, to avoid a discontinuity once in
# minutes.
class CaptureQueue:
    """A queue of frames (n, channels) at the guest's `rate`; drops the oldest. The graph's `Consumer`.

    While it is `running` the graph is clocked, so the queue fills at the host's pace, with silence if nobody speaks.
    """

    def __init__(
        self, graph: Graph, source: Sink, name: str, rate: int, positions: Positions,
        ready: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        """`ready` is called whenever frames have been added."""
        self.graph, self.rate, self.positions, self._ready = graph, rate, positions, ready
        self.node = Tap(graph.ids.take(), name, positions, consumer=self, latency_ask_ns=10 * NS_PER_MS)
        self.node.active = self.node.clocked = False
        self._keep = ns_to_frames(KEEP_NS, rate)
        self.node.charges = capture_charges(graph.rate, rate, len(positions))
        self._resampler: Resampler | None = None
        self._blocks: list[Samples] = []
        self._fill: Frames = 0
        graph.add_tap(self.node, source)

    @property
    def running(self) -> bool:
        """Whether it records."""
        return self.node.clocked

    def run(self, running: bool) -> None:
        """Start or stop recording. Either way the queue is cleared: its sound is out of date."""
        if running == self.running:
            return
        self._blocks.clear()
        self._fill = 0
        self._resampler = make_resampler(self.graph.rate, self.rate, len(self.positions), low_delay=True)
        self.node.active = self.node.clocked = running
        self.graph.touch(self.node)

    @property
    def fill_frames(self) -> Frames:
        """Frames queued."""
        return self._fill

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        del position, level
        made = block.copy() if self._resampler is None else self._resampler.process(block)
        self._blocks.append(made)
        self._fill += len(made)
        while self._fill > self._keep and len(self._blocks) > 1:
            self._fill -= len(self._blocks.pop(0))
        self._ready()

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`."""

    def take(self, frames: Frames) -> Samples:
        """Return up to `frames` queued frames without waiting."""
        out: list[Samples] = []
        while frames > 0 and self._blocks:
            block = self._blocks[0]
            part = block[:frames]
            if len(part) == len(block):
                self._blocks.pop(0)
            else:
                self._blocks[0] = block[len(part) :]
            out.append(part)
            frames -= len(part)
            self._fill -= len(part)
        return np.concatenate(out) if out else np.zeros((0, len(self.positions)), np.float32)

    def remove(self) -> None:
        """Recording is over: remove the tap."""
        self.graph.remove_tap(self.node)
