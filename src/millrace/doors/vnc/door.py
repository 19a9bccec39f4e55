"""A machine's VNC sound in a guest's graph, its screen and its clipboard. VNC has no microphone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from millrace.clock.jitter import JitterProfile
from millrace.doors.clipboard import MachineClipboard
from millrace.doors.ingress import UNKNOWN_ORIGIN
from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PROFILE, PushedStream, new_stream
from millrace.doors.vnc.screen import VncScreen
from millrace.dsp.convert import SampleFormat
from millrace.graph.graph import Graph
from millrace.media.format import AudioFormat
from millrace.units import HostNs, default_map
from millrace.wire.clips import ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import (
    AudioBegin,
    AudioData,
    AudioEnd,
    CursorAt,
    CursorShape,
    Ready,
    Resized,
    SoundOffered,
    TlsWanted,
    Update,
    VncEvent,
)

SessionEvent: TypeAlias = Ready | SoundOffered | TlsWanted


def _untold(event: SessionEvent) -> None:
    """Ignore session events."""


class VncDoor(PlayingDoor):
    """One VNC connection's stream and screen. `told` is called with session events.

    They are: the server has let us in, or it offers sound, or it expects TLS. Without a `screen`, pictures are ignored.
    """

    def __init__(
        self, graph: Graph, wire: VncClient, told: Callable[[SessionEvent], None] = _untold,
        profile: JitterProfile = PROFILE, origin: str = UNKNOWN_ORIGIN, screen: VncScreen | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.wire, self._origin = graph, wire, origin
        self.name = "VNC"
        self.stream: PushedStream | None = None
        self.screen = screen
        self.clipboard: MachineClipboard | None = None
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
        if isinstance(event, Update | Resized | CursorShape | CursorAt):
            self._show(event, now_ns)
        elif isinstance(event, AudioData):
            if self.stream is not None:
                self.stream.write(self.stream.format.decode(event.payload), now_ns)
        elif isinstance(event, Ready | SoundOffered | TlsWanted):
            if isinstance(event, Ready):
                self.name = event.name or "VNC"
                self.clipboard = None if self.screen is None else self.screen.clipboard()
            self._told(event)
        elif isinstance(event, AudioBegin):
            self._begin()
        elif isinstance(event, ClipOffered | ClipWanted | ClipSupplied):
            if self.clipboard is not None:
                self.clipboard.receive(event)
        elif isinstance(event, AudioEnd) and self.stream is not None:
            self.stream.stop()

    def _show(self, event: Update | Resized | CursorShape | CursorAt, now_ns: HostNs) -> None:
        screen = self.screen
        if screen is None:
            return
        if isinstance(event, Update):
            screen.updated(event, now_ns)
        elif isinstance(event, Resized):
            screen.resized(event, self.name, now_ns)
        elif isinstance(event, CursorShape):
            screen.cursor_shaped(event)
        else:
            screen.cursor_moved(event)

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
        if self.screen is not None:
            self.screen.close()
            self.screen = None
        if self.clipboard is not None:
            self.clipboard.close()
            self.clipboard = None
