"""Decodes JPEG stills from machines, by Pillow's libjpeg-turbo."""

from __future__ import annotations

import io

from PIL import Image

from millrace.codec.scans import check_scans
from millrace.errors import CodecError


# Pillow reads only the header in `open`: a picture of another size than expected is refused before it is decoded, and
# no format but JPEG is tried.
def decode_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A picture of exactly this size, as rows of B, G, R and an unused byte; CodecError for anything else."""
    check_scans(data)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (width, height):
                raise CodecError(f"a JPEG of {image.width} × {image.height} instead of {width} × {height}")
            return image.convert("RGB").tobytes("raw", "BGRX")
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(f"a broken JPEG ({type(error).__name__})") from None
