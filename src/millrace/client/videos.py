"""Videos that a machine sends itself, in the viewer: decoded, and drawn into the picture where they lie.

The picture is all that a viewer has: what lies below an overlay is sent anew when that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import av
import numpy as np

from millrace.client.steps import CursorShape, Paint, Step, Undecodable
from millrace.codec.video import PictureDecoder, Pixels
from millrace.errors import CodecError, RemoteProtocolError
from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.overlays import OVERLAYS_MAX, PLACE_PIXELS_MAX, Place, unpack_overlays
from millrace.wire.peer.pictures import VIDEO_KEY, Part, PartType

PICTURES = 4
"""Frames of all videos together have no more pixels than so many pictures, or one frame."""


class _Video:
    """One video: its decoder, and its newest frame."""

    def __init__(self) -> None:
        self._decoder: PictureDecoder | None = None
        self.frame: Pixels | None = None

    def take(self, part: Part) -> None:
        """Decode a frame; Undecodable if it is damaged, and for each one after that until one with the flag."""
        if part.flags & VIDEO_KEY and self._decoder is None:
            self._decoder = PictureDecoder("vp8", PLACE_PIXELS_MAX)
        if self._decoder is None:
            raise Undecodable("a video of the machine goes on without its beginning")
        try:
            # A frame that is not to be shown (RFC 6386, section 9.1) gives no picture.
            pixels = self._decoder.decode(bytes(part.data))
            self.frame = self.frame if pixels is None else pixels
        except CodecError as error:
            self._decoder = None
            raise Undecodable(f"a video of the machine can't be decoded: {error}") from None


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
                self._video(part.dx).take(part)
                self._bound()
            elif part.type == PartType.OVERLAYS:
                self._places = self._unpacked(part)
        painted = [step.at for step in drawn if not isinstance(step, CursorShape)]
        out: list[Step] = []
        for place in self._places:
            video = self._videos.get(place.number)
            due = place.number in fresh or place not in before or _meets(place.visible, painted)
            if video is not None and video.frame is not None and due:
                out += _drawn(place, video.frame)
                painted += place.visible
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
        areas = {
            n: 0 if one.frame is None else one.frame.shape[0] * one.frame.shape[1] for n, one in self._videos.items()
        }
        for number in list(areas):
            if len(areas) > 1 and sum(areas.values()) > PICTURES * self._whole.area:
                del areas[number], self._videos[number]

    def _unpacked(self, part: Part) -> tuple[Place, ...]:
        try:
            return unpack_overlays(part.data, self._whole)
        except RemoteProtocolError as error:
            raise Undecodable(str(error)) from None


def _meets(some: Sequence[Rect], others: Sequence[Rect]) -> bool:
    return any(one.common(other).area for one in some for other in others)


def _drawn(place: Place, frame: Pixels) -> list[Step]:
    """The visible parts of an overlay."""
    at = place.at
    if frame.shape[:2] != (at.height, at.width):
        made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgra")
        frame = cast(Pixels, made.reformat(width=at.width, height=at.height).to_ndarray())
    return [
        Paint(rect, frame[rect.y - at.y : rect.bottom - at.y, rect.x - at.x : rect.right - at.x])
        for rect in place.visible
    ]
