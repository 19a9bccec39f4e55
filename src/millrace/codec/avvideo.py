"""VP8 for viewers without H.264, and H.264 where libx264 can't be called directly: both by PyAV.

Both code the whole picture each time, where `millrace.codec.x264` is told what has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from millrace.budget import MIB
from millrace.codec.videoencoder import GREY, Encoded, VideoEncoder
from millrace.codec.x264 import QP, RATE_BUFFER_MS, X264Encoder, libx264
from millrace.errors import CodecError
from millrace.pixels.convert import Convert, PixelFormat, Plane, blank
from millrace.pixels.rects import Rect, Size

# Imported where it is used: a daemon without viewers starts without it.
if TYPE_CHECKING:
    import av

VIDEO_CODECS = ("avc1", "vp8")
VP8_RATE = 8_000_000
"""Without a rate: VP8 has no constant quality in real time."""
_MEMORY = {"avc1": (13, 128, 3 * MIB), "vp8": (40, 64, 0)}
"""Bytes a pixel, how much wider and higher the pictures are in the encoder's memory, and bytes besides: the most that
`python -m bench encoder_memory` finds resident, of noise from 64 × 64 to 3840 × 2160, and a little more."""
_LIBRARY = {"avc1": "libx264", "vp8": "libvpx"}
_WORDS = {"avc1": "H.264", "vp8": "VP8"}
_FPS = 30


def _options(codec: str, rate: int | None) -> dict[str, str]:
    if codec == "vp8":
        return {
            "deadline": "realtime", "cpu-used": "-12", "lag-in-frames": "0", "g": "999999", "error-resilient": "0",
            "b": str(rate or VP8_RATE), "maxrate": str(rate or VP8_RATE), "static-thresh": "100",
            "bufsize": str((rate or VP8_RATE) * RATE_BUFFER_MS // 1000), "qmin": "4", "qmax": "56",
        }  # fmt: skip
    line = {} if rate is None else {"maxrate": str(rate), "bufsize": str(rate * RATE_BUFFER_MS // 1000)}
    params = "keyint=infinite:scenecut=0:weightp=0:repeat-headers=1:annexb=1"
    return {"preset": "ultrafast", "tune": "zerolatency", "crf": str(QP), "x264-params": params, **line}


class AvEncoder(VideoEncoder):
    """One stream by PyAV, of one rate."""

    def __init__(self, codec: str, size: Size, rate: int | None, convert: Convert) -> None:
        self.codec, self.rate, self._convert = codec, rate, convert
        self._planes = blank(PixelFormat.NV12, size)
        self._number = 0
        self._open: av.VideoCodecContext | None = None

    @property
    def name(self) -> str:
        """See `VideoEncoder`."""
        return f"{_WORDS[self.codec]} by {_LIBRARY[self.codec]}, in software"

    def _opened(self) -> av.VideoCodecContext:
        import av

        high, wide = self._planes.planes[0].shape
        made = av.VideoCodecContext.create(_LIBRARY[self.codec], "w")
        assert isinstance(made, av.VideoCodecContext)
        made.width, made.height, made.pix_fmt = wide, high, "yuv420p"
        made.time_base, made.framerate, made.thread_count = Fraction(1, _FPS), Fraction(_FPS), 1
        # BT.601, limited range, as converted.
        made.colorspace, made.color_range = 6, 1
        made.options = _options(self.codec, self.rate)
        return made

    def encode(self, picture: Plane, changed: Iterable[Rect], key: bool = False, qp: int | None = None) -> Encoded:
        """See `VideoEncoder`; `qp` is ignored."""
        import av

        key = key or self._open is None
        if key:
            for plane in self._planes.planes:
                plane[:] = GREY
        self._convert(picture, self._planes, changed)
        try:
            self._open = self._open or self._opened()
            packets = self._open.encode(self._frame(key))
        except (av.FFmpegError, ValueError) as error:
            raise CodecError(f"{_LIBRARY[self.codec]}: {error}") from None
        if not packets:
            raise CodecError(f"{_LIBRARY[self.codec]} made no picture")
        return Encoded(b"".join(bytes(packet) for packet in packets), any(packet.is_keyframe for packet in packets))

    def _frame(self, key: bool) -> av.VideoFrame:
        import av

        luma, chroma = self._planes.planes
        frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
        for plane, pixels in zip(frame.planes, (luma, chroma[:, :, 0], chroma[:, :, 1]), strict=True):
            rows = memoryview(plane).cast("B")
            target = _rows(rows, plane.line_size, pixels.shape[0])
            target[:, : pixels.shape[1]] = pixels
        frame.pts = self._number
        self._number += 1
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        return frame

    def set_rate(self, rate: int) -> bool:
        """See `VideoEncoder`."""
        return rate == self.rate

    def close(self) -> None:
        """See `VideoEncoder`."""
        self._open = None


def _rows(memory: memoryview, stride: int, rows: int) -> Plane:
    """Memory of a plane as rows of `stride` bytes."""
    return np.frombuffer(memory, np.uint8)[: stride * rows].reshape(rows, stride)


def video_bytes(codec: str, size: Size) -> int:
    """The most memory that an encoder of this size takes, its planes among it, whatever the pictures are."""
    each, border, more = _MEMORY[codec]
    return each * (size.width + border) * (size.height + border) + more


def video_encoder(codec: str, size: Size, rate: int | None, convert: Convert) -> VideoEncoder:
    """The best encoder there is here for one of `VIDEO_CODECS`."""
    if codec == "avc1" and libx264() is not None:
        return X264Encoder(size, rate, convert)
    return AvEncoder(codec, size, rate, convert)
