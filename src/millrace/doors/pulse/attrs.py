"""Buffer attributes: completes and limits what a client requests (pulsecore/protocol-native.c, fix_*_buffer_attr)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.pulse.constants import NO_INDEX

MAXLENGTH_MAX = 4 * 1024 * 1024
TLENGTH_DEFAULT_NS = 2_000 * NS_PER_MS
MINREQ_DEFAULT_NS = 20 * NS_PER_MS
FRAGSIZE_DEFAULT_NS = 2_000 * NS_PER_MS
QUANTUM_MIN_NS = 2_500_000
SINK_MAX_NS = 40 * NS_PER_MS
"""The longest quantum: at most this much is taken at once, whatever latency a stream allows."""
DEEP_NS = 1_000 * NS_PER_MS
BULK_MAX_NS = 480 * NS_PER_MS


@dataclass(slots=True)
class PlaybackAttr:
    """Bytes, all frame-aligned. `sink_ns` is the latency requested from the graph, `bulk_ns` how far ahead the
    graph may pull, and `ask` how much must be missing before the client is sent a request."""

    maxlength: int
    tlength: int
    prebuf: int
    minreq: int
    sink_ns: HostNs = 0
    bulk_ns: HostNs = 0
    ask: int = 0


@dataclass(slots=True)
class RecordAttr:
    """Bytes, all frame-aligned."""

    maxlength: int
    fragsize: int


class Layout(msgspec.Struct, frozen=True):
    """Converts between bytes and time for one stream."""

    frame_bytes: int
    rate: int

    def to_ns(self, size: int) -> HostNs:
        """Duration of `size` bytes."""
        return size // self.frame_bytes * NS_PER_S // self.rate

    def to_bytes(self, ns: HostNs) -> int:
        """Bytes of the whole frames in `ns`, rounded up."""
        return -(-ns * self.rate // NS_PER_S) * self.frame_bytes

    def aligned(self, size: int) -> int:
        """`size` rounded down to whole frames, at least one."""
        return max(self.frame_bytes, size // self.frame_bytes * self.frame_bytes)

    def covering(self, size: int) -> int:
        """The whole frames that `size` bytes touch."""
        return -(-size // self.frame_bytes) * self.frame_bytes


# Each step bounds the next one, so their order is part of the result. `minreq` is rounded down to whole frames, the
# others up (pulsecore/memblockq.c). Two of the bounds keep a stream from stalling. `tlength` exceeds `minreq` by at
# least a frame: a client is asked for more once `minreq` is missing, which in a smaller buffer happens only when it has
# run empty, or never. And `prebuf` is at most `tlength` + frame - `minreq`: with less than `minreq` missing the client
# need not be asked, so its buffer may stop filling that far below `tlength`, and a stream that waited for more would
# never start. With `adjust` alone, `tlength` is the whole latency that the client wants, the graph's share included.
def fix_playback(asked: PlaybackAttr, layout: Layout, adjust: bool, early: bool, held_ns: HostNs = 0) -> PlaybackAttr:
    """The attributes to apply for a request; 0xFFFFFFFF means default. `held_ns` is what the resampler holds back."""
    frame = layout.frame_bytes
    maxlength = max(layout.covering(min(asked.maxlength, MAXLENGTH_MAX)), 2 * frame)
    tlength = layout.to_bytes(TLENGTH_DEFAULT_NS) if asked.tlength == NO_INDEX else asked.tlength
    tlength = min(tlength, maxlength)
    minreq = asked.minreq
    if minreq == NO_INDEX:
        minreq = min(layout.to_bytes(MINREQ_DEFAULT_NS), layout.aligned(tlength // 4))
    minreq = min(layout.aligned(minreq), maxlength - frame)
    tlength = max(layout.covering(tlength), minreq + frame)
    sink_ns = _sink_latency(layout.to_ns(tlength), layout.to_ns(minreq), adjust, early)
    if adjust and not early:
        tlength -= layout.to_bytes(sink_ns)
    # The buffer must cover what a cycle takes, what the resampler never gives out during playback, and what is in
    # transit from the client.
    floor = layout.to_bytes(min(sink_ns, SINK_MAX_NS) + held_ns) + 2 * minreq
    tlength = min(max(tlength, floor), maxlength)
    prebuf_max = max(frame, tlength + frame - minreq)
    prebuf = prebuf_max if asked.prebuf > prebuf_max else layout.covering(asked.prebuf)
    spare = max(0, layout.to_ns(tlength) - 2 * layout.to_ns(minreq))
    bulk = min(BULK_MAX_NS, spare // 4)
    # A deep buffer is refilled by halves, since each request wakes two processes; ample time is left to answer it.
    ask = layout.aligned(tlength // 2) if layout.to_ns(tlength) >= DEEP_NS else minreq
    return PlaybackAttr(maxlength, tlength, prebuf, minreq, sink_ns, bulk, max(ask, minreq))


def _sink_latency(tlength_ns: HostNs, minreq_ns: HostNs, adjust: bool, early: bool) -> HostNs:
    """The graph's share of the buffer. Without either flag it is half of PulseAudio's figure: a whole quantum
    is taken at once here, and the client needs the rest of the buffer as time to respond."""
    if early:
        return max(QUANTUM_MIN_NS, minreq_ns)
    return max(QUANTUM_MIN_NS, (tlength_ns - 2 * minreq_ns) // 2)


def fix_record(asked: RecordAttr, layout: Layout, adjust: bool = False, early: bool = False) -> RecordAttr:
    """The attributes to apply for a record stream. With `adjust`, fragments are at most the source's block size.

    `maxlength` is rounded up, `fragsize` down.
    """
    maxlength = max(layout.frame_bytes, layout.covering(min(asked.maxlength, MAXLENGTH_MAX)))
    fragsize = layout.to_bytes(FRAGSIZE_DEFAULT_NS) if asked.fragsize == NO_INDEX else asked.fragsize
    if adjust and not early:
        fragsize = min(fragsize, layout.to_bytes(SINK_MAX_NS))
    return RecordAttr(maxlength, min(layout.aligned(fragsize), maxlength))
