"""A desktop that paints itself: a running clock, a code that says when each picture was painted, and what moves below.

At each whole second of host time a square flashes for `FLASH_NS`; `sim/painted.py` plays a click with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError
from millrace.graph.pictures import Mode
from millrace.pixels import blockcode, digits
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Move, Point, Rect, Size
from millrace.pixels.scroll import apply_move
from millrace.text import quoted
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

FLASH_NS: HostNs = 66 * NS_PER_MS
CODE, CLOCK, FLASH = Point(16, 16), Point(176, 16), Rect(480, 16, 64, 64)
SIZE, SIZE_MIN, SIZE_MAX = Size(1280, 720), Size(560, 160), Size(7680, 4320)
LINE, LINES = 18, 64
"""Rows of a line of text, and how many different lines there are."""
GLYPH_WIDE, GLYPH_HIGH = 8, 12
SCROLL_LINES = 3
FILM = Size(640, 360)
PAN, PANORAMA = 5, 2560
"""Columns that the film pans in a picture, and after which it repeats."""
GRAIN, GRAINS = 6, 8
"""How strong the film's grain is, and how many patterns of it there are."""
_INK = (255, 224, 160)


def _glyphs(random: np.random.Generator, count: int = 64) -> Plane:
    """(count, GLYPH_HIGH, GLYPH_WIDE, 3): dark shapes on white, with the coloured edges of sub-pixel text."""
    shapes = random.random((count, GLYPH_HIGH // 2, GLYPH_WIDE // 2)) < 0.45
    ink = shapes.repeat(2, 1).repeat(2, 2)
    shades = np.stack([np.roll(ink, shift, 2) for shift in (0, 0, 1)], axis=-1)
    return np.where(shades, np.uint8(32), np.uint8(248)).astype(np.uint8)


def _lines(random: np.random.Generator, width: int) -> Plane:
    """(LINES, LINE, width, 4): lines of words of any length, as BGRX."""
    out = np.zeros((LINES, LINE, width, 4), np.uint8)
    out[..., :3] = 248
    glyphs, places = _glyphs(random), width // GLYPH_WIDE
    for line in out:
        used = int(places * random.uniform(0.3, 1.0))
        for place in np.flatnonzero(random.random(used) > 0.17):
            left = int(place) * GLYPH_WIDE
            line[3 : 3 + GLYPH_HIGH, left : left + GLYPH_WIDE, :3] = glyphs[random.integers(len(glyphs))]
    return out


def _panorama() -> Plane:
    """(FILM.height, PANORAMA + FILM.width, 4): what the film pans over, as BGRX; after PANORAMA columns it repeats."""
    rows, columns = np.arange(FILM.height)[:, None], np.arange(PANORAMA + FILM.width) * (2 * np.pi / PANORAMA)
    base = 128 + 60 * np.sin(11 * columns) * np.cos(rows / 23) + 40 * np.sin(rows / 11 + 37 * columns)
    out = np.zeros((*base.shape, 4), np.uint8)
    for colour, shift in enumerate((0, 20, -25)):
        # Less half the grain, which is added to it.
        out[:, :, colour] = np.clip(base + shift - GRAIN, 0, 255 - 2 * GRAIN)
    return out


def _grain(random: np.random.Generator) -> Plane:
    """(GRAINS, FILM.height, FILM.width, 4): noise from 0 to 2 × GRAIN, the same in all colours."""
    out = np.zeros((GRAINS, FILM.height, FILM.width, 4), np.uint8)
    out[..., :3] = random.integers(0, 2 * GRAIN + 1, out.shape[:3], np.uint8)[..., None]
    return out


class Desktop:
    """Pixels, and what paints them. `scene` is what the window below the clock does: one of `SCENES`."""

    def __init__(self, size: Size = SIZE, scene: str = "still", seed: int = 1) -> None:
        if scene not in SCENES:
            raise ConfigError(f"scene {quoted(scene)}: use one of {', '.join(SCENES)}")
        if not (SIZE_MIN.width <= size.width <= SIZE_MAX.width and SIZE_MIN.height <= size.height <= SIZE_MAX.height):
            raise ConfigError(f"a desktop of {size.width} × {size.height}: from 560 × 160 to 7680 × 4320 is possible")
        self.size, self.number, self.mark = size, 0, 0
        self.mode = Mode(size.width, size.height, size.width * 4)
        self.memory = bytearray(self.mode.bytes)
        self.picture: Plane = np.frombuffer(self.memory, np.uint8).reshape(size.height, size.width, 4)
        self.window = Rect(16, 112, size.width - 32, size.height - 128)
        self._random = np.random.default_rng(seed)
        self._text = _lines(self._random, self.window.width)
        self._scene, self._first = SCENES[scene], 0
        self._flash = False
        self._film: tuple[Plane, Plane] | None = None
        """Made when it is first shown: what it pans over, and its grain."""
        self._wallpaper()

    def _wallpaper(self) -> None:
        rows = np.linspace(40, 150, self.size.height)[:, None]
        columns = np.linspace(0, 60, self.size.width)
        for colour, part in enumerate((1.0, 0.7, 0.4)):
            self.picture[:, :, colour] = (rows + columns) * part
        self.scroll(self.window.height // LINE + 1)

    def paint(self, now_ns: HostNs) -> list[Rect]:
        """Paint the next picture; returns what changed."""
        self.number = self.number + 1 & 0xFFFFFFFF
        stamp = blockcode.Stamp(self.number, now_ns, self.mark)
        changed = [blockcode.paint(self.picture, stamp, CODE), self._clock(now_ns)]
        flash = now_ns % NS_PER_S < FLASH_NS
        if flash != self._flash:
            self._flash = flash
            self.picture[FLASH.y : FLASH.bottom, FLASH.x : FLASH.right, :3] = 255 if flash else 0
            changed.append(FLASH)
        return changed + self._scene(self)

    def _clock(self, now_ns: HostNs) -> Rect:
        seconds, rest = divmod(now_ns, NS_PER_S)
        text = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest // NS_PER_MS:03}"
        return digits.write(self.picture, CLOCK, text, 4, _INK)

    def flashed(self) -> bool:
        """Whether the square is lit now."""
        return self._flash

    # -- scenes ----------------------------------------------------------------------------------

    def type(self) -> list[Rect]:
        """Write one more character."""
        line, column = divmod(self.number, self.window.width // GLYPH_WIDE)
        top = self.window.y + line % (self.window.height // LINE) * LINE
        left = self.window.x + column * GLYPH_WIDE
        source = self._text[self.number % LINES, :, column * GLYPH_WIDE : (column + 1) * GLYPH_WIDE]
        self.picture[top : top + LINE, left : left + GLYPH_WIDE] = source
        return [Rect(left, top, GLYPH_WIDE, LINE)]

    def scroll(self, lines: int) -> list[Rect]:
        """Move the text up, with new lines below."""
        window = self.window
        rows = min(lines * LINE, window.height)
        if rows < window.height:
            apply_move(self.picture, Move(Rect(window.x, window.y, window.width, window.height - rows), 0, -rows))
        self._first += lines
        self._write(Rect(window.x, window.bottom - rows, window.width, rows), range(self._first, self._first + rows))
        return [window]

    def flood(self) -> list[Rect]:
        """New text everywhere."""
        count = self.window.height // LINE
        rect = Rect(self.window.x, self.window.y, self.window.width, count * LINE)
        self._write(rect, self._random.integers(0, LINES, count))
        return [rect]

    def _write(self, at: Rect, lines: Sequence[int] | NDArray[np.int64]) -> None:
        """Write lines of text into a rectangle, from its top as far as there is room."""
        part = part_of(self.picture, at)
        for number, top in zip(lines, range(0, at.height, LINE), strict=False):
            part[top : top + LINE] = self._text[number % LINES, : at.height - top]

    def film(self) -> list[Rect]:
        """A picture of `FILM` that pans, with grain."""
        rect = Rect(self.window.x, self.window.y, FILM.width, FILM.height).common(self.window)
        if self._film is None:
            self._film = _panorama(), _grain(self._random)
        panorama, grain = self._film
        left = PAN * self.number % PANORAMA
        base = panorama[: rect.height, left : left + rect.width]
        np.add(base, grain[self.number % GRAINS, : rect.height, : rect.width], out=part_of(self.picture, rect))
        return [rect]


SCENES: dict[str, Callable[[Desktop], list[Rect]]] = {
    "still": lambda desktop: [],
    "typing": lambda desktop: desktop.type() if desktop.number % 3 == 0 else [],
    "scroll": lambda desktop: desktop.scroll(SCROLL_LINES) if desktop.number % 3 == 0 else [],
    "flood": Desktop.flood,
    "film": Desktop.film,
}
"""What moves: at 30 pictures a second, ten characters or ten scrolls a second; all else each picture."""
