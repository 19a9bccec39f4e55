"""The video stream of a screen's film: an encoder for its area, and the parts that its pictures are sent as."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.codec import yuv
from millrace.codec.avvideo import video_encoder
from millrace.codec.videoencoder import Encoded, VideoEncoder
from millrace.errors import CodecError
from millrace.outlets.filmarea import FilmArea
from millrace.outlets.line import LAN_RATE
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import PIECE_MAX, VIDEO_KEY, Part, PartType

ANEW_NS: HostNs = NS_PER_S
"""How often video begins anew at most because of its rate: each time with a key picture."""
VIDEO_MAX = PIECE_MAX - 64 * 1024
"""Bytes of one picture: it is sent in one piece, which may have other parts."""
LESS, LEAST_RATE = 16, 300_000


# A viewer may tell of another rate with each message. libx264 can keep to any once it has one. It has none while the
# line takes anything, and keeps one when the line does so again: else a rate that wavers would be key pictures only.
class FilmStream:
    """One stream, which begins anew when its area becomes another one. It belongs to one thread at a time."""

    def __init__(self, codec: str, whole: Rect, rate: int) -> None:
        """`rate` is in bit/s; from `LAN_RATE` on, the quality is constant."""
        self._codec, self._rate, self._area = codec, rate, FilmArea(whole)
        self._encoder: VideoEncoder | None = None
        self._most: int | None = None
        """The rate from which pictures are too large to be sent; None: none was so far."""
        self._outdated = False
        """The encoder can't keep to the newest rate."""
        self._anew_ns: HostNs | None = None
        """When it was given up for that last."""

    @property
    def name(self) -> str:
        """The codec, what encodes it, and its size, in words; empty while nothing does."""
        at = self._area.at
        return "" if self._encoder is None else f"{self._encoder.name}, {at.width} × {at.height}"

    def encode(self, picture: Plane, film: Sequence[Rect], now_ns: HostNs, key: bool) -> tuple[Part, ...]:
        """Encode the rectangles of a picture of the screen that changed; CodecError if that fails.

        It has at most `VIDEO_MAX` bytes.
        """
        if self._outdated and (self._anew_ns is None or now_ns - self._anew_ns >= ANEW_NS):
            self._anew_ns = now_ns
            self.close()
        if self._area.take(film, now_ns):
            self.close()
        at = self._area.at
        made = self._bounded(part_of(picture, at), [rect.moved(-at.x, -at.y) for rect in film], key)
        first = Part(PartType.VIDEO, film[0], made.data, at.x, at.y, VIDEO_KEY if made.key else 0)
        return (first, *(Part(PartType.DRAW, rect, dx=at.x, dy=at.y) for rect in film[1:]))

    # At a constant quality, noise in all of a large screen is more than a piece may have. What was encoded so is
    # dropped, and with it the stream, as the next picture would refer to it.
    def _bounded(self, picture: Plane, film: Sequence[Rect], key: bool) -> Encoded:
        while True:
            encoder = self._encoder = self._encoder or self._opened(Size(picture.shape[1], picture.shape[0]))
            made = encoder.encode(picture, film, key)
            if len(made.data) <= VIDEO_MAX:
                return made
            self._most = LAN_RATE if self._most is None else self._most // LESS
            if self._most < LEAST_RATE:
                raise CodecError(f"a picture of video takes {len(made.data)} bytes; {VIDEO_MAX} at most")
            self.close()

    def _opened(self, size: Size) -> VideoEncoder:
        self._outdated = False
        rate = None if self._rate >= LAN_RATE else self._rate
        if self._most is not None:
            rate = min(self._rate, self._most)
        return video_encoder(self._codec, size, rate, yuv.convert)

    def set_rate(self, rate: int) -> None:
        """Keep to another rate in bit/s. Where the encoder can't, video begins anew with a key picture, soon."""
        self._rate = rate
        if self._encoder is not None:
            fits = self._encoder.rate is None and rate >= LAN_RATE
            self._outdated = not (fits or self._encoder.set_rate(rate))

    def close(self) -> None:
        """Free the encoder. A second call does nothing."""
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()
