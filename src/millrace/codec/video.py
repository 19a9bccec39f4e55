"""Decodes a stranger's pictures and video: JPEG, and VP8, with PyAV in one thread.

The size in the data is checked before a decoder sees it: the memory and the time that decoding takes depend on it.
"""

from __future__ import annotations

import struct
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from millrace.codec.scans import check_scans
from millrace.errors import CodecError

Pixels = NDArray[np.uint8]
"""(height, width, 4): B, G, R, and one unused."""
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NAMES = {"jpeg": "mjpeg", "vp8": "vp8"}


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG picture (ITU-T T.81, B.2.2); CodecError if there is none in it."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind in _NO_LENGTH:
            at += 2
        elif kind in _FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])
    raise CodecError("this is not a JPEG picture")


def vp8_key(data: bytes) -> bool:
    """Whether a VP8 frame is a key frame (RFC 6386, 9.1)."""
    return bool(data) and not data[0] & 1


def vp8_size(data: bytes) -> tuple[int, int]:
    """Width and height of a VP8 key frame (RFC 6386, 9.1); CodecError if it is none."""
    if not vp8_key(data) or len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
        raise CodecError("this is not a key frame of VP8")
    width, height = struct.unpack_from("<HH", data, 6)
    return width & 0x3FFF, height & 0x3FFF


class PictureDecoder:
    """Decodes the pictures of one stream, none of them with more pixels than `pixels_max`."""

    def __init__(self, codec: str, pixels_max: int) -> None:
        """`codec` is jpeg or vp8."""
        self.codec, self.pixels_max = codec, pixels_max
        self._decoder = cast(VideoCodecContext, av.CodecContext.create(_NAMES[codec], "r"))
        self._decoder.thread_count = 1

    def decode(self, data: bytes) -> Pixels | None:
        """Decode one picture; None if the data contains none; CodecError if it is damaged or too large."""
        self._check(data)
        try:
            frames = self._decoder.decode(av.Packet(data))
            pixels = cast(Pixels, frames[-1].to_ndarray(format="bgra")) if frames else None
        except (av.error.FFmpegError, ValueError) as error:
            raise CodecError(f"{self.codec}: {error}") from None
        if pixels is not None and pixels.shape[0] * pixels.shape[1] > self.pixels_max:
            raise CodecError(f"a {self.codec} picture of more than {self.pixels_max} pixels")
        return pixels

    def _check(self, data: bytes) -> None:
        if not data:
            raise CodecError(f"an empty {self.codec} picture")
        if self.codec == "vp8" and not vp8_key(data):
            return
        if self.codec == "jpeg":
            check_scans(data)
        width, height = vp8_size(data) if self.codec == "vp8" else jpeg_size(data)
        if not 0 < width * height <= self.pixels_max:
            raise CodecError(f"a {self.codec} picture of {width} × {height}; {self.pixels_max} pixels at most")
