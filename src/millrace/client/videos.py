"""Videos that a machine sends itself, in the viewer: decoded, and drawn into the picture where they lie.

The picture is all that a viewer has: what lies below an overlay is sent anew when that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import av
import numpy as np

from millrace.client.steps import CursorShape, Paint, Step, Undecodable
from millrace.codec.video import PictureDecoder, Pixels, vp8_key, vp8_size
from millrace.errors import CodecError, RemoteProtocolError
from millrace.pixels.rects import Rect, Size, few
from millrace.wire.peer.overlays import OVERLAYS_MAX, PLACE_PIXELS_MAX, Place, unpack_overlays
from millrace.wire.peer.pictures import VIDEO_KEY, Part, PartType

PICTURES, PIXELS_MAX = 4, 64 * 1024 * 1024
"""Frames of all videos together have no more pixels than so many pictures and than this, or one frame."""


class _Video:
    """One video: its decoder, and its newest frame."""

    def __init__(self) -> None:
        self._decoder: PictureDecoder | None = None
        self.frame: Pixels | None = None
        self._coded = 0
        """Pixels of its last key frame. Its decoder keeps several such, whether any is to be shown or not."""

    @property
    def area(self) -> int:
        """Pixels of the largest frame that it keeps."""
        return max(self._coded, 0 if self.frame is None else self.frame.shape[0] * self.frame.shape[1])

    def begin(self, data: bytes) -> None:
        """This frame is the next; Undecodable for a key frame that is none."""
        try:
            if vp8_key(data):
                width, height = vp8_size(data)
                self._coded = width * height
        except CodecError as error:
            raise self._undecodable(error) from None

    def take(self, data: bytes, key: bool) -> None:
        """Decode it; Undecodable if it is damaged, and for each one after that until one with `key`."""
        if key and self._decoder is None:
            self._decoder = PictureDecoder("vp8", PLACE_PIXELS_MAX)
        if self._decoder is None:
            raise Undecodable("a video of the machine goes on without its beginning")
        try:
            # A frame that is not to be shown (RFC 6386, section 9.1) gives no picture.
            pixels = self._decoder.decode(data)
            self.frame = self.frame if pixels is None else pixels
        except CodecError as error:
            raise self._undecodable(error) from None

    def _undecodable(self, error: CodecError) -> Undecodable:
        self._decoder = None
        return Undecodable(f"a video of the machine can't be decoded: {error}")


class Videos:
    """All such videos of one connection. Used by one thread at a time."""

    def __init__(self) -> None:
        self._whole = Rect(0, 0, 0, 0)
        self._videos: dict[int, _Video] = {}
        self._places: tuple[Place, ...] = ()

    def resize(self, size: Size) -> None:
        """Another picture, of this size: nothing lies over it yet."""
        self._whole, self._places = Rect(0, 0, size.width, size.height), ()

    def steps(self, parts: Sequence[Part], drawn: Sequence[Step]) -> list[Step]:
        """What is to be drawn after the other parts of a picture, which have led to `drawn`.

        Undecodable if a frame or the list of overlays is damaged.
        """
        fresh = {part.dx for part in parts if part.type == PartType.FRAME}
        before = self._places
        for part in parts:
            if part.type == PartType.FRAME:
                one, data = self._video(part.dx), bytes(part.data)
                one.begin(data)
                self._bound()
                one.take(data, bool(part.flags & VIDEO_KEY))
            elif part.type == PartType.OVERLAYS:
                self._places = self._unpacked(part)
        painted = few([step.at for step in drawn if not isinstance(step, CursorShape)])
        out: list[Step] = []
        for place in self._places:
            video = self._videos.get(place.number)
            due = place.number in fresh or place not in before or _meets(place.visible, painted)
            if video is not None and video.frame is not None and due:
                out += _drawn(place, video.frame)
                painted = few([*painted, *place.visible])
        return out

    def _video(self, number: int) -> _Video:
        video = self._videos.pop(number, None) or _Video()
        # A viewer is not told which have ended. The newest is last.
        while len(self._videos) >= OVERLAYS_MAX:
            del self._videos[next(iter(self._videos))]
        self._videos[number] = video
        return video

    def _bound(self) -> None:
        """Forget those whose last frame is the oldest until those of all are few (`PICTURES`)."""
        most = min(PIXELS_MAX, PICTURES * self._whole.area)
        area = sum(video.area for video in self._videos.values())
        while len(self._videos) > 1 and area > most:
            area -= self._videos.pop(next(iter(self._videos))).area

    def _unpacked(self, part: Part) -> tuple[Place, ...]:
        try:
            return unpack_overlays(part.data, self._whole)
        except RemoteProtocolError as error:
            raise Undecodable(str(error)) from None


def _meets(some: Sequence[Rect], others: Sequence[Rect]) -> bool:
    return any(one.common(other).area for one in some for other in others)


# Each part is a copy, unless it is all of the frame: a picture may wait, and what waits is counted by its parts.
def _drawn(place: Place, frame: Pixels) -> list[Step]:
    """The visible parts of an overlay."""
    at = place.at
    if frame.shape[:2] != (at.height, at.width):
        made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgra")
        frame = cast(Pixels, made.reformat(width=at.width, height=at.height).to_ndarray())
    cuts = [frame[rect.y - at.y : rect.bottom - at.y, rect.x - at.x : rect.right - at.x] for rect in place.visible]
    return [
        Paint(rect, cut if cut.shape == frame.shape else cut.copy())
        for rect, cut in zip(place.visible, cuts, strict=True)
    ]
