"""A viewer's picture: what arrives is decoded into steps, in a thread, and the steps are applied when it is time.

A `Decoder` has the state of the video; a `Canvas` has the pixels. Between the two, decoded pictures wait for their
sound.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from millrace.client.steps import CursorShape, Paint, Shift, Step, Undecodable
from millrace.client.videos import Videos
from millrace.codec.palette import unpacked
from millrace.errors import CodecError
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Move, Rect, Size
from millrace.pixels.scroll import apply_move
from millrace.wire.peer.pictures import PIXEL_BYTES, Part, PartType

if sys.version_info >= (3, 14) and not TYPE_CHECKING:
    from compression import zstd
else:
    from backports import zstd

CODECS = ("avc1", "vp8")
FORMATS = ("raw", "zstd", "palette", "jpeg", "png")
SHAPES_MAX = 64
_START_CODES = (b"\0\0\1", b"\0\0\0\1")


class Decoder:
    """Decodes parts in their order. Used by one thread at a time."""

    def __init__(self) -> None:
        self._size = Size(0, 0)
        self._video: av.VideoCodecContext | None = None
        self._codec = ""
        self._frame: av.VideoFrame | None = None
        self._videos = Videos()

    def resize(self, size: Size) -> None:
        """The following parts are of a picture of this size."""
        self._size, self._video, self._frame = size, None, None
        self._videos.resize(size)

    def steps(self, parts: Sequence[Part]) -> list[Step]:
        """Decode the parts of a picture; Undecodable if one is damaged."""
        try:
            steps = [step for part in parts for step in self._step(part)]
            return steps + self._videos.steps(parts, steps)
        except Undecodable:
            self._video = self._frame = None
            raise

    def _step(self, part: Part) -> list[Step]:
        at = part.at
        if part.type in (PartType.FRAME, PartType.OVERLAYS):
            return []
        if part.type == PartType.MOVE:
            return [Shift(at, part.dx, part.dy)]
        if part.type == PartType.SHAPE:
            return [CursorShape(part.dx, _pixels(part.data, at))]
        if part.type == PartType.VIDEO:
            self._frame = self._decoded(bytes(part.data))
        if part.type in (PartType.VIDEO, PartType.DRAW):
            return [Paint(at, self._cut(at.moved(-part.dx, -part.dy)))]
        return [Paint(at, _STILLS[PartType(part.type)](part.data, at))]

    # -- video -----------------------------------------------------------------------------------

    def _decoded(self, data: bytes) -> av.VideoFrame:
        codec = "h264" if data.startswith(_START_CODES) else "vp8"
        if self._video is None or codec != self._codec:
            self._video, self._codec = _decoder(codec), codec
        try:
            frames = self._video.decode(av.Packet(data))
        except av.error.FFmpegError as error:
            raise Undecodable(f"the video can't be decoded: {error.strerror}") from None
        if len(frames) != 1:
            raise Undecodable(f"the video gave {len(frames)} pictures for one")
        return frames[0]

    def _cut(self, at: Rect) -> Plane:
        """A rectangle of the last picture of the video."""
        frame = self._frame
        if frame is None:
            raise Undecodable("a rectangle of a video that has not begun")
        around = at.even()
        if around.x < 0 or around.y < 0:
            raise Undecodable("a rectangle outside of its video")
        if around.right > frame.width + 1 or around.bottom > frame.height + 1:
            raise Undecodable(f"a video of {frame.width} × {frame.height} for a larger picture")
        picture = _bgrx(_part(frame, around))
        return picture[at.y - around.y : at.bottom - around.y, at.x - around.x : at.right - around.x]


def _decoder(codec: str) -> Any:
    made = av.CodecContext.create(codec, "r")
    # Frame threads hold pictures back, and slices take longer than they save on few cores.
    made.thread_count = 1
    made.options = {"flags": "low_delay"} if codec == "h264" else {}
    return made


def _part(frame: av.VideoFrame, at: Rect) -> av.VideoFrame:
    """A rectangle with even edges of a frame, as a frame."""
    whole = Rect(0, 0, frame.width, frame.height)
    if at.holds(whole) or frame.format.name not in ("yuv420p", "yuvj420p"):
        return frame if at.holds(whole) else _cropped_rgb(frame, at)
    wide, high = min(at.width, frame.width - at.x) & ~1, min(at.height, frame.height - at.y) & ~1
    if not wide or not high or wide != at.width or high != at.height:
        return _cropped_rgb(frame, at)
    out = av.VideoFrame(wide, high, frame.format.name)
    out.colorspace, out.color_range = frame.colorspace, frame.color_range
    for plane, target in zip(frame.planes, out.planes, strict=True):
        half = 1 if plane.width < frame.width else 0
        rows, columns = slice(at.y >> half, at.bottom >> half), slice(at.x >> half, at.right >> half)
        rows_of(target)[: high >> half, : wide >> half] = rows_of(plane)[rows, columns]
    return out


def _cropped_rgb(frame: av.VideoFrame, at: Rect) -> av.VideoFrame:
    """The same for any format and any edges, by way of the whole picture."""
    whole = _bgrx(frame)[at.y : at.bottom, at.x : at.right]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(whole), "bgra")


def rows_of(plane: Any) -> Plane:
    """The rows of one of a frame's planes, with what lies behind each."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def _bgrx(frame: av.VideoFrame) -> Plane:
    return cast(Plane, frame.to_ndarray(format="bgra"))


