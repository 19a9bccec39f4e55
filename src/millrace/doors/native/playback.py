"""A native playback stream: the graph pulls from shared memory that the client writes to.

The client keeps the ring filled up to `target` frames. It is woken when there is room for a period, and only if it is
waiting. It wakes us only while we are waiting: before the first sound, and after an underrun.
"""

from __future__ import annotations

from collections.abc import Callable

from millrace.doors.ingress import Ingress, IngressStatus, Stage, round_ms
from millrace.doors.native.state import PlaybackState
from millrace.doors.resampled import Resampled
from millrace.dsp.convert import Samples, decode
from millrace.graph.graph import Graph
from millrace.graph.model import NOTHING, Stream
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, frames_to_ns, ns_to_frames
from millrace.wire.native.ring import Ring

LATENCY_MIN_NS: HostNs = 5 * NS_PER_MS
LATENCY_MAX_NS: HostNs = 4 * NS_PER_S
BULK_MAX_NS: HostNs = 480 * NS_PER_MS
ASK_MIN_NS, ASK_MAX_NS = 2_500_000, 40 * NS_PER_MS
LOW_DELAY_NS: HostNs = 150 * NS_PER_MS


class NativeStatus(IngressStatus, frozen=True):
    """Status of a native stream."""

    target_ns: HostNs = 0

    @property
    def origin(self) -> str:
        """See `IngressStatus`."""
        return f"it uses the native protocol, from process {self.pid}"

    @property
    def buffer(self) -> str:
        """See `IngressStatus`."""
        asked, fill = round_ms(self.target_ns), round_ms(self.fill_ns)
        return f"a ring of {asked}, as the application asked; it holds {fill} now"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """See `IngressStatus`."""
        return (Stage("ring", self.fill_ns, f"the application asked for {round_ms(self.target_ns)}"),)


