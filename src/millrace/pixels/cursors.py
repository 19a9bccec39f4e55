"""The pixels of cursors."""

from __future__ import annotations

import numpy as np

from millrace.pixels.rects import Size


# X, and RFB's cursors with alpha, multiply colours by their alpha; a canvas in a browser and SDL do not.
def straight(pixels: bytes, size: Size) -> bytes:
    """Pixels of three colours and alpha, by which the colours are multiplied, as those of colours that are not."""
    told = np.frombuffer(pixels, np.uint8).reshape(size.height, size.width, 4).astype(np.uint16)
    alpha = told[:, :, 3:]
    colours = np.minimum(255, (told[:, :, :3] * 255 + alpha // 2) // np.maximum(alpha, 1))
    return np.concatenate((colours, alpha), axis=2).astype(np.uint8).tobytes()