# -- stills --------------------------------------------------------------------------------------


def _pixels(data: Any, at: Rect) -> Plane:
    """Rows of a rectangle; the length has been checked."""
    return np.frombuffer(data, np.uint8).reshape(at.height, at.width, PIXEL_BYTES)


def _zstd(data: Any, at: Rect) -> Plane:
    return _pixels(_inflated(data, at.area * PIXEL_BYTES), at)


def _palette(data: Any, at: Rect) -> Plane:
    try:
        return unpacked(data, at.width, at.height, _inflated)
    except CodecError as error:
        raise Undecodable(f"a rectangle can't be decoded: {error}") from None


def _inflated(data: Any, size: int) -> bytes:
    unpacker = zstd.ZstdDecompressor()
    try:
        found = unpacker.decompress(data, max_length=size + 1)
    except zstd.ZstdError as error:
        raise Undecodable(f"a rectangle can't be decoded: {error}") from None
    if len(found) != size or not unpacker.eof:
        raise Undecodable(f"a rectangle in another number of bytes than {size}")
    return bytes(found)


def _still(kind: str) -> Callable[[Any, Rect], Plane]:
    def decode(data: Any, at: Rect) -> Plane:
        try:
            with Image.open(io.BytesIO(data), formats=(kind,)) as image:
                # Before anything is allocated for it.
                if image.size != (at.width, at.height):
                    raise Undecodable(f"a {kind} of {image.width} × {image.height} for another rectangle")
                return _pixels(image.convert("RGB").tobytes("raw", "BGRX"), at)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Undecodable(f"a {kind} can't be decoded: {error}") from None

    return decode


_STILLS: dict[PartType, Callable[[Any, Rect], Plane]] = {
    PartType.RAW: _pixels,
    PartType.ZSTD: _zstd,
    PartType.PALETTE: _palette,
    PartType.JPEG: _still("JPEG"),
    PartType.PNG: _still("PNG"),
}


# -- pixels --------------------------------------------------------------------------------------


class Canvas:
    """The picture as it is shown: (rows, columns, 4), BGRX; and the cursor, which is not in it."""

    def __init__(self) -> None:
        self.pixels: Plane = np.zeros((0, 0, 4), np.uint8)
        self.shapes: dict[int, Plane] = {}
        self._bare: NDArray[np.bool_] | None = None
        """What was not painted yet; None: nothing."""

    @property
    def whole(self) -> bool:
        """Whether every pixel was painted since it has this size: a daemon may send its first picture bit by bit."""
        return self._bare is None and bool(self.pixels.size)

    @property
    def size(self) -> Size:
        """Its size; 0 × 0 before the first mode."""
        return Size(self.pixels.shape[1], self.pixels.shape[0])

    def resize(self, size: Size) -> None:
        """Begin anew, black."""
        self.pixels = np.zeros((size.height, size.width, 4), np.uint8)
        self._bare = np.ones((size.height, size.width), np.bool_)

    def apply(self, steps: Sequence[Step]) -> list[Rect]:
        """Apply decoded steps; returns what changed."""
        changed = []
        for step in steps:
            if isinstance(step, CursorShape):
                self._define(step)
                continue
            at, origin = step.at, None
            if isinstance(step, Paint):
                part_of(self.pixels, at)[:] = step.pixels
            else:
                origin = at.moved(-step.dx, -step.dy)
                if not step.dx:
                    apply_move(self.pixels, Move(at, 0, step.dy))
                else:
                    # The two places may overlap.
                    part_of(self.pixels, at)[:] = part_of(self.pixels, origin).copy()
            if self._bare is not None:
                place = self._bare[at.y : at.bottom, at.x : at.right]
                place[:] = (
                    False if origin is None else self._bare[origin.y : origin.bottom, origin.x : origin.right].copy()
                )
            changed.append(at)
        if self._bare is not None and not self._bare.any():
            self._bare = None
        return changed

    def _define(self, shape: CursorShape) -> None:
        self.shapes[shape.number] = shape.pixels
        while len(self.shapes) > SHAPES_MAX:
            del self.shapes[next(iter(self.shapes))]


def blend(picture: Plane, shape: Plane | None, x: int, y: int) -> None:
    """Draw a cursor into a picture; what lies outside is cut off."""
    if shape is None:
        return
    whole = Rect(0, 0, picture.shape[1], picture.shape[0])
    at = Rect(x, y, shape.shape[1], shape.shape[0]).common(whole)
    if not at.area:
        return
    above = shape[at.y - y : at.bottom - y, at.x - x : at.right - x].astype(np.uint16)
    part = picture[at.y : at.bottom, at.x : at.right, :3]
    alpha = above[:, :, 3:]
    part[:] = (above[:, :, :3] * alpha + part.astype(np.uint16) * (255 - alpha) + 127) // 255
