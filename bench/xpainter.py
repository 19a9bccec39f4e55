"""Paints a desktop on an X display, thirty pictures a second: python -m bench.xpainter DISPLAY SCENE SIZE [code]

It draws on the root window by Xlib: text that scrolls as terminals do, by XCopyArea, everything else by XPutImage. With
`code`, each picture in which anything changes ends with a block code of when it was painted.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence

from millrace.pixels import blockcode
from millrace.pixels.rects import Point, Rect, Size
from millrace.sim.desktop import LINE, SCENES, SCROLL_LINES, Desktop

FPS = 30
CODE, CELL = Point(24, 24), 4
"""Small, so that it is next to nothing of what is painted."""
_ZPIXMAP, _DEPTH = 2, 24


class Root:
    """The root window of a display, and an image of what is painted there."""

    def __init__(self, display: str, desktop: Desktop) -> None:
        x = self._x = ctypes.CDLL("libX11.so.6")
        for name in ("XOpenDisplay", "XDefaultVisual", "XDefaultGC", "XCreateImage"):
            getattr(x, name).restype = ctypes.c_void_p
        x.XDefaultRootWindow.restype = ctypes.c_ulong
        self._display = ctypes.c_void_p(x.XOpenDisplay(display.encode()))
        assert self._display, f"no display {display}"
        self._window = ctypes.c_ulong(x.XDefaultRootWindow(self._display))
        self._gc = ctypes.c_void_p(x.XDefaultGC(self._display, 0))
        x.XSetGraphicsExposures(self._display, self._gc, 0)
        size, self._pixels = desktop.size, (ctypes.c_char * len(desktop.memory)).from_buffer(desktop.memory)
        visual = ctypes.c_void_p(x.XDefaultVisual(self._display, 0))
        self._image = ctypes.c_void_p(
            x.XCreateImage(
                self._display, visual, _DEPTH, _ZPIXMAP, 0, self._pixels, size.width, size.height, 32, size.width * 4
            )
        )

    def put(self, rects: Sequence[Rect]) -> None:
        """Draw these parts of the image."""
        for rect in rects:
            self._x.XPutImage(
                self._display, self._window, self._gc, self._image, rect.x, rect.y, rect.x, rect.y, rect.width,
                rect.height,
            )  # fmt: skip

    def copy(self, of: Rect, to: Point) -> None:
        """Copy a part of the window."""
        at = (of.x, of.y, of.width, of.height, to.x, to.y)
        self._x.XCopyArea(self._display, self._window, self._window, self._gc, *at)

    def done(self) -> None:
        """Wait until the server has drawn all that."""
        self._x.XSync(self._display, 0)


def scrolled(root: Root, desktop: Desktop) -> list[Rect]:
    """Move the text up on the display; returns what is new below it."""
    window, rows = desktop.window, SCROLL_LINES * LINE
    moved = Rect(window.x, window.y + rows, window.width, window.height - rows)
    root.copy(moved, Point(window.x, window.y))
    return [Rect(window.x, window.bottom - rows, window.width, rows)]


def main(display: str, scene: str, size: Size, coded: bool) -> None:
    """Paint until killed."""
    desktop = Desktop(size, scene)
    root = Root(display, desktop)
    root.put([Rect(0, 0, size.width, size.height)])
    root.done()
    began = time.monotonic()
    while True:
        desktop.number += 1
        time.sleep(max(0.0, began + desktop.number / FPS - time.monotonic()))
        now = time.monotonic_ns()
        changed = SCENES[scene](desktop)
        if not changed:
            continue
        root.put(scrolled(root, desktop) if scene == "scroll" else changed)
        if coded:
            # Last: what has the code has the rest.
            root.put([blockcode.paint(desktop.picture, blockcode.Stamp(desktop.number, now), CODE, CELL)])
        root.done()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Size(*map(int, sys.argv[3].split("x"))), sys.argv[4:] == ["code"])
