"""A machine's VNC sound in a guest's graph. VNC has no microphone."""

from __future__ import annotations

from millrace.clock.jitter import JitterProfile
from millrace.doors.ingress import SOMEWHERE
from millrace.doors.pushed import PROFILE, PushedStream, new_stream
from millrace.dsp.convert import SampleFormat
from millrace.graph.graph import Graph
from millrace.media.format import AudioFormat
from millrace.units import HostNs, default_map
from millrace.wire.vnc.client import AudioBegin, AudioData, AudioEnd, Ready, VncClient, VncEvent


class VncDoor:
    """One VNC connection's stream."""

    def __init__(
        self, graph: Graph, wire: VncClient, profile: JitterProfile = PROFILE, origin: str = SOMEWHERE
    ) -> None:
        self.graph, self.wire, self._origin = graph, wire, origin
        self.name = "VNC"
        self.stream: PushedStream | None = None
        self._profile = profile

    def handle(self, event: VncEvent, now_ns: HostNs) -> None:
        """Handle one event."""
        if isinstance(event, AudioData):
            if self.stream is not None:
                self.stream.write(self.stream.format.decode(event.payload), now_ns)
        elif isinstance(event, Ready):
            self.name = event.name or "VNC"
        elif isinstance(event, AudioBegin):
            self._begin()
        elif isinstance(event, AudioEnd) and self.stream is not None:
            self.stream.stop()

    def _begin(self) -> None:
        if self.stream is not None:
            return
        default = self.graph.default
        assert default is not None
        fmt = AudioFormat(SampleFormat.S16LE, self.wire.rate, default_map(self.wire.channels))
        props = {"application.name": self.name, "media.name": "VNC"}
        node = new_stream(self.graph, default, self.name, fmt, props)
        self.stream = PushedStream(self.graph, node, fmt, self._profile, origin=self._origin)

    def lost(self) -> None:
        """The connection is gone."""
        if self.stream is not None:
            self.stream.remove()
            self.stream = None
