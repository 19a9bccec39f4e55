"""A machine's VNC sound in a guest's graph. VNC has no microphone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from millrace.clock.jitter import JitterProfile
from millrace.doors.ingress import UNKNOWN_ORIGIN
from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PROFILE, PushedStream, new_stream
from millrace.dsp.convert import SampleFormat
from millrace.graph.graph import Graph
from millrace.media.format import AudioFormat
from millrace.units import HostNs, default_map
from millrace.wire.vnc.client import AudioBegin, AudioData, AudioEnd, Ready, TlsWanted, VncClient, VncEvent

SessionEvent: TypeAlias = Ready | TlsWanted


def _untold(event: SessionEvent) -> None:
    """Ignore session events."""


class VncDoor(PlayingDoor):
    """One VNC connection's stream. `told` is called with session events: login accepted, or TLS requested."""

    def __init__(
        self, graph: Graph, wire: VncClient, told: Callable[[SessionEvent], None] = _untold,
        profile: JitterProfile = PROFILE, origin: str = UNKNOWN_ORIGIN,
    ) -> None:  # fmt: skip
        self.graph, self.wire, self._origin = graph, wire, origin
        self.name = "VNC"
        self.stream: PushedStream | None = None
        self._profile, self._told = profile, told

    @property
    def streams(self) -> list[PushedStream]:
        """See `MachineDoor`."""
        return [] if self.stream is None else [self.stream]

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        for event in self.wire.events():
            self._handle(event, now_ns)

    def _handle(self, event: VncEvent, now_ns: HostNs) -> None:
        if isinstance(event, AudioData):
            if self.stream is not None:
                self.stream.write(self.stream.format.decode(event.payload), now_ns)
        elif isinstance(event, Ready | TlsWanted):
            if isinstance(event, Ready):
                self.name = event.name or "VNC"
            self._told(event)
        elif isinstance(event, AudioBegin):
            self._begin()
        elif isinstance(event, AudioEnd) and self.stream is not None:
            self.stream.stop()

    # The format is the one that this side asked for when it enabled sound (`VncClient`), so it never changes and one
    # stream serves the whole connection. An End only pauses it.
    def _begin(self) -> None:
        if self.stream is not None:
            return
        default = self.graph.default
        assert default is not None
        fmt = AudioFormat(SampleFormat.S16LE, self.wire.rate, default_map(self.wire.channels))
        props = {"application.name": self.name, "media.name": "VNC"}
        node = new_stream(self.graph, default, self.name, fmt, props)
        self.stream = PushedStream(self.graph, node, fmt, self._profile, origin=self._origin)

    def close(self) -> None:
        """See `MachineDoor`."""
        self._told = _untold
        if self.stream is not None:
            self.stream.remove()
            self.stream = None