class NativePlayback(Ingress):
    """The graph's `Feed`. `wake` wakes the client; `notice` sends it an event about its stream."""

    def __init__(
        self, graph: Graph, node: Stream, state: PlaybackState, ring: Ring, wake: Callable[[], None],
        notice: Callable[[str, str], None], removed: Callable[[], None],
    ) -> None:  # fmt: skip
        """It starts with a new `state`, or continues from an earlier one. `removed` is called on the node's removal."""
        self.graph, self.node, self.ring, self.state = graph, node, ring, state
        self._wake, self._notice = wake, notice
        self.period = max(1, state.target // 4)
        self.broken = False
        self.why = ""
        self.removed = removed
        fmt = state.format
        target_ns = frames_to_ns(state.target, fmt.rate)
        low_delay = target_ns < LOW_DELAY_NS
        self._resampled = Resampled(fmt.rate, graph.rate, len(fmt.positions), low_delay, state=state.resampled)
        node.feed = self
        node.latency_ask_ns = min(max(target_ns // 4, ASK_MIN_NS), ASK_MAX_NS)
        node.bulk_frames = ns_to_frames(min(target_ns // 4, BULK_MAX_NS), graph.rate)
        if state.prebuffering:
            ring.reader_waits = True

    @property
    def resample_method(self) -> str | None:
        """The resampler's name; None if none is needed."""
        return self._resampled.method

    @property
    def fill(self) -> Frames:
        """Frames in the ring. The client's write position is not trusted: an impossible one ends the stream."""
        fill = self.ring.written - self.state.taken
        if not 0 <= fill <= self.ring.capacity:
            self.broken = True
            return 0
        return fill

    def status(self) -> IngressStatus:
        """See `Ingress`."""
        state, rate = self.state, self.state.format.rate
        return NativeStatus(
            "native", state.format, frames_to_ns(self.fill, rate), state.pid, corked=state.corked,
            draining=state.draining, resampler=self.resample_method, target_ns=frames_to_ns(state.target, rate),
        )  # fmt: skip

    def freeze(self) -> PlaybackState:
        """Leave the stream to whoever continues it. Its node stays, and is silent until then."""
        self.node.feed = NOTHING
        self.state.resampled = self._resampled.freeze()
        return self.state

    # -- the client's side -----------------------------------------------------------------------

    # Every way of waiting ends here, so that no stream waits for a client that waits for it. The word is set before the
    # ring is looked at (see `Ring`): frames written before the client could see it came without a wake-up.
    def resume(self) -> None:
        """Look at the ring, and let the graph pull if there is something to play and nothing holds it back."""
        state, node = self.state, self.node
        if node.active or state.corked or not node.links:
            return
        self.ring.reader_waits = True
        fill = self.fill
        if self.broken:
            self.end("the ring's positions are impossible")
            return
        if fill >= state.target // 2 or state.draining:
            state.prebuffering = False
        if state.prebuffering:
            return
        inside = self._resampled.held_ns if state.draining else self._resampled.pending
        if fill or inside or self.graph.ahead(node):
            if node.sink.suspended:
                return
            # The ring was not checked while the stream was inactive, so earlier times can't date what was written.
            state.looked_ns = state.woken_ns = 0
            self.ring.reader_waits = False
            self.graph.activate(node)
        elif state.draining:
            self._drained()

    def cork(self, corked: bool) -> None:
        """Pause or resume."""
        self.state.corked = corked
        if corked:
            self.graph.deactivate(self.node, "corked")
        self.graph.touch(self.node)
        self.resume()

    def drain(self) -> None:
        """Play what is queued, then notify the client."""
        self.state.draining = True
        self._resampled.tail_done = False
        self.resume()

    def flush(self) -> None:
        """Discard what is queued."""
        self.graph.discard(self.node)
        self._resampled.clear()
        self.state.taken += self.fill
        self.ring.read = self.state.taken
        self.graph.deactivate(self.node, "flushed", keep=False)
        self._wake()
        self._prebuffer()

    def _prebuffer(self) -> None:
        """Wait until the ring is half full again."""
        self.state.prebuffering = True
        self.resume()

    def _drained(self) -> None:
        self.state.draining = False
        self._notice("drained", "")
        self._prebuffer()

    def end(self, why: str, since_ns: HostNs = 0) -> None:
        """Remove the stream; `since_ns` is when the trouble began, if not just now."""
        self.why = why
        if self.broken:
            self.graph.report_node(self.node, "ring_corrupted", since_ns)
        self.graph.remove_stream(self.node)

    # -- the graph's side ------------------------------------------------------------------------

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        return self._resampled.pull(out, self._read, len(out) if self.state.draining else 0)

    def _read(self, out: Samples) -> Frames:
        state, fill = self.state, self.fill
        if not self.broken:
            self._notice_writing(state.taken + fill)
        n = min(fill, len(out))
        if not n:
            return 0
        flat, at, width = out.reshape(-1), 0, out.shape[1]
        for view in self.ring.views(state.taken, n):
            samples = len(view) // self.ring.frame_bytes * width
            decode(state.format.sample, view, flat[at : at + samples])
            at += samples
        state.taken += n
        ring = self.ring
        # Published only after decoding: the client may then overwrite these frames.
        ring.read = state.taken
        ring.latency_ns = self.node.sink.outlet_latency_ns + frames_to_ns(self.graph.ahead(self.node), self.graph.rate)
        if ring.writer_waits and state.target - self.fill >= self.period:
            ring.writer_waits = False
            state.woken_ns = state.woken_ns or self.graph.now_ns
            self._wake()
        return n

    def _notice_writing(self, written: Frames) -> None:
        """Track when the client last wrote, and was first woken since. A write after a wake-up is dated to that."""
        state, now = self.state, self.graph.now_ns
        if written != state.seen:
            state.seen, state.wrote_ns, state.woken_ns = written, state.woken_ns or self._since_looked(now), 0
        state.looked_ns = now

    def _since_looked(self, now_ns: HostNs) -> HostNs:
        """Estimate when something new was written: halfway between the last check and now."""
        return ((self.state.looked_ns or now_ns) + now_ns) // 2

    @property
    def silent_since_ns(self) -> HostNs:
        """When the client stopped writing, estimated as halfway from its last write to its first unanswered wake-up."""
        state = self.state
        return (state.wrote_ns + state.woken_ns) // 2 if state.woken_ns else state.wrote_ns

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`."""
        del frames
        if self.broken:
            self.end("the ring's positions are impossible", self._since_looked(self.graph.now_ns))
            return
        if not played_out:
            return
        if self.state.draining:
            self.graph.deactivate(self.node, "drained")
            self._drained()
            return
        self.node.underruns += 1
        self.graph.report_node(self.node, "underrun", self.silent_since_ns)
        self.graph.deactivate(self.node, "underrun")
        self._notice("underrun", "")
        self._prebuffer()
