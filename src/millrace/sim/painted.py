"""A machine in this process that paints a desktop and clicks at each of its flashes: for demonstrations, benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from millrace.absent import nothing
from millrace.doors.ingress import Ingress, IngressStatus
from millrace.dsp.convert import Samples
from millrace.graph.graph import Graph
from millrace.graph.model import Stream
from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Screen
from millrace.pixels.rects import Point, Size
from millrace.sim.desktop import Desktop
from millrace.units import NS_PER_S, Frames, HostNs

CLICK_HZ, CLICK_S, CLICK_LEVEL = 3_000, 0.005, 0.4
_HUM_HZ, _HUM_LEVEL = 100, 0.002
"""Below the clicks: a listener is sent nothing of silence, so a click alone would have to begin the sound each time."""
_DOWN = 0x8000


def click(rate: int) -> Samples:
    """One click: a few periods of a high tone, faded in and out, which survives every codec."""
    frames = round(CLICK_S * rate)
    t = np.arange(frames) / rate
    return (CLICK_LEVEL * np.sin(2 * math.pi * CLICK_HZ * t) * np.hanning(frames)).astype(np.float32)


class Clicks(Ingress):
    """The `Feed` of a stream with a click at each whole second of host time, to the frame."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._click = click(graph.rate)
        self._cycle: Frames = -1
        self._at: Frames = 0

    # The graph's position is host time × rate, and without `bulk_frames` a stream is pulled for the cycle that begins
    # there; twice if the lane's end falls into it.
    def pull(self, out: Samples) -> Frames:
        """See `Feed`."""
        if self._graph.position != self._cycle:
            self._cycle = self._at = self._graph.position
        phase = np.arange(self._at, self._at + len(out)) % self._graph.rate
        click = np.where(phase < len(self._click), self._click[np.minimum(phase, len(self._click) - 1)], 0.0)
        out[:] = (click + _HUM_LEVEL * np.sin(2 * math.pi * _HUM_HZ / self._graph.rate * phase))[:, None]
        self._at += len(out)
        return len(out)

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed`: never."""

    def status(self) -> IngressStatus:
        """See `Ingress`."""
        return IngressStatus("simulation")


# Pictures are due at multiples of the interval on the host's clock, so that one falls on each whole second: the flash.
class PaintedMachine:
    """A `ScreenSource` and a `Timed` core: paints while somebody watches. `poke` is called when it is due earlier."""

    def __init__(self, desktop: Desktop, fps: int = 30, poke: Callable[[], None] = nothing) -> None:
        self.desktop, self.fps, self.poke = desktop, fps, poke
        self.keys: list[tuple[int, bool]] = []
        self.pointers: list[tuple[Point, int, bool]] = []
        self.always = False
        """Paint although nobody watches."""
        self._screen: Screen | None = None
        self._watched = False
        self._next_ns: HostNs = 0

    def show(self, screen: Screen, now_ns: HostNs) -> None:
        """Paint on this screen from now on."""
        self._screen = screen
        self.desktop.paint(now_ns)
        screen.set_mode(self.desktop.mode, memoryview(self.desktop.memory), now_ns)
        self._next_ns = self._tick(now_ns)

    def clicks(self, graph: Graph) -> Stream:
        """Add the stream of clicks to a graph."""
        assert graph.default is not None
        stream = Stream(graph.ids.take(), "clicks", graph.default.positions, feed=Clicks(graph))
        graph.add_stream(stream, graph.default)
        graph.activate(stream)
        return stream

    def _tick(self, now_ns: HostNs) -> HostNs:
        """The next instant at which a picture is due."""
        return -(-((now_ns * self.fps // NS_PER_S + 1) * NS_PER_S) // self.fps)

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        screen = self._screen
        paints = screen is not None and not screen.ended and (self._watched or self.always)
        return self._next_ns if paints else None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Paint, if it is time."""
        due_ns = self.next_timeout()
        if due_ns is not None and now_ns >= due_ns:
            self._paint(now_ns)

    def _paint(self, now_ns: HostNs) -> None:
        assert self._screen is not None
        changed = self.desktop.paint(now_ns)
        self._next_ns = self._tick(now_ns)
        self._screen.painted(changed, now_ns)

    # -- see `ScreenSource` ----------------------------------------------------------------------

    def key(self, press: KeyPress) -> None:
        """The next picture bears the code as its mark, and is due at once."""
        self.keys.append((press.code, press.down))
        self.desktop.mark = press.code | (_DOWN if press.down else 0)
        self._next_ns = 0
        self.poke()

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """Always."""
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """Noted."""
        self.pointers.append((at, buttons, relative))

    def size_wish(self, size: Size) -> None:
        """The desktop keeps its size."""

    def paint(self, tracks: frozenset[str]) -> None:
        """There are no overlays."""

    def watched(self, interval_ns: HostNs | None) -> None:
        """Begin or cease to paint."""
        self._watched = interval_ns is not None
        self.poke()
