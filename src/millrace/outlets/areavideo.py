"""The video of one screen: an encoder for the area that is film, and the parts that its pictures are sent as."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.codec import yuv
from millrace.codec.avvideo import video_encoder
from millrace.codec.videoencoder import VideoEncoder
from millrace.outlets.line import LAN_RATE
from millrace.outlets.videoarea import VideoArea
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from millrace.units import HostNs
from millrace.wire.peer.pictures import VIDEO_KEY, Part, PartType


class AreaVideo:
    """One stream, which begins anew when its area becomes another one. It belongs to one thread at a time."""

    def __init__(self, codec: str, whole: Rect, rate: int) -> None:
        """`rate` is in bit/s; from `LAN_RATE` on, the quality is constant."""
        self._codec, self._rate, self._area = codec, rate, VideoArea(whole)
        self._encoder: VideoEncoder | None = None

    @property
    def name(self) -> str:
        """The codec, what encodes it, and its size, in words; empty while nothing does."""
        at = self._area.at
        return "" if self._encoder is None else f"{self._encoder.name}, {at.width} × {at.height}"

    def encode(self, picture: Plane, film: Sequence[Rect], now_ns: HostNs, key: bool) -> tuple[Part, ...]:
        """Encode the rectangles of a picture of the screen that changed; CodecError if that fails."""
        if self._area.take(film, now_ns):
            self.close()
        at = self._area.at
        encoder = self._encoder = self._encoder or self._opened(Size(at.width, at.height))
        made = encoder.encode(part_of(picture, at), [rect.moved(-at.x, -at.y) for rect in film], key)
        first = Part(PartType.VIDEO, film[0], made.data, at.x, at.y, VIDEO_KEY if made.key else 0)
        return (first, *(Part(PartType.DRAW, rect, dx=at.x, dy=at.y) for rect in film[1:]))

    def _opened(self, size: Size) -> VideoEncoder:
        return video_encoder(self._codec, size, None if self._rate >= LAN_RATE else self._rate, yuv.convert)

    def set_rate(self, rate: int) -> None:
        """Keep to another rate in bit/s. From one of a LAN to a lower one, video begins anew with a key picture."""
        self._rate = rate
        if self._encoder is None:
            return
        if (self._encoder.rate is None) == (rate >= LAN_RATE):
            self._encoder.set_rate(rate)
        else:
            self.close()

    def close(self) -> None:
        """Free the encoder. A second call does nothing."""
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()
