"""Rectangles of a picture by themselves: lossless as zstd (RFC 8878), photos as JPEG 4:4:4 (ITU-T T.81).

`backports.zstd` has the interface of Python 3.14's `compression.zstd`. Both libraries release the GIL while they work.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.errors import CodecError
from millrace.pixels.convert import Plane

# Pillow and zstd are imported where they are used: a daemon without viewers starts without them.
if TYPE_CHECKING:
    from backports.zstd import ZstdCompressor

ZSTD_LEVEL = 1
GOOD, ROUGH = 90, 50
"""JPEG qualities: 43 dB in luma for what stays, and a first impression."""
JPEG_SIDE_MAX = 65_500


# One compressor for all calls: making one takes longer than a small rectangle.
class ZstdStills:
    """Compresses rectangles, each as one frame that states the size of its content. It belongs to one thread."""

    def __init__(self) -> None:
        zstd = _zstd()
        options = {zstd.CompressionParameter.compression_level: ZSTD_LEVEL}
        self._by: ZstdCompressor = zstd.ZstdCompressor(options=options)
        self._flush = zstd.ZstdCompressor.FLUSH_FRAME

    def encode(self, part: Plane) -> bytes:
        """BGRX rows, as part type ZSTD of the picture protocol."""
        return self.compress(np.ascontiguousarray(part).data)

    def compress(self, data: bytes | memoryview) -> bytes:
        """Any bytes as one frame that states their number."""
        out: bytes = self._by.compress(data, self._flush)
        return out


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def encode_jpeg(part: Plane, quality: int, half_colours: bool = False) -> bytes:
    """A BGRX rectangle as JPEG, with full chroma or half of it each way; CodecError for one that is too large."""
    from PIL import Image

    height, width = part.shape[:2]
    if max(height, width) > JPEG_SIDE_MAX:
        raise CodecError(f"JPEG can't hold {width} × {height} pixels")
    image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(part), "raw", "BGRX", 0, 1)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=2 if half_colours else 0)
    return out.getvalue()
