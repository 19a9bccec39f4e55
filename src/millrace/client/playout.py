"""Playout: when each frame is heard. Sans-IO: packets and the time go in, frames come out.

Every frame has a time on the daemon's clock. A packet's `delta` is its arrival on our clock minus
its first frame's time on theirs: the path's delay plus an unknown constant. The smallest delta is the
path at its best; what most packets exceed it by is the jitter. A frame captured at T is played at
T + target, where target = least delta + jitter quantile + margin. The constant cancels, so no
synchronised clocks are needed to play, only to print a latency.

The drift loop steers `ratio`; until it does, an error beyond `SKIP_NS` is taken out by a crossfaded skip.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import numpy as np

from millrace.client.decode import PacketDecoder
from millrace.dsp.channels import Matrix, mix_matrix
from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.dsp.resample import SincResampler
from millrace.dsp.ring import Ring
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, Positions, frames_to_ns, ns_to_frames
from millrace.wire.peer.messages import Packet, StreamFormat

MARGINS_NS: dict[str, HostNs] = {"low": 3 * NS_PER_MS, "normal": 10 * NS_PER_MS, "robust": 60 * NS_PER_MS}
WINDOW_PACKETS = 256
QUANTILE = 0.95
RING_S = 4
SKIP_NS = 20 * NS_PER_MS
SKIP_AFTER_NS = 1 * NS_PER_S
FADE_NS = 5 * NS_PER_MS
REFRESH_PACKETS = 16


class State(Enum):
    """What the listener hears."""

    QUIET = "quiet"
    PRIMING = "priming"
    PLAYING = "playing"


class JitterWindow:
    """The target delta: least delta, jitter quantile and margin over the last packets."""

    def __init__(self, margin_ns: HostNs) -> None:
        self._margin_ns = margin_ns
        self._deltas: deque[int] = deque(maxlen=WINDOW_PACKETS)
        self._since_refresh = 0
        self._target_ns: HostNs = 0

    def add(self, delta_ns: int) -> None:
        """A packet has come."""
        self._deltas.append(delta_ns)
        self._since_refresh += 1
        if self._since_refresh >= REFRESH_PACKETS or len(self._deltas) < REFRESH_PACKETS:
            self._since_refresh = 0
            ordered = sorted(self._deltas)
            high = ordered[min(len(ordered) - 1, int(len(ordered) * QUANTILE))]
            self._target_ns = high + self._margin_ns

    @property
    def target_ns(self) -> HostNs:
        """Play what was captured at T at T + this."""
        return self._target_ns


class Playout:
    """Turns packets into what a sound card asks for, at `rate` with `positions`."""

    def __init__(self, rate: int, positions: Positions, profile: str) -> None:
        self.rate, self.positions = rate, positions
        self.state = State.QUIET
        self.underruns = 0
        self.skipped_frames: Frames = 0
        self.played_frames: Frames = 0
        self.profile = profile
        self._decoder: PacketDecoder | None = None
        self._matrix: Matrix | None = None
        self._resampler: SincResampler | None = None
        self._ring = Ring(rate * RING_S, len(positions))
        self._jitter = JitterWindow(MARGINS_NS[profile])
        self._lost_before = 0
        self._tail_ns: HostNs = 0
        self._ended = False
        self._late_since_ns: HostNs | None = None
        self._fade_in = False

    # -- in ----------------------------------------------------------------------------------

    def set_format(self, fmt: StreamFormat) -> None:
        """Packets of this format follow."""
        self._lost_before = self.lost_packets
        self._decoder = PacketDecoder(fmt)
        self._matrix = mix_matrix(tuple(fmt.positions), self.positions)
        self._resampler = None
        self._jitter = JitterWindow(MARGINS_NS[self.profile])
        if fmt.rate != self.rate:
            self._resampler = SincResampler(self.rate / fmt.rate, len(self.positions))

    @property
    def lost_packets(self) -> int:
        """Packets that never came."""
        return self._lost_before + (self._decoder.lost_packets if self._decoder else 0)

    def push(self, packet: Packet, now_ns: HostNs) -> None:
        """A packet has come."""
        if self._decoder is None:
            return
        self._jitter.add(now_ns - packet.host_ns)
        self._ended = False
        if self.state is State.QUIET:
            self.state = State.PRIMING
        rate_in = self._decoder.format.rate
        for part in self._decoder.decode(packet):
            block = part.block if self._matrix is None else part.block @ self._matrix
            if self._resampler is not None:
                block = self._resampler.process(block)
            written = self._ring.write(block)
            self.skipped_frames += len(block) - written
            end = part.position + len(part.block)
            self._tail_ns = packet.host_ns + (end - packet.position) * NS_PER_S // rate_in

    def silence(self) -> None:
        """The sound has ended: what is queued is played, then nothing, and that is no underrun."""
        self._ended = True
        if self._decoder is not None:
            self._decoder.silence()

    # -- out ---------------------------------------------------------------------------------

    @property
    def fill_ns(self) -> HostNs:
        """How much is queued."""
        return frames_to_ns(self._ring.fill_frames, self.rate)

    def latency_ns(self, now_ns: HostNs, offset_ns: HostNs) -> HostNs:
        """Age of the frame that is played next; `offset_ns` is the daemon's clock minus ours."""
        return now_ns + offset_ns - self._head_ns()

    def _head_ns(self) -> HostNs:
        return self._tail_ns - self.fill_ns

    def _late_ns(self, now_ns: HostNs) -> int:
        """How much later than its due time the next frame would be heard; negative is early."""
        return now_ns - self._jitter.target_ns - self._head_ns()

    def pull(self, out: Samples, now_ns: HostNs) -> None:
        """Fill `out` (frames, channels) with what is to be heard from `now_ns` on."""
        if self.state is State.PRIMING:
            self._try_start(now_ns)
        if self.state is not State.PLAYING:
            out.fill(0.0)
            return
        self._bound_latency(now_ns)
        got = self._ring.read(out)
        self.played_frames += got
        if self._fade_in:
            n = min(len(out), ns_to_frames(FADE_NS, self.rate))
            out[:n] *= ramp(n)
            self._fade_in = False
        if got < len(out):
            self._ran_dry(out, got)

    def _try_start(self, now_ns: HostNs) -> None:
        if not self._ring.fill_frames:
            self.state = State.QUIET if self._ended else State.PRIMING
            return
        late = self._late_ns(now_ns)
        if late < 0 and not self._ended:
            return
        self.state = State.PLAYING
        self._late_since_ns = None
        if late > SKIP_NS:
            self.skipped_frames += self._ring.skip(ns_to_frames(late, self.rate))

    def _ran_dry(self, out: Samples, got: Frames) -> None:
        out[got:] = 0.0
        self.state = State.QUIET if self._ended else State.PRIMING
        if self._ended:
            return
        self.underruns += 1
        self._fade_in = True
        n = min(got, ns_to_frames(FADE_NS, self.rate))
        if n:
            out[got - n : got] *= ramp(n)[::-1]

    def _bound_latency(self, now_ns: HostNs) -> None:
        late = self._late_ns(now_ns)
        if late <= SKIP_NS:
            self._late_since_ns = None
        elif self._late_since_ns is None:
            self._late_since_ns = now_ns
        elif now_ns - self._late_since_ns > SKIP_AFTER_NS:
            self._late_since_ns = None
            self._skip(ns_to_frames(late, self.rate))

    def _skip(self, frames: Frames) -> None:
        """Leave out `frames`, crossfading from before the hole to after it."""
        n = ns_to_frames(FADE_NS, self.rate)
        if self._ring.fill_frames < frames + 2 * n:
            return
        before = np.zeros((n, len(self.positions)), np.float32)
        self._ring.read(before)
        self._ring.skip(frames - n)
        after = self._ring.readable()[:n]
        k = len(after)
        after += (before[:k] - after) * (1.0 - ramp(k)) if k else 0.0
        self.skipped_frames += frames
