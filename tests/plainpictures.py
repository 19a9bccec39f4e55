"""An encoder of pictures that sends each changed rectangle as its pixels, without loss. See `encoded.Pictures`.

It takes next to no time, and is for tests of what surrounds an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from millrace.codec.picturesettings import PictureSettings
from millrace.graph.pictures import Mode
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.outlets.encoded import EncodedPicture, PictureSink
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturecounts import PictureCounts, tallied
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Damage, Rect, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import PART_HEAD_BYTES, PIXEL_BYTES, Part, PartType

BAND_PIXELS = 60_000
"""The most pixels of one part."""


class PlainPictures:
    """Sends rectangles of pixels to all viewers that are ready, and remembers what the others lack."""

    def __init__(
        self, screen: Screen, settings: PictureSettings, formats: Formats, who: Watcher, wake: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        self._screen, self._scale = screen, settings.scale
        self._reader = screen.read(who, NS_PER_S // settings.fps, wake=wake)
        self._lacking: dict[PictureSink, Damage] = {}
        self._mode: Mode | None = None
        self._blocked: set[PictureSink] = set()
        """Those that had no room: nothing is due for them until somebody says that they have."""
        self._serial = 0
        self.counts = PictureCounts()

    @property
    def video(self) -> str:
        """See `Pictures`: none."""
        return ""

    def join(self, sink: PictureSink) -> None:
        """See `Pictures`."""
        self._lacking[sink] = Damage()
        if self._mode is not None:
            sink.resized(self._size(self._mode))
            self.refresh(sink)

    def leave(self, sink: PictureSink) -> None:
        """See `Pictures`."""
        self._lacking.pop(sink, None)
        self._blocked.discard(sink)

    def refresh(self, sink: PictureSink) -> None:
        """See `Pictures`."""
        if self._mode is not None:
            self._lacking[sink] = Damage([self._mode.whole])

    def set_rate(self, rate: int | None) -> None:
        """See `Pictures`: it has no means to keep to a rate."""

    def compose(self, tracks: frozenset[str]) -> None:
        """See `Pictures`."""
        self.composed = tracks

    def set_fps(self, fps: int) -> None:
        """See `Pictures`."""
        self._reader.set_interval(NS_PER_S // fps)

    def next_timeout(self) -> HostNs | None:
        """See `Pictures`."""
        open_ = [lacks for sink, lacks in self._lacking.items() if sink not in self._blocked]
        if not open_ or self._screen.memory is None:
            return None
        return 0 if any(open_) else self._reader.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Pictures`."""
        ready = [sink for sink in self._lacking if sink.ready(now_ns)]
        memory = self._screen.memory
        if memory is not None and ready:
            self._take(now_ns)
            self._send(ready, memory.picture, now_ns)
        self._blocked = {sink for sink in self._lacking if sink not in ready}

    def _send(self, ready: list[PictureSink], picture: Plane, now_ns: HostNs) -> None:
        """Send each what it lacks; what is the same for several is encoded once."""
        made: dict[tuple[Rect, ...], EncodedPicture] = {}
        for sink in ready:
            rects = self._lacking[sink].take()
            if rects:
                if rects not in made:
                    made[rects] = self._encode(picture, rects, now_ns)
                    self.counts.encoded(0, made[rects].key)
                self.counts.pushed(made[rects].kinds)
                if not sink.push(made[rects]):
                    self._lacking[sink].add_all(rects)

    def deliver(self) -> Iterator[None]:
        """See `Pictures`: all is sent at once."""
        return iter(())

    def close(self) -> None:
        """See `Pictures`."""
        self._reader.end()
        self._lacking.clear()

    def _take(self, now_ns: HostNs) -> None:
        """Note for everybody what has changed since the last time."""
        picture = self._reader.take(now_ns)
        if picture is None:
            return
        picture.release()
        changed = [*picture.damage, *(move.to for move in picture.moves)]
        if picture.mode != self._mode:
            self._mode, changed = picture.mode, [picture.mode.whole]
            for sink in self._lacking:
                sink.resized(self._size(picture.mode))
                self._lacking[sink] = Damage()
        for lacks in self._lacking.values():
            for rect in changed:
                lacks.add(rect)

    def _size(self, mode: Mode) -> Size:
        return Size(max(1, round(mode.width * self._scale)), max(1, round(mode.height * self._scale)))

    def _encode(self, picture: Plane, rects: Iterable[Rect], now_ns: HostNs) -> EncodedPicture:
        assert self._mode is not None
        whole, parts = self._mode.whole, tuple(part for rect in rects for part in self._parts(picture, rect))
        self._serial += 1
        painted_ns = self._screen.painted_ns
        return EncodedPicture(
            self._serial, painted_ns, parts, whole in rects, sum(len(part.data) + PART_HEAD_BYTES for part in parts),
            wait_ns=max(0, now_ns - painted_ns), number=self._screen.serial, kinds=tallied(parts),
        )  # fmt: skip

    def _parts(self, picture: Plane, rect: Rect) -> list[Part]:
        """A rectangle as parts, none of which is too large for a piece."""
        at = self._scaled(rect)
        rows = max(1, BAND_PIXELS // at.width)
        bands = (Rect(at.x, y, at.width, min(rows, at.bottom - y)) for y in range(at.y, at.bottom, rows))
        return [Part(PartType.RAW, band, self._pixels(picture, band)) for band in bands]

    def _scaled(self, rect: Rect) -> Rect:
        assert self._mode is not None
        size, scale = self._size(self._mode), self._scale
        x, y = min(int(rect.x * scale), size.width - 1), min(int(rect.y * scale), size.height - 1)
        right, bottom = (
            min(-int(-rect.right * scale // 1), size.width),
            min(-int(-rect.bottom * scale // 1), size.height),
        )
        return Rect(x, y, max(1, right - x), max(1, bottom - y))

    def _pixels(self, picture: Plane, at: Rect) -> bytes:
        if self._scale == 1:
            return picture[at.y : at.bottom, at.x : at.right].tobytes()
        rows = np.minimum((np.arange(at.y, at.bottom) / self._scale).astype(int), picture.shape[0] - 1)
        columns = np.minimum((np.arange(at.x, at.right) / self._scale).astype(int), picture.shape[1] - 1)
        taken: Plane = picture[rows[:, None], columns]
        assert taken.shape[2] == PIXEL_BYTES
        return taken.tobytes()
