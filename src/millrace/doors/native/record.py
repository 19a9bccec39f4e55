"""A native recorder: the sound of a monitor or source, written to shared memory that the client reads.

The daemon never waits. A client that does not read in time finds that the ring has been overwritten, and continues
with what is there.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.ingress import Recorder, RecorderStatus
from millrace.doors.native.state import RecordState
from millrace.dsp.convert import Samples, encode
from millrace.dsp.resumable import make_resumable
from millrace.graph.graph import Graph
from millrace.graph.model import NOTHING, Tap
from millrace.units import NS_PER_MS, Frames, HostNs, frames_to_ns
from millrace.wire.native.ring import Ring

LOW_DELAY_NS: HostNs = 150 * NS_PER_MS


class NativeRecord(Recorder):
    """The graph's `Consumer`."""

    def __init__(
        self, graph: Graph, node: Tap, state: RecordState, ring: Ring, wake: Callable[[], None],
        removed: Callable[[], None],
    ) -> None:  # fmt: skip
        """It starts with a new `state`, or continues from an earlier one. `removed` is called on the node's removal."""
        self.graph, self.node, self.ring, self.state = graph, node, ring, state
        self._wake = wake
        self.removed = removed
        fmt = state.format
        period_ns = frames_to_ns(state.period, fmt.rate)
        rates, low_delay = (graph.rate, fmt.rate), period_ns < LOW_DELAY_NS
        self._resampler = make_resumable(rates, len(fmt.positions), low_delay, state=state.resampler)
        node.consumer = self
        node.latency_ask_ns = min(max(period_ns, 2_500_000), 40 * NS_PER_MS)

    def status(self) -> RecorderStatus:
        """See `Recorder`."""
        return RecorderStatus("native", self.state.format)

    def freeze(self) -> RecordState:
        """Leave the recorder to whoever continues it."""
        self.node.consumer = NOTHING
        if self._resampler is not None:
            self.state.resampler = self._resampler.freeze()
        return self.state

    def cork(self, corked: bool) -> None:
        """Pause or resume. A corked recorder does not keep the graph running."""
        self.node.active = self.node.clocked = not corked
        self.graph.touch(self.node)

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        del position, level
        if self._resampler is not None:
            block = self._resampler.process(block)
        state, keep = self.state, self.ring.capacity
        for at in range(0, len(block), keep):
            part = block[at : at + keep]
            self.ring.put(state.written, memoryview(encode(state.format.sample, part)))
            state.written += len(part)
            # Published only after the frames are in the ring: the client may read up to here at any time.
            self.ring.written = state.written
        if state.written - state.told >= state.period and self.ring.reader_waits:
            state.told = state.written
            self.ring.reader_waits = False
            self._wake()

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`: a running recorder keeps the graph clocked, so this one is corked."""
        del position
