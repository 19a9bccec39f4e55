"""A stream whose guest sends when it likes: QEMU's D-Bus, SPICE and VNC have no way to be asked.

Frames are the guest's clock; an AdaptiveLink lets the graph hear them on its own. A guest that pauses says
so (`stop`); one that falls silent without a word is carried on for a moment, then faded.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from millrace.clock.drift import Lock
from millrace.clock.jitter import JitterProfile, JitterTarget
from millrace.clock.pace import TAU_LOCKED_S, RateController
from millrace.doors.ingress import SOMEWHERE, Ingress, IngressStatus, PlayoutStatus, Stage, round_ms
from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Stream
from millrace.media.format import AudioFormat
from millrace.playout.adaptive import AdaptiveLink, PlayoutStats, State
from millrace.playout.buffer import JitterBuffer, tape_bytes
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, frames_to_ns

PROFILE = JitterProfile(10 * NS_PER_MS, 10 * NS_PER_MS, 120 * NS_PER_MS, NS_PER_MS // 2, 1e-4)
"""A guest on this machine. QEMU's periods against its timer make a saw-tooth of 5 ms, now and then of 11."""
FAR_PROFILE = JitterProfile(30 * NS_PER_MS, 20 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_MS, 1e-4)
"""One whose clock is far off: QEMU's default timing falls behind and catches up by 30 ms."""
REMOTE_PROFILE = JitterProfile(8 * NS_PER_MS, 4 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_MS, 1e-5)
QUANTUM_NS = 5 * NS_PER_MS
DRIFT_MAX = 0.3
SPLICE_NS = 25 * NS_PER_MS
"""What is off by less is worked off by speed: no frame of a guest that keeps time is lost or doubled."""
SETTLE_NS = 12 * NS_PER_MS
FAR_OFF = 5_000e-6
"""A guest's clock this far off is not learnt before its first sound has run late."""
TAPE_S = 2
_GAP_NS = NS_PER_S
_QUIET_NS = 2 * NS_PER_S
_SPEED_NS: HostNs = 10 * NS_PER_S
_SPEED_MIN_NS: HostNs = 3 * NS_PER_S


class SpeedMeter:
    """How much sound a second of ours brings: frames over host time, of the last ten seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[HostNs, Frames]] = deque()

    def restart(self) -> None:
        """The guest stood still, which is no slowness."""
        self._marks.clear()

    def mark(self, now_ns: HostNs, frames: Frames) -> None:
        """So many frames in all have come by now."""
        if not self._marks or now_ns - self._marks[-1][0] >= NS_PER_S:
            self._marks.append((now_ns, frames))
        while now_ns - self._marks[0][0] > _SPEED_NS and len(self._marks) > 2:
            self._marks.popleft()

    def percent(self, rate: int) -> float | None:
        """Of real time; None before three seconds."""
        if not self._marks or self._marks[-1][0] - self._marks[0][0] < _SPEED_MIN_NS:
            return None
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return 100.0 * (after - before) * NS_PER_S / (rate * (now - then))


class PushedStatus(IngressStatus, frozen=True):
    """What is told of such a stream."""

    place: str = SOMEWHERE

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


class PushedStream(Ingress):
    """The graph's `Feed` behind one such stream. `node` is in the graph from the first sound on.

    `origin` is where the machine was found.
    """

    def __init__(
        self,
        graph: Graph,
        node: Stream,
        fmt: AudioFormat,
        profile: JitterProfile = PROFILE,
        pace: RateController | None = None,
        origin: str = SOMEWHERE,
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
        """(frames, channels) have come."""
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
        """A clock that turns out to be far off made everything late until now: that was no jitter."""
        rate = self.pace.media.rate
        if not self._drift_known and rate != 0.0:
            self._drift_known = True
            if abs(rate) > FAR_OFF:
                self.pace.jitter = JitterTarget(FAR_PROFILE)
                return
        late = self._link.late_ns
        if self.pace.media.state is Lock.ACQUIRE and NS_PER_MS < late < SETTLE_NS:
            # The first sound was late, and so all that follows it: a target delay that shrinks calmly, not a hurry.
            self.pace.jitter.target_delay_ns += late
            self._link.late_ns = 0.0

    def resume(self) -> None:
        """Let the graph pull, if there is something to hear and its sink is not suspended."""
        if not self.node.active and self._link.state is not State.QUIET and not self.node.sink.suspended:
            self.graph.activate(self.node)

    def _anchor(self, now_ns: HostNs) -> None:
        """The guest's clock begins or goes on here: how long it stood still is none of its frames."""
        self._anchored = True
        self._media_ns, self._since = now_ns, 0
        self.pace.media.anchor(now_ns, now_ns)
        self.speed.restart()

    def stop(self) -> None:
        """The guest says that its sound ends here, for now."""
        if self._link.state is not State.QUIET:
            self._voice.write(np.zeros((2 * self._voice.lookahead, len(self.format.positions)), np.float32))
        self._link.end()
        self._anchored = False

    def set_volume(self, gains: tuple[float, ...], mute: bool) -> None:
        """The guest's own mixer, linear, one for all channels or one each; it ramps."""
        channels = len(self.format.positions)
        self._wanted = np.asarray((0.0,) * channels if mute else fitted(gains, channels), np.float32)

    @property
    def volume(self) -> tuple[float, ...]:
        """Linear gains the guest asked for."""
        return tuple(round(float(g), 4) for g in self._wanted)

    # -- out -------------------------------------------------------------------------------------

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        now_ns = self.graph.now_ns
        link = self._link
        holes = self.tally.underruns
        pulled = link.pull(len(out), now_ns, frames_to_ns(self.graph.position, self.graph.rate))
        if self.tally.underruns != holes:
            self.graph.troubled(self.node, "late", self._came_ns)
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

    def _level(self, out: Samples) -> None:
        gains, self._gains = self._gains, self._wanted
        if self._gains is not gains:
            out *= gains + ramp(len(out)) * (self._gains - gains)
        elif not (gains == 1.0).all():
            out *= gains

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`: nothing is to come for now."""
        del frames
        if played_out:
            self.graph.deactivate(self.node, "the guest is silent")

    def remove(self) -> None:
        """The stream is gone."""
        self.graph.remove_stream(self.node)

    # -- how it fares ----------------------------------------------------------------------------

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
        """What had to be done to keep time."""
        return self._link.tally

    @property
    def fill_ns(self) -> HostNs:
        """Sound queued."""
        return self._link.fill_ns

    @property
    def target_delay_ns(self) -> float:
        """How long after its arrival a frame is mixed."""
        return self.pace.target_delay_ns

    @property
    def latency_ns(self) -> float:
        """From the arrival of a frame, at its earliest, to the graph's mix."""
        return self.pace.target_delay_ns + self._link.late_ns

    @property
    def drift_ppm(self) -> float | None:
        """How fast the guest's card runs against this machine; None until that is known."""
        return self.pace.media.ppm if self.pace.locked else None


def fitted(gains: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Gains chosen for one layout, in another: their mean where the counts differ."""
    if len(gains) == channels:
        return gains
    return (sum(gains) / len(gains) if gains else 1.0,) * channels


def new_stream(graph: Graph, sink: Sink, name: str, fmt: AudioFormat, props: dict[str, str]) -> Stream:
    """A node for a pushed stream, in the graph; GraphError where the guest has too many."""
    node = Stream(graph.ids.take(), name, fmt.positions, props)
    node.asks = {"tape": tape_bytes(fmt.rate, len(fmt.positions), TAPE_S)}
    graph.add_stream(node, sink)
    return node
