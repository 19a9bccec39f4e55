"""The pixels of cursors."""

from __future__ import annotations

import numpy as np

from millrace.pixels.rects import Size

_ARROW = (
    "#...........", "##..........", "#o#.........", "#oo#........", "#ooo#.......",
    "#oooo#......", "#ooooo#.....", "#oooooo#....", "#ooooooo#...", "#oooooooo#..",
    "#ooooooooo#.", "#oooooo#####", "#ooo#oo#....", "#oo##oo#....", "#o#..#oo#...",
    "##...#oo#...", "......#oo#..", "......#oo#..", ".......##...",
)  # fmt: skip
_COLOURS = {".": bytes(4), "#": bytes((0, 0, 0, 255)), "o": bytes((255, 255, 255, 255))}
ARROW_SIZE = Size(len(_ARROW[0]), len(_ARROW))
ARROW = b"".join(_COLOURS[pixel] for row in _ARROW for pixel in row)
"""A pointer in place of one that can't be had or is too large: B, G, R and alpha. It points with its top left pixel."""


# X, and RFB's cursors with alpha, multiply colours by their alpha; a canvas in a browser and SDL do not.
def straight(pixels: bytes, size: Size) -> bytes:
    """Pixels of three colours and alpha, by which the colours are multiplied, as those of colours that are not."""
    told = np.frombuffer(pixels, np.uint8).reshape(size.height, size.width, 4).astype(np.uint16)
    alpha = told[:, :, 3:]
    colours = np.minimum(255, (told[:, :, :3] * 255 + alpha // 2) // np.maximum(alpha, 1))
    return np.concatenate((colours, alpha), axis=2).astype(np.uint8).tobytes()
