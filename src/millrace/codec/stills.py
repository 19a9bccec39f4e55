"""Rectangles of a picture by themselves: lossless as zstd (RFC 8878), photos as JPEG 4:4:4 (ITU-T T.81).

`backports.zstd` has the interface of Python 3.14's `compression.zstd`. Both libraries release the GIL while they work.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from millrace.errors import CodecError
from millrace.pixels.convert import Plane

if sys.version_info >= (3, 14) and not TYPE_CHECKING:
    from compression.zstd import CompressionParameter, ZstdCompressor
else:
    from backports.zstd import CompressionParameter, ZstdCompressor

ZSTD_LEVEL = 1
GOOD, ROUGH = 90, 50
"""JPEG qualities: 43 dB in luma for what stays, and a first impression."""
JPEG_SIDE_MAX = 65_500


# One compressor for all calls: making one takes longer than a small rectangle.
class ZstdStills:
    """Compresses rectangles, each as one frame that states the size of its content. It belongs to one thread."""

    def __init__(self) -> None:
        options: dict[int, int] = {CompressionParameter.compression_level: ZSTD_LEVEL}
        self._by = ZstdCompressor(options=options)

    def encode(self, part: Plane) -> bytes:
        """BGRX rows, as part type ZSTD of the picture protocol."""
        out: bytes = self._by.compress(np.ascontiguousarray(part).data, ZstdCompressor.FLUSH_FRAME)
        return out


def encode_jpeg(part: Plane, quality: int) -> bytes:
    """A BGRX rectangle as JPEG with full chroma; CodecError for one that is too large."""
    height, width = part.shape[:2]
    if max(height, width) > JPEG_SIDE_MAX:
        raise CodecError(f"JPEG can't hold {width} × {height} pixels")
    image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(part), "raw", "BGRX", 0, 1)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()
