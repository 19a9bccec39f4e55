"""A machine's VNC sound in a guest's graph, its screen and its clipboard. VNC has no microphone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from millrace.clock.jitter import JitterProfile
from millrace.doors.clipboard import MachineClipboard
from millrace.doors.ingress import UNKNOWN_ORIGIN
from millrace.doors.machine import PlayingDoor
from millrace.doors.pushed import PROFILE, PushedStream, new_stream
from millrace.doors.soundroom import SoundRoom
from millrace.doors.vnc.screen import VncScreen
from millrace.dsp.convert import SampleFormat
from millrace.graph.graph import Graph
from millrace.graph.steps import Steps
from millrace.media.format import AudioFormat
from millrace.units import HostNs, default_map
from millrace.wire.clips import ClipEvent
from millrace.wire.keys import LightsTold
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
from millrace.wire.vnc.work import PART_WORK, WORK_MAX

SOUND_WORK = 5
"""What a byte of sound costs."""
_SHOW_WORK: dict[type, int] = {Resized: WORK_MAX, CursorShape: 100_000, CursorAt: 20_000}
"""What these cost: whoever watches is told of another size."""
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
        self._steps = Steps(self._next, lambda: wire.work.over)
        self._received_ns: HostNs = 0
        self._closed = False
        self.room = SoundRoom(origin, "sound", graph.budget)

    @property
    def streams(self) -> list[PushedStream]:
        """See `MachineDoor`."""
        return [] if self.stream is None else [self.stream]

    # A step of the wire and this one share what a step may cost. What is left of an event goes on in the next step, in
    # which the wire parses nothing.
    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`. While the wire is `unfinished`, it must be called again."""
        self._received_ns, wire = now_ns, self.wire
        if self._closed:
            return
        while not wire.work.over and (self._steps.begun or wire.waiting):
            if self._steps.work() and not wire.waiting:
                wire.take()
        wire.painting = self._steps.begun or wire.waiting

    def _next(self) -> Iterator[None]:
        event, work = self.wire.take(), self.wire.work
        assert event is not None
        work.spent += PART_WORK
        for cost in self._handle(event, self._received_ns):
            work.spent += cost
            yield

    def _handle(self, event: VncEvent, now_ns: HostNs) -> Iterator[int]:
        """Yields what each step has cost, besides what an event costs."""
        if isinstance(event, Update):
            if self.screen is not None:
                yield from self.screen.updated(event, now_ns)
        elif isinstance(event, Resized | CursorShape | CursorAt):
            self._show(event, now_ns)
            yield _SHOW_WORK[type(event)]
        elif isinstance(event, AudioData):
            if self.stream is not None:
                self.stream.write(self.stream.format.decode(event.payload), now_ns)
                yield SOUND_WORK * len(event.payload)
        elif isinstance(event, Ready | SoundOffered | TlsWanted):
            if isinstance(event, Ready):
                self.name = event.name or "VNC"
                self.clipboard = None if self.screen is None else self.screen.clipboard()
            self._told(event)
        elif isinstance(event, LightsTold):
            if self.screen is not None and self.screen.screen is not None:
                self.screen.screen.lights.told(event.on)
        elif isinstance(event, AudioBegin):
            self._begin()
        elif isinstance(event, ClipEvent):
            if self.clipboard is not None:
                self.clipboard.receive(event)
        elif isinstance(event, AudioEnd) and self.stream is not None:
            self.stream.stop()

    def _show(self, event: Resized | CursorShape | CursorAt, now_ns: HostNs) -> None:
        screen = self.screen
        if screen is None:
            return
        if isinstance(event, Resized):
            screen.resized(event, self.name, now_ns)
        elif isinstance(event, CursorShape):
            screen.cursor_shaped(event)
        else:
            screen.cursor_moved(event)

    # The format is the one that this side asked for when it enabled sound (`VncClient`), so it never changes and one
    # stream serves the whole connection. An End only pauses it.
    def _begin(self) -> None:
        if self.stream is None:
            fmt = AudioFormat(SampleFormat.S16LE, self.wire.rate, default_map(self.wire.channels))
            self.room.begin(0, partial(self._make, fmt))

    def _make(self, fmt: AudioFormat) -> None:
        default = self.graph.default
        assert default is not None
        props = {"application.name": self.name, "media.name": "VNC"}
        node = new_stream(self.graph, default, self.name, fmt, props)
        self.stream = PushedStream(self.graph, node, fmt, self._profile, origin=self._origin)

    def close(self) -> None:
        """See `MachineDoor`. The last that it says to the server releases what is down."""
        self._told, self._closed = _untold, True
        self._steps.close()
        self.room.close()
        if self.stream is not None:
            self.stream.remove()
            self.stream = None
        if self.screen is not None:
            self.screen.close()
            self.screen = None
        if self.clipboard is not None:
            self.clipboard.close()
            self.clipboard = None
        self.wire.send_end()
