"""A desktop that paints itself: a running clock, a code that says when each picture was painted, and what moves below.

At each whole second of host time a square flashes for `FLASH_NS`; `sim/painted.py` plays a click with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from millrace.errors import ConfigError
from millrace.graph.pictures import Mode
from millrace.pixels import blockcode, digits
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect, Size
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
_INK = (255, 224, 160)


def _glyphs(random: np.random.Generator, count: int = 64) -> Plane:
    """(count, GLYPH_HIGH, GLYPH_WIDE, 3): dark shapes on white, with the coloured edges of sub-pixel text."""
    shapes = random.random((count, GLYPH_HIGH // 2, GLYPH_WIDE // 2)) < 0.45
    ink = shapes.repeat(2, 1).repeat(2, 2)
    shades = np.stack([np.roll(ink, shift, 2) for shift in (0, 0, 1)], axis=-1)
    return np.where(shades, np.uint8(32), np.uint8(248)).astype(np.uint8)


def _lines(random: np.random.Generator, width: int) -> Plane:
    """(LINES, LINE, width, 3): lines of words of any length."""
    out = np.full((LINES, LINE, width, 3), 248, np.uint8)
    glyphs, places = _glyphs(random), width // GLYPH_WIDE
    for line in out:
        used = int(places * random.uniform(0.3, 1.0))
        for place in np.flatnonzero(random.random(used) > 0.17):
            left = int(place) * GLYPH_WIDE
            line[3 : 3 + GLYPH_HIGH, left : left + GLYPH_WIDE] = glyphs[random.integers(len(glyphs))]
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
        self.picture[top : top + LINE, left : left + GLYPH_WIDE, :3] = source
        return [Rect(left, top, GLYPH_WIDE, LINE)]

    def scroll(self, lines: int) -> list[Rect]:
        """Move the text up, with new lines below."""
        window = self.window
        part = self.picture[window.y : window.bottom, window.x : window.right, :3]
        rows = min(lines * LINE, window.height)
        part[: window.height - rows] = part[rows:].copy()
        self._first += lines
        below = self._text[np.arange(self._first, self._first + rows // LINE + 1) % LINES].reshape(-1, window.width, 3)
        part[window.height - rows :] = below[:rows]
        return [window]

    def flood(self) -> list[Rect]:
        """New text everywhere."""
        count = self.window.height // LINE
        text = self._text[self._random.integers(0, LINES, count)].reshape(-1, self.window.width, 3)
        rect = Rect(self.window.x, self.window.y, self.window.width, count * LINE)
        self.picture[rect.y : rect.bottom, rect.x : rect.right, :3] = text
        return [rect]

    def film(self) -> list[Rect]:
        """A picture of `FILM` that pans, with grain."""
        rect = Rect(self.window.x, self.window.y, FILM.width, FILM.height).common(self.window)
        rows, columns = np.arange(rect.height)[:, None], np.arange(rect.width) + 5 * self.number
        base = 128 + 60 * np.sin(columns / 37) * np.cos(rows / 23) + 40 * np.sin((rows + columns) / 11)
        grain = self._random.integers(-6, 7, (rect.height, rect.width))
        part = self.picture[rect.y : rect.bottom, rect.x : rect.right]
        for colour, shift in enumerate((0, 20, -25)):
            part[:, :, colour] = np.clip(base + grain + shift, 0, 255)
        return [rect]


SCENES: dict[str, Callable[[Desktop], list[Rect]]] = {
    "still": lambda desktop: [],
    "typing": lambda desktop: desktop.type() if desktop.number % 3 == 0 else [],
    "scroll": lambda desktop: desktop.scroll(SCROLL_LINES) if desktop.number % 3 == 0 else [],
    "flood": Desktop.flood,
    "film": Desktop.film,
}
"""What moves: at 30 pictures a second, ten characters or ten scrolls a second; all else each picture."""
