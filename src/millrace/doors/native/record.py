"""A native recorder: the sound of a monitor or source, written to shared memory that the client reads.

The daemon never waits. A client that does not read in time finds that the ring has been overwritten, and continues
with what is there.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.ingress import Recorder, RecorderStatus
from millrace.dsp.convert import Samples, encode
from millrace.dsp.resample import Resampler, make_resampler
from millrace.graph.graph import Graph
from millrace.graph.model import Tap
from millrace.media.format import AudioFormat
from millrace.units import NS_PER_MS, Frames, HostNs, frames_to_ns
from millrace.wire.native.ring import Ring

LOW_DELAY_NS: HostNs = 150 * NS_PER_MS


class NativeRecord(Recorder):
    """The graph's `Consumer`."""

    def __init__(
        self, graph: Graph, node: Tap, fmt: AudioFormat, ring: Ring, period: Frames, wake: Callable[[], None],
        removed: Callable[[], None],
    ) -> None:  # fmt: skip
        """`removed` is called when the graph has removed the recorder."""
        self.graph, self.node, self.format, self.ring, self.period = graph, node, fmt, ring, period
        self._wake = wake
        self.written: Frames = 0
        self._told: Frames = 0
        self.removed = removed
        period_ns = frames_to_ns(period, fmt.rate)
        self._resampler: Resampler | None = make_resampler(
            graph.rate, fmt.rate, len(fmt.positions), period_ns < LOW_DELAY_NS
        )
        node.consumer = self
        node.active = node.clocked = True
        node.latency_ask_ns = min(max(period_ns, 2_500_000), 40 * NS_PER_MS)

    def status(self) -> RecorderStatus:
        """See `Recorder`."""
        return RecorderStatus("native", self.format)

    def cork(self, corked: bool) -> None:
        """Pause or resume. A corked recorder does not keep the graph running."""
        self.node.active = self.node.clocked = not corked
        self.graph.touch(self.node)

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        del position, level
        if self._resampler is not None:
            block = self._resampler.process(block)
        keep = self.ring.capacity
        for at in range(0, len(block), keep):
            part = block[at : at + keep]
            self.ring.put(self.written, memoryview(encode(self.format.sample, part)))
            self.written += len(part)
            # Published only after the frames are in the ring: the client may read up to here at any time.
            self.ring.written = self.written
        if self.written - self._told >= self.period and self.ring.reader_waits:
            self._told = self.written
            self.ring.reader_waits = False
            self._wake()

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`: a running recorder keeps the graph clocked, so this one is corked."""
        del position
