"""Pushed streams: the guest decides when to send, as sound can't be requested over QEMU's D-Bus, SPICE or VNC.

The frame count is the guest's clock; an AdaptiveLink converts it to the graph's. A guest that pauses signals it
(`stop`). If sound stops without a signal, the last of it is extended briefly, then faded out.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from millrace.clock.drift import Lock
from millrace.clock.jitter import JitterProfile, JitterTarget
from millrace.clock.pace import TAU_LOCKED_S, RateController
from millrace.doors.ingress import UNKNOWN_ORIGIN, Ingress, IngressStatus, PlayoutStatus, Stage, round_ms
from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Stream
from millrace.media.format import AudioFormat
from millrace.playout.adaptive import AdaptiveLink, PlayoutStats, State
from millrace.playout.buffer import JitterBuffer, tape_bytes
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, frames_to_ns

PROFILE = JitterProfile(10 * NS_PER_MS, 10 * NS_PER_MS, 120 * NS_PER_MS, NS_PER_MS // 2, 1e-4)
"""For a guest on this machine. QEMU's periods beat against its timer: a sawtooth."""
FAR_PROFILE = JitterProfile(30 * NS_PER_MS, 20 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_MS, 1e-4)
"""For a guest whose clock is far off: QEMU's default timing falls behind and catches up at once."""
REMOTE_PROFILE = JitterProfile(8 * NS_PER_MS, 4 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_MS, 1e-5)
QUANTUM_NS = 5 * NS_PER_MS
DRIFT_MAX = 0.3
SPLICE_NS = 25 * NS_PER_MS
"""Smaller errors are corrected by resampling, so a guest that keeps time has no frame dropped or repeated."""
SETTLE_NS = 12 * NS_PER_MS
LARGE_DRIFT = 5_000e-6
"""With a clock error this large, the guest's first sound runs late before the error is known."""
TAPE_S = 2
_GAP_NS = NS_PER_S
_QUIET_NS = 2 * NS_PER_S
_SPEED_NS: HostNs = 10 * NS_PER_S
_SPEED_MIN_NS: HostNs = 3 * NS_PER_S


