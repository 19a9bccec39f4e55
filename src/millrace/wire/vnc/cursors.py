"""The pointer's shape in RFB's three encodings, as B, G, R and straight alpha.

rfbproto, "Cursor", "X Cursor" and "Cursor With Alpha Pseudo-encoding".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from millrace.pixels.cursors import straight
from millrace.pixels.rects import Size


def mask_bytes(size: Size) -> int:
    """Bytes of one bit a pixel, each row padded."""
    return (size.width + 7) // 8 * size.height


def _bits(mask: bytes, size: Size, rows: range) -> NDArray[np.bool_]:
    packed = np.frombuffer(mask, np.uint8).reshape(size.height, -1)[rows.start : rows.stop]
    return np.unpackbits(packed, axis=1)[:, : size.width].astype(bool)


def _shown(pixels: NDArray[np.uint8], shown: NDArray[np.bool_]) -> bytes:
    """The pixels where the mask is set, and nothing elsewhere."""
    pixels[:, :, 3] = 255
    pixels[~shown] = 0
    return pixels.tobytes()


def masked(data: bytes, size: Size, rows: range) -> bytes:
    """These rows of a cursor that was sent as pixels, then a mask."""
    row, count = size.width * 4, size.width * size.height * 4
    pixels = np.frombuffer(data[rows.start * row : rows.stop * row], np.uint8).reshape(len(rows), size.width, 4)
    return _shown(pixels.copy(), _bits(data[count:], size, rows))


def two_coloured(data: bytes, size: Size, rows: range) -> bytes:
    """These rows of a foreground and a background of R, G, B; then which pixels are the foreground, and a mask."""
    colours = np.zeros((2, 4), np.uint8)
    colours[1, :3], colours[0, :3] = list(data[2::-1]), list(data[5:2:-1])
    middle = 6 + mask_bytes(size)
    return _shown(colours[_bits(data[6:middle], size, rows).astype(np.uint8)], _bits(data[middle:], size, rows))


def with_alpha(data: bytes, size: Size, rows: range) -> bytes:
    """These rows of R, G, B and alpha, by which the colours were multiplied."""
    row = size.width * 4
    rgba = np.frombuffer(data[rows.start * row : rows.stop * row], np.uint8).reshape(-1, 4)
    return straight(rgba[:, (2, 1, 0, 3)].tobytes(), Size(size.width, len(rows)))
