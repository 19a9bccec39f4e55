"""A screen whose source paints numbers, and a viewer that applies the updates that its reader gets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.graph.pictures import KeyPress, Mode, Move
from millrace.graph.screen import Picture, Reader, Screen
from millrace.graph.seat import Seat
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect, Size

WIDTH, HEIGHT = 24, 16
MODE = Mode(WIDTH, HEIGHT, WIDTH * 4)
RECTS = st.builds(
    lambda x, y, w, h: Rect(x, y, min(w, WIDTH - x), min(h, HEIGHT - y)),
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(0, WIDTH), st.integers(0, HEIGHT),
)  # fmt: skip


def moved(pixels: Plane, move: Move) -> None:
    """Do a move in these pixels."""
    origin = move.to.moved(-move.dx, -move.dy)
    pixels[move.to.y : move.to.bottom, move.to.x : move.to.right] = pixels[
        origin.y : origin.bottom, origin.x : origin.right
    ].copy()


def update(canvas: Plane, picture: Picture, pixels: Plane) -> None:
    """Do to a viewer's canvas what has changed in `picture`, whose pixels these are."""
    for move in picture.moves:
        moved(canvas, move)
    for rect in picture.damage:
        part = slice(rect.y, rect.bottom), slice(rect.x, rect.right)
        canvas[part] = pixels[part]


class Painter:
    """A source that paints numbers: each pixel says when it was painted."""

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self.budget, self.seat = Budget(limit=limit), Seat("default")
        self.screen = Screen("screen/0", self, self.seat, self.budget)
        self.memory = bytearray(MODE.bytes)
        self.picture: Plane = np.frombuffer(self.memory, np.uint8).reshape(HEIGHT, WIDTH, 4)
        self.freed: list[int] = []
        self.told: list[object] = []
        self.step = 0

    def key(self, press: KeyPress) -> None:
        self.told.append((press.code, press.down))

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        self.told.append((at, buttons, relative))

    def size_wish(self, size: Size) -> None:
        self.told.append(size)

    def paint(self, tracks: frozenset[str]) -> None:
        self.told.append(tracks)

    def watched(self, interval_ns: int | None) -> None:
        self.told.append(interval_ns)

    def mode(self, now_ns: int = 0) -> None:
        memory, number = bytearray(MODE.bytes), self.step
        self.memory = memory
        self.picture = np.frombuffer(memory, np.uint8).reshape(HEIGHT, WIDTH, 4)
        self.screen.set_mode(MODE, memoryview(memory), now_ns, lambda: self.freed.append(number))

    def fill(self, rect: Rect) -> Rect:
        self.step += 1
        noise = np.random.default_rng(self.step).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
        part = slice(rect.y, rect.bottom), slice(rect.x, rect.right)
        self.picture[part] = noise[part]
        return rect

    def move(self, move: Move) -> Move:
        moved(self.picture, move)
        return move


class Viewer:
    """Applies the updates that a reader gets."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.canvas: Plane = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self.taken: list[Picture] = []
        self.holding: Picture | None = None

    def take(self, now_ns: int = 0) -> Picture | None:
        picture = self.reader.take(now_ns)
        if picture is not None:
            self.taken.append(picture)
            self.show(picture)
            picture.release()
        return picture

    def hold(self) -> None:
        self.holding = self.reader.take(0) or self.holding

    def done(self) -> None:
        """What it held is read only now: it may show what was painted meanwhile."""
        if self.holding is not None:
            self.show(self.holding)
            self.holding.release()
            self.holding = None

    def show(self, picture: Picture) -> None:
        pixels = np.frombuffer(picture.pixels, np.uint8).reshape(HEIGHT, WIDTH, 4)
        update(self.canvas, picture, pixels)


def painter() -> Painter:
    painter = Painter()
    painter.mode()
    return painter