class SpeedMeter:
    """Measures sound received per second of host time, over the last ten seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[HostNs, Frames]] = deque()

    def restart(self) -> None:
        """The guest was paused; that must not count as slowness."""
        self._marks.clear()

    def mark(self, now_ns: HostNs, frames: Frames) -> None:
        """`frames` is the total received so far."""
        if not self._marks or now_ns - self._marks[-1][0] >= NS_PER_S:
            self._marks.append((now_ns, frames))
        while now_ns - self._marks[0][0] > _SPEED_NS and len(self._marks) > 2:
            self._marks.popleft()

    def percent(self, rate: int) -> float | None:
        """Percentage of real time; None until three seconds have been measured."""
        if not self._marks or self._marks[-1][0] - self._marks[0][0] < _SPEED_MIN_NS:
            return None
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return 100.0 * (after - before) * NS_PER_S / (rate * (now - then))


class PushedStatus(IngressStatus, frozen=True):
    """Status of a pushed stream."""

    place: str = UNKNOWN_ORIGIN

    @property
    def origin(self) -> str:
        """See `IngressStatus`."""
        return f"it comes from {self.place}"

    @property
    def buffer(self) -> str:
        """See `IngressStatus`."""
        assert self.playout is not None
        return f"a machine sends irregularly: the target delay is {round_ms(self.playout.target_ns)}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """See `IngressStatus`."""
        assert self.playout is not None
        target_ns = self.playout.target_ns
        return (
            Stage("machine's jitter buffer", target_ns, "sized for the machine's timer jitter"),
            Stage("off target", self.playout.latency_ns - target_ns, "being corrected"),
        )


# How a machine's clock is measured. The machine sends no time stamps, so the number of frames since the last anchor
# is its clock: `_media_ns` is the host time at the anchor, `_since` the frames sent since then. Each block is an
# observation of that clock against the host's. A pause produces no frames, so the count says nothing about its
# length; after `stop`, or after a second without a block, the next block is a new anchor. What `pace` has learned of
# the clock's rate survives an anchor, since it is a property of the card, and it is handed on when the card changes
# its format.
#
# Not every pause is signalled. After one that is not, the stream stays active and gives silence until `_QUIET_NS`
# after its last block, so a machine that stalls does not make the graph stop and start. Only then does `pull` return
# 0.
class PushedStream(Ingress):
    """The graph's `Feed` of one pushed stream, whose `node` is in the graph.

    `origin` is where the machine was found.
    """

    def __init__(
        self,
        graph: Graph,
        node: Stream,
        fmt: AudioFormat,
        profile: JitterProfile = PROFILE,
        pace: RateController | None = None,
        origin: str = UNKNOWN_ORIGIN,
    ) -> None:
        self.graph, self.node, self.format, self.origin = graph, node, fmt, origin
        self.frames: Frames = 0
        self.speed = SpeedMeter()
        self.pace = pace or RateController(graph.rate, profile, DRIFT_MAX, TAU_LOCKED_S)
        self._drift_known = self.pace.media.rate != 0.0
        self._voice = JitterBuffer(fmt.rate, len(fmt.positions), TAPE_S, graph.rate)
        self._link = AdaptiveLink(fmt.rate, graph.rate, self.pace, self._voice, SPLICE_NS)
        self._anchored = False
        self._media_ns: HostNs = 0
        self._since: Frames = 0
        self._came_ns: HostNs = 0
        self._gains = np.ones(len(fmt.positions), np.float32)
        self._wanted = self._gains
        node.feed = self
        node.latency_ask_ns = QUANTUM_NS
        node.bulk_frames = 0

    # -- in --------------------------------------------------------------------------------------

    def write(self, block: Samples, now_ns: HostNs) -> None:
        """A block (frames, channels) has arrived."""
        if not len(block):
            return
        if not self._anchored or now_ns - self._came_ns > _GAP_NS:
            self._anchor(now_ns)
        self._came_ns = now_ns
        if self._link.state is State.QUIET:
            self._voice.stop()
        media_ns = self._media_ns + frames_to_ns(self._since, self.format.rate)
        self.pace.arrived(media_ns, frames_to_ns(len(block), self.format.rate), now_ns)
        self._link.written(media_ns, len(block), self._voice.write(block))
        self._learn()
        self._since += len(block)
        self.frames += len(block)
        self.speed.mark(now_ns, self.frames)
        self.resume()

    def _learn(self) -> None:
        """Once the drift is known to be large: the lateness so far came from drift, so restart the jitter estimate."""
        rate = self.pace.media.rate
        if not self._drift_known and rate != 0.0:
            self._drift_known = True
            if abs(rate) > LARGE_DRIFT:
                self.pace.jitter = JitterTarget(FAR_PROFILE)
                return
        late = self._link.late_ns
        if self.pace.media.state is Lock.ACQUIRE and NS_PER_MS < late < SETTLE_NS:
            # The first sound was late, and so is everything after it. Accept that as the target delay, which then
            # shrinks slowly, instead of catching up at once.
            self.pace.jitter.target_delay_ns += late
            self._link.late_ns = 0.0

    def resume(self) -> None:
        """Let the graph pull, if there is something to play and the sink is not suspended."""
        if not self.node.active and self._link.state is not State.QUIET and not self.node.sink.suspended:
            self.graph.activate(self.node)

    def _anchor(self, now_ns: HostNs) -> None:
        """Start or resume the guest's clock here: a pause has no frames, so the frame count can't measure it."""
        self._anchored = True
        self._media_ns, self._since = now_ns, 0
        self.pace.media.anchor(now_ns, now_ns)
        self.speed.restart()

    def stop(self) -> None:
        """The guest has signalled that its sound pauses here."""
        if self._link.state is not State.QUIET:
            # Silence pushes the last frames out of the resampler.
            self._voice.write(np.zeros((2 * self._voice.lookahead, len(self.format.positions)), np.float32))
        self._link.end()
        self._anchored = False

    def set_volume(self, gains: tuple[float, ...], mute: bool) -> None:
        """Set the guest's own mixer: linear gains, one for all channels or one per channel. Changes are ramped."""
        channels = len(self.format.positions)
        self._wanted = np.asarray((0.0,) * channels if mute else fitted(gains, channels), np.float32)

    @property
    def volume(self) -> tuple[float, ...]:
        """The linear gains that the guest has set."""
        return tuple(round(float(g), 4) for g in self._wanted)

    # -- out -------------------------------------------------------------------------------------

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        now_ns = self.graph.now_ns
        link = self._link
        holes = self.tally.underruns
        pulled = link.pull(len(out), now_ns, frames_to_ns(self.graph.position, self.graph.rate))
        if self.tally.underruns != holes:
            self.graph.report_node(self.node, "late", self._came_ns)
        if pulled:
            lead = link.lead
            out[:lead] = 0.0
            self._voice.read(out[lead:], link.ratio)
            self._level(out)
        elif link.state is State.QUIET or now_ns - self._came_ns > _QUIET_NS:
            return 0
        else:
            out.fill(0.0)
        return len(out)

    # The machine's own mixer comes before the user's volume in the graph, and both apply. QEMU's D-Bus and SPICE
    # outputs report the guest's volume but send the samples at full level; over VNC the samples are scaled and no
    # volume arrives.
    def _level(self, out: Samples) -> None:
        gains, self._gains = self._gains, self._wanted
        if self._gains is not gains:
            out *= gains + ramp(len(out)) * (self._gains - gains)
        elif not (gains == 1.0).all():
            out *= gains

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`: there is nothing to play for now."""
        del frames
        if played_out:
            self.graph.deactivate(self.node, "the guest is silent")

    def remove(self) -> None:
        """The stream has ended."""
        self.graph.remove_stream(self.node)

    # -- status ----------------------------------------------------------------------------------

    def status(self) -> IngressStatus:
        """See `Ingress`."""
        tally = self.tally
        playout = PlayoutStatus(
            self.target_delay_ns, self.latency_ns, tally.underruns, tally.concealed, tally.left_out_frames,
            self.drift_ppm, frames=self.frames, gains=self.volume,
            real_time_percent=self.speed.percent(self.format.rate),
        )  # fmt: skip
        return PushedStatus(
            "machine", self.format, self.fill_ns, corked=not self.node.active, playout=playout, place=self.origin
        )

    @property
    def tally(self) -> PlayoutStats:
        """Counts of the corrections made to hold the latency."""
        return self._link.tally

    @property
    def fill_ns(self) -> HostNs:
        """Duration of queued sound."""
        return self._link.fill_ns

    @property
    def target_delay_ns(self) -> float:
        """The target delay, from a frame's arrival to its mix."""
        return self.pace.target_delay_ns

    @property
    def latency_ns(self) -> float:
        """From a frame's earliest possible arrival to the graph's mix."""
        return self.pace.target_delay_ns + self._link.late_ns

    @property
    def drift_ppm(self) -> float | None:
        """The guest's card clock relative to this machine's; None until it is known."""
        return self.pace.media.ppm if self.pace.locked else None


def fitted(gains: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Gains set for one layout, applied to another: their mean if the channel counts differ."""
    if len(gains) == channels:
        return gains
    return (sum(gains) / len(gains) if gains else 1.0,) * channels


def pushed_bytes(fmt: AudioFormat) -> int:
    """What a pushed stream of a format queues at most."""
    return tape_bytes(fmt.rate, len(fmt.positions), TAPE_S)


def new_stream(graph: Graph, sink: Sink, name: str, fmt: AudioFormat, props: dict[str, str]) -> Stream:
    """Add a node for a pushed stream to the graph; GraphError if the guest has too many."""
    node = Stream(graph.ids.take(), name, fmt.positions, props)
    node.charges = {"tape": pushed_bytes(fmt)}
    graph.add_stream(node, sink)
    return node
