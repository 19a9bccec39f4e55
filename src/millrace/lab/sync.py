"""Measures how far picture and sound are apart where they come out: flashes in a viewer, clicks in a listener's output.

Both come from `sim/painted.py`, at the same host time. Nothing here asks a listener or a viewer what it believes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from millrace.backends.base import ClockedOutput, OutputWatch, Pull
from millrace.client.canvas import Canvas
from millrace.client.faces import Unseen
from millrace.dsp.convert import Samples
from millrace.dsp.measure import tone_onsets
from millrace.pixels.blockcode import Stamp, read
from millrace.pixels.rects import Rect
from millrace.sim.desktop import CODE, FLASH
from millrace.sim.painted import CLICK_HZ, CLICK_S
from millrace.units import NS_PER_S, HostNs, MediaNs, Positions

KEPT_S = 30
"""How much sound is kept for the search."""
APART_MAX_NS: HostNs = NS_PER_S // 2


class HeardOutput:
    """An output that notes what it plays, and when that is heard."""

    def __init__(self, inner: ClockedOutput, clock: Callable[[], HostNs]) -> None:
        self.name, self._inner, self._clock = inner.name, inner, clock
        self._rate, self._latency_ns = 48_000, 0
        self._blocks: deque[tuple[HostNs, Samples]] = deque()
        self._frames = 0

    def start(self, rate: int, positions: Positions, pull: Pull, watch: OutputWatch) -> HostNs:
        """See `ClockedOutput`."""
        self._rate = rate

        def noted(out: Samples) -> None:
            now = self._clock()
            pull(out)
            self._blocks.append((now, out[:, 0].copy()))
            self._frames += len(out)
            while self._frames > KEPT_S * rate:
                self._frames -= len(self._blocks.popleft()[1])

        self._latency_ns = self._inner.start(rate, positions, noted, watch)
        return self._latency_ns

    def stop(self) -> None:
        """See `ClockedOutput`."""
        self._inner.stop()

    # An output plays at a steady rate and pulls late at times, never early: so the pull that was least late says when
    # each frame is heard.
    def clicks(self) -> list[HostNs]:
        """When the clicks were heard."""
        blocks = list(self._blocks)
        if not blocks:
            return []
        sizes = np.array([len(block) for _, block in blocks])
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1])) * NS_PER_S / self._rate
        began = float(min(at - start for (at, _), start in zip(blocks, starts, strict=True)))
        sound = np.concatenate([block for _, block in blocks])
        found = tone_onsets(sound, self._rate, CLICK_HZ, round(CLICK_S * self._rate))
        return [round(began + int(frame) * NS_PER_S / self._rate) + self._latency_ns for frame in found]


class FlashFace(Unseen):
    """A `Face` that reads what it is shown: the code of each picture, and the flashes."""

    def __init__(self, clock: Callable[[], HostNs]) -> None:
        self._clock = clock
        self.seen: list[tuple[Stamp, HostNs]] = []
        """Each picture's code, and when it was drawn."""
        self.unread = 0
        """Pictures without a code that can be read."""
        self.flashes: list[HostNs] = []
        self._lit = False
        self.marked: dict[int, HostNs] = {}
        """When each mark was first seen."""

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        now, stamp = self._clock(), read(canvas.pixels, CODE)
        if stamp is None:
            self.unread += 1
            return
        self.seen.append((stamp, now))
        self.marked.setdefault(stamp.mark, now)
        lit = bool(canvas.pixels[FLASH.y + FLASH.height // 2, FLASH.x + FLASH.width // 2, 1] > 128)
        if lit and not self._lit:
            self.flashes.append(now)
        self._lit = lit

    @property
    def latencies(self) -> list[HostNs]:
        """From painting to first drawing, on this machine's clock: meaningful on the machine that paints.

        What is drawn again, sharper, is not another picture.
        """
        first: dict[int, HostNs] = {}
        for stamp, when in self.seen:
            first.setdefault(stamp.time_ns, when)
        return [when - painted for painted, when in first.items()]


def skews(flashes: Sequence[HostNs], clicks: Sequence[HostNs]) -> list[HostNs]:
    """For each flash that has its click: how much later it was seen than that was heard."""
    out = []
    for flash in flashes:
        nearest = min(clicks, key=lambda click: abs(flash - click), default=None)
        if nearest is not None and abs(flash - nearest) < APART_MAX_NS:
            out.append(flash - nearest)
    return out
