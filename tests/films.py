"""A machine that sends a video of its own over its screen, and viewers that draw it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np

from millrace.client.canvas import Canvas, Decoder
from millrace.codec.video import PictureDecoder, vp8_key
from millrace.graph.packets import Publisher
from millrace.graph.pictures import Overlay
from millrace.graph.seat import Watcher
from millrace.media.format import VideoFormat
from millrace.media.packet import Demand, End, Flags, Kind, Packet, Parameters, Upstream
from millrace.pixels.rects import Rect, Size
from millrace.units import HostNs
from millrace.wire.peer.overlays import OVERLAY_CODECS
from millrace.wire.peer.pictures import ModeChanged, PartType, Piece, Watch
from tests.watch import Desk, Painter, Remote

EVERY_MS = 40
COMPOSES = Watch(formats=["raw", "zstd", "jpeg"], codecs=["avc1"], overlays=list(OVERLAY_CODECS))
DECODES = Watch(formats=["raw", "zstd", "jpeg"], codecs=["avc1"])


def clip(size: Size, count: int, keys: int = 12, seed: int = 5) -> list[bytes]:
    """A VP8 video with a key frame every `keys`: blocks of colour that drift."""
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = size.width, size.height, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.gop_size, encoder.thread_count = keys, 1
    encoder.options = {"deadline": "realtime", "lag-in-frames": "0", "crf": "4", "auto-alt-ref": "0"}
    coarse = np.random.default_rng(seed).integers(40, 216, (-(-size.height // 16), -(-size.width // 16), 4), np.uint8)
    picture = coarse.repeat(16, axis=0).repeat(16, axis=1)[: size.height, : size.width]
    out: list[bytes] = []
    for n in range(count):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, 2 * n, axis=1)), "bgra")
        frame.pts, frame.pict_type = n, 1 if n % keys == 0 else 0
        out += [bytes(packet) for packet in encoder.encode(frame)]
    assert len(out) == count
    return out


class Film:
    """A video of a machine's screen: its door decodes it into the screen while it is told to paint it."""

    def __init__(self, desk: Desk, painter: Painter, at: Rect, frames: list[bytes]) -> None:
        self.desk, self.painter, self.at, self.frames = desk, painter, at, frames
        self.track = desk.home.tracks.add(Kind.VIDEO)
        self._publisher: Publisher = self.track.publish(self)
        self._publisher.push(Parameters(0, "vp8", VideoFormat(at.width, at.height)))
        self._decoder = PictureDecoder("vp8", at.area)
        self.shown = 0
        self.always = True
        """Decode each frame, to know what a viewer should show."""
        self.newest: Any = None
        self.decoded: list[int] = []
        """Frames that were decoded into the screen."""
        self.overlay = Overlay(self.track.info.key, at)
        painter.paint = self._paint  # type: ignore[method-assign]
        self._painted: frozenset[str] = frozenset()
        self.lie(self.overlay)

    def demand(self, wanted: Demand) -> None: ...

    def upstream(self, event: Upstream, who: Watcher | None) -> None: ...

    def _paint(self, tracks: frozenset[str]) -> None:
        self._painted = tracks

    def lie(self, *overlays: Overlay) -> None:
        """These overlays lie over the screen from now on."""
        self.painter.screen.painted([], self.desk.now_ns, overlays=overlays)

    def show(self, now_ns: HostNs) -> None:
        """The next frame."""
        number, frame = self.shown, self.frames[self.shown % len(self.frames)]
        key = Flags.END | Flags.KEY if vp8_key(frame) else Flags.END
        self._publisher.push(Packet(number, 0, now_ns, now_ns, 0, now_ns, key, frame))
        self.shown += 1
        painted = self.track.info.key in self._painted
        if self.always or painted:
            self.newest = self._decoder.decode(frame)
        if painted:
            self.decoded.append(number)
            at = self.overlay.at
            self.painter.pixels[at.y : at.bottom, at.x : at.right, :3] = self.newest[:, :, :3]
            self.painter.screen.painted([at], now_ns)

    def play(self, frames: int) -> None:
        """So many frames, in real time."""
        for _ in range(frames):
            self.show(self.desk.now_ns)
            self.desk.run(EVERY_MS)

    def end(self) -> None:
        """The video is over."""
        self._publisher.push(End("over"))
        self.lie()

    def over(self, below: Any) -> Any:
        """A picture with its newest frame over it."""
        whole = below[:, :, :3].copy()
        for rect in self.overlay.clip or (self.at,):
            at = self.overlay.at
            cut = self.newest[rect.y - at.y : rect.bottom - at.y, rect.x - at.x : rect.right - at.x, :3]
            whole[rect.y : rect.bottom, rect.x : rect.right] = cut
        return whole


class Seeing(Remote):
    """A viewer as `millrace view` is one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.decoder, self.seen, self.parts = Decoder(), Canvas(), list[Any]()
        self.framed = 0
        super().__init__(*args, draws=False, **options)

    def _take(self, event: Any, now: HostNs) -> None:
        if isinstance(event, ModeChanged) and event.generation != getattr(self, "generation", None):
            self.seen.resize(Size(event.width, event.height))
            self.decoder.resize(Size(event.width, event.height))
        super()._take(event, now)

    def _draw(self, piece: Piece, now: HostNs) -> None:
        self.parts += piece.parts
        self.framed += sum(part.type == PartType.FRAME for part in piece.parts)
        if piece.last:
            parts, self.parts = self.parts, []
            self.seen.apply(self.decoder.steps(parts))
        super()._draw(piece, now)

    def shows(self, picture: Any) -> bool:
        """Whether it shows exactly this."""
        return np.array_equal(self.seen.pixels[:, :, :3], picture)
