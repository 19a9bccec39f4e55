"""A listener's microphone in its guest's graph: packets on the listener's clock, played into the guest's source."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.budget import LISTENERS
from millrace.clock.jitter import JitterProfile
from millrace.codec.parameters import CodecParameters
from millrace.doors.ingress import Ingress, IngressStatus, PlayoutStatus
from millrace.dsp.convert import Samples
from millrace.errors import RemoteProtocolError
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Stream
from millrace.media.audio import AudioPacket
from millrace.playout.adaptive import State
from millrace.playout.buffer import tape_bytes
from millrace.playout.playout import Playout
from millrace.units import NS_PER_MS, NS_PER_S, POSITIONS, Frames, HostNs, frames_to_ns

PROFILE = JitterProfile(25 * NS_PER_MS, 20 * NS_PER_MS, 250 * NS_PER_MS, NS_PER_MS, 1e-5)
"""Recordings are kept, so a dropout is worse than another 20 ms of delay."""
SPLICE_NS = 25 * NS_PER_MS
"""Smaller errors are corrected by resampling, without a splice: recordings get edited later."""
CHANNELS_MAX = 2
SILENT_NS = 2 * NS_PER_S
"""A microphone that has sent nothing for this long has stopped; until then it counts as late."""


def _nobody(more: int) -> bool:
    """Nobody makes room."""
    return False


class MicrophoneStatus(IngressStatus, frozen=True):
    """Status of a microphone stream."""

    speaker: str = ""

    @property
    def origin(self) -> str:
        """See `IngressStatus`."""
        return f"it comes from the microphone of {self.speaker}"


class MicrophoneStream(Ingress):
    """The graph's `Feed` for one listener's microphone; `speaker` is the listener's key."""

    def __init__(
        self, graph: Graph, source: Sink, name: str, speaker: str, make_room: Callable[[int], bool] = _nobody
    ) -> None:
        """GraphError if there is no room for it, though others were asked to `make_room` for so many bytes."""
        self.graph, self.speaker, self._make_room = graph, speaker, make_room
        self.node = Stream(graph.ids.take(), name, source.positions, {"application.name": name, "media.role": "phone"})
        self.node.feed = self
        self.node.reach = LISTENERS
        self.node.latency_ask_ns = 10 * NS_PER_MS
        self.playout = Playout(graph.rate, source.positions, PROFILE, SPLICE_NS)
        self._came_ns: HostNs = 0
        self.node.always = make_room(graph.accounts.needs(self.node))
        graph.add_stream(self.node, source)

    def set_format(self, fmt: CodecParameters) -> None:
        """The packets that follow have this format.

        RemoteProtocolError if it is not valid for a microphone, BudgetError if there is no room for its tape.
        """
        if not 1 <= len(fmt.positions) <= CHANNELS_MAX or not set(fmt.positions) <= set(POSITIONS):
            raise RemoteProtocolError(f"too many microphone channels: {len(fmt.positions)}; one or two are possible")
        # Charged only now: the tape allocates nothing until it is written to.
        needed = tape_bytes(fmt.rate, len(self.playout.positions))
        self._make_room(needed - self.node.account.part("tape"))
        self.node.account.hold("tape", needed, LISTENERS)
        self.playout.set_format(fmt)

    # While the source is suspended the packets still go to the playout, which keeps measuring the listener's clock
    # and jitter.
    def push(self, packet: AudioPacket, now_ns: HostNs) -> None:
        """A packet has arrived."""
        self._came_ns = now_ns
        self.playout.push(packet, now_ns)
        if self.playout.state is not State.QUIET and not self.node.sink.suspended:
            self.graph.activate(self.node)

    def stop(self) -> None:
        """The listener has signalled that its sound pauses here."""
        self.playout.silence()

    def pull(self, out: Samples) -> Frames:
        """See `Feed.pull`."""
        now_ns = self.graph.now_ns
        if self.playout.state is State.QUIET or now_ns - self._came_ns > SILENT_NS:
            return 0
        holes = self.playout.tally.underruns
        self.playout.pull(out, now_ns, frames_to_ns(self.graph.position, self.graph.rate))
        if self.playout.tally.underruns != holes:
            self.graph.report_node(self.node, "microphone", self._came_ns)
        np.clip(out, -1.0, 1.0, out=out)
        return len(out)

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed.short`."""
        del frames
        if played_out:
            self.graph.deactivate(self.node, "the microphone is silent")

    def status(self) -> IngressStatus:
        """See `Ingress`."""
        playout, pace, tally = self.playout, self.playout.pace, self.playout.tally
        fares = PlayoutStatus(
            pace.target_delay_ns, pace.target_delay_ns + playout.late_ns, tally.underruns, tally.concealed,
            tally.left_out_frames, pace.media.ppm if pace.locked else None, lost=playout.lost_packets,
            splices=tally.splices,
        )  # fmt: skip
        return MicrophoneStatus("microphone", fill_ns=playout.fill_ns, playout=fares, speaker=self.speaker)

    def remove(self) -> None:
        """The listener has left, or may no longer send its microphone."""
        self.graph.remove_stream(self.node)
