"""What is known of each cell of a picture, 16 × 16 pixels: when it changed, and how well viewers see it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.difference import CELL, Cells, cells_of, in_cells
from millrace.pixels.rects import Move, Rect, Size
from millrace.units import NS_PER_MS, HostNs

EXACT, FAIR, LOSSY, STALE = 0, 1, 2, 3
"""How viewers see a cell: as it is; as a good JPEG; as video or a rough JPEG; as it was some time before."""
STILL_NS: HostNs = 100 * NS_PER_MS
"""What has not changed for this long is sharpened: two to three pictures."""
IDLE_NS: HostNs = 500 * NS_PER_MS
"""When nothing at all has changed for this long, photos are sent exactly too."""
TICK_NS: HostNs = 100 * NS_PER_MS
HISTORY, OFTEN = 12, 4
"""A cell changes often if it did in so many of the last twelve pictures; each 100 ms without one count as one."""
PHOTO = 1.0
"""More than this many bytes a pixel by zstd are a photo; text has 0.1 to 0.5."""
PALETTE = 0.4
"""More than this many bytes a pixel by palette may be a photo or a film in grey; text has 0.02 to 0.2."""
UNKNOWN = 0.4

Levels: TypeAlias = NDArray[np.uint8]
_COUNT = np.array([bin(bits).count("1") for bits in range(1 << HISTORY)], np.uint8)
NEVER_NS: HostNs = -(1 << 62)


def inner_cells(rect: Rect, whole: Rect) -> tuple[slice, slice]:
    """The cells that lie within a rectangle wholly; those at the edges of the picture end there."""
    bottom = -(-rect.bottom // CELL) if rect.bottom == whole.bottom else rect.bottom // CELL
    right = -(-rect.right // CELL) if rect.right == whole.right else rect.right // CELL
    return slice(-(-rect.y // CELL), bottom), slice(-(-rect.x // CELL), right)


class CellMap:
    """The cells of one picture."""

    def __init__(self, size: Size) -> None:
        shape = cells_of(size)
        self.whole = Rect(0, 0, size.width, size.height)
        self.levels: Levels = np.zeros(shape, np.uint8)
        self.changed_ns: NDArray[np.int64] = np.full(shape, NEVER_NS, np.int64)
        self.density: NDArray[np.float32] = np.full(shape, np.nan, np.float32)
        """Bytes a pixel by zstd, where that was measured."""
        self.last_ns: HostNs = NEVER_NS
        """When anything changed last."""
        self._history: NDArray[np.uint16] = np.zeros(shape, np.uint16)

    def changed(self, cells: Cells, now_ns: HostNs) -> None:
        """These cells changed now."""
        if not cells.any():
            return
        ticks = min(HISTORY, max(1, round((now_ns - self.last_ns) / TICK_NS)))
        np.left_shift(self._history, ticks, out=self._history)
        self._history &= (1 << HISTORY) - 1
        self._history[cells] |= 1
        self.changed_ns[cells] = now_ns
        self.last_ns = now_ns

    def often(self, rect: Rect) -> bool:
        """Whether most of a rectangle changes all the time."""
        return bool((_COUNT[self._history[in_cells(rect)]] >= OFTEN).mean() >= 0.5)

    def known_density(self, rect: Rect) -> float | None:
        """Bytes a pixel, if that was measured for most of it."""
        values = self.density[in_cells(rect)]
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) * 2 >= values.size else None

    def measured(self, rect: Rect, size: int) -> None:
        """A rectangle took so many bytes by zstd."""
        self.density[in_cells(rect)] = size / rect.area

    def sent(self, rect: Rect, level: int) -> None:
        """A rectangle was sent with this quality. Cells that it covers in part are no better than before."""
        if level == EXACT:
            self.levels[inner_cells(rect, self.whole)] = EXACT
            return
        inner, outer = self.levels[inner_cells(rect, self.whole)], self.levels[in_cells(rect)]
        inner[:] = level
        np.maximum(outer, level, out=outer)

    # What was moved is seen as well as where it came from. A cell has pixels of up to four others then.
    def moved(self, move: Move) -> None:
        """The content of a rectangle was moved at the viewers."""
        if not self.levels.any():
            return
        rows, columns = in_cells(move.to)
        before = self.levels.copy()
        high, wide = before.shape
        new = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        for down in (0, CELL - 1):
            for right in (0, CELL - 1):
                y = np.clip((np.arange(rows.start, rows.stop) * CELL + down - move.dy) // CELL, 0, high - 1)
                x = np.clip((np.arange(columns.start, columns.stop) * CELL + right - move.dx) // CELL, 0, wide - 1)
                np.maximum(new, before[np.ix_(y, x)], out=new)
        self.levels[rows, columns] = np.maximum(new, before[rows, columns])
        inner = inner_cells(move.to, self.whole)
        part = new[
            inner[0].start - rows.start : inner[0].stop - rows.start,
            inner[1].start - columns.start : inner[1].stop - columns.start,
        ]
        if part.size:
            self.levels[inner] = part

    def hot(self, now_ns: HostNs) -> Cells:
        """Cells that are shown as video just now."""
        cells: Cells = (self.levels == LOSSY) & (self.changed_ns > now_ns - 3 * STILL_NS)
        return cells

    def unsharp(self, now_ns: HostNs) -> Cells:
        """Cells to be sent again, better."""
        still: Cells = (self.levels > EXACT) & (self.changed_ns <= now_ns - STILL_NS)
        if now_ns - self.last_ns < IDLE_NS:
            still &= self.levels != FAIR
        still |= self.levels == STALE
        return still

    def due_ns(self) -> HostNs | None:
        """When there will be something to send again, if nothing changes until then; None for never."""
        worst = self.levels.max()
        if worst == EXACT:
            return None
        if worst == STALE:
            return 0
        if worst == FAIR:
            return self.last_ns + IDLE_NS
        return int(self.changed_ns[self.levels == LOSSY].min()) + STILL_NS
