"""A few words drawn into a picture: why it is out of date, where no title bar can say so."""

from __future__ import annotations

import textwrap
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from millrace.pixels.convert import Plane

LETTER_PX, MARGIN_PX = 18, 10
LINES_MAX = 4
BELOW = 3
"""The words end at this part of the picture's height, a third, from its bottom."""


@lru_cache(1)
def lettered(text: str, width: int) -> Plane:
    """White words on black, BGRX: (rows, columns, 4), at most `width` columns wide; empty where nothing fits."""
    font = ImageFont.load_default(LETTER_PX)
    letters = max(1, (width - 2 * MARGIN_PX) // (LETTER_PX * 2 // 3))
    lines = textwrap.wrap(text, letters, max_lines=LINES_MAX, placeholder=" …")
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), "\n".join(lines), font)
    size = (min(width, round(right - left) + 2 * MARGIN_PX), round(bottom - top) + 2 * MARGIN_PX)
    image = Image.new("L", (max(1, size[0]), max(1, size[1])))
    ImageDraw.Draw(image).multiline_text((MARGIN_PX - left, MARGIN_PX - top), "\n".join(lines), 255, font)
    grey = np.asarray(image)
    return np.repeat(grey[:, :, None], 4, axis=2)


def letter(picture: Plane, text: str) -> None:
    """Draw words into the lower part of a picture (rows, columns, 4), BGRX; what has no room is cut off."""
    words = lettered(text, picture.shape[1])
    y = max(0, picture.shape[0] - picture.shape[0] // BELOW - words.shape[0])
    x = (picture.shape[1] - words.shape[1]) // 2
    part = picture[y : y + words.shape[0], x : x + words.shape[1]]
    part[:] = words[: part.shape[0], : part.shape[1]]
