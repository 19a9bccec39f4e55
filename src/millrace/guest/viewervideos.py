"""The videos of a screen that one viewer draws over the picture: their frames, and which of them it can show now.

A machine sends such a video already encoded, as a track, and its place is an overlay of the screen. The viewer is sent
the frames as they are. Once it has been sent a key frame and all that follow, it can show the video, and its encoder
leaves out what lies below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from millrace.budget import VIEWERS, Account
from millrace.errors import GraphError
from millrace.graph.packetlane import Lane
from millrace.graph.packetqueue import PacketQueue
from millrace.graph.pictures import Overlay, visible
from millrace.graph.seat import Watcher
from millrace.graph.tracks import Tracks
from millrace.media.packet import End, Flags, Gap, Item, Packet
from millrace.pixels.rects import EMPTY, Rect, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.overlays import (
    OVERLAYS_MAX,
    PLACE_PIXELS_MAX,
    Place,
    pack_overlays,
    placeable,
)
from millrace.wire.peer.pictures import PIECE_MAX, VIDEO_KEY, Part, PartType

FRAME_MAX = PIECE_MAX - 64 * 1024
"""A larger frame is not sent: the video goes on with its next key frame."""
FRAMES_BYTES, FRAMES_MAX = 256 * 1024, 64
"""Frames that waited are sent in one picture until there are so many bytes of them, or so many frames."""
REST_NS = 10 * NS_PER_S
"""So long after frames were dropped a video is decoded for its viewer: its line may be too thin for it, and an encoder
makes pictures for the line."""
PARTS_MAX = 256
"""Visible parts of all overlays together, fewer than viewers take: each reader of the screen compares with them."""
NUMBER_MAX = 32_767
"""Of the videos of one session; then the numbers that are free are used again."""


@dataclass(slots=True)
class _Video:
    """One video; `whole` while the viewer was sent all frames since a key frame."""

    number: int
    lane: Lane
    whole: bool = False
    key: bool = False
    """The access unit in `unit` is a key frame."""
    unit: bytes = b""
    dropped: int = 0
    """Of its lane, as far as it was noticed."""
    rests_until_ns: HostNs = 0
    rests: bool = False

    @property
    def shown(self) -> bool:
        """Whether the viewer can show it now."""
        return self.whole and not self.lane.broken

    def begin(self, now_ns: HostNs) -> None:
        """A key frame is about to be sent."""
        self.rests = now_ns < self.rests_until_ns
        self.whole, self.key, self.unit = not self.rests, True, b""

    def lose(self) -> None:
        """The viewer lacks a frame."""
        self.whole, self.unit = False, b""

    def look(self, now_ns: HostNs) -> None:
        """Notice whether frames were dropped."""
        if self.dropped != self.lane.dropped:
            self.dropped, self.rests_until_ns, self.rests = self.lane.dropped, now_ns + REST_NS, True
            self.lose()


class ViewerVideos:
    """What one viewer is sent of the videos of its screen. `wake` is called when a frame waits."""

    def __init__(self, tracks: Tracks, who: Watcher, account: Account, wake: Callable[[], None]) -> None:
        self.codecs: frozenset[str] = frozenset()
        """Those that the viewer decodes."""
        self.frames = self.bytes = 0
        """Sent."""
        self._tracks, self._who = tracks, who
        self._queue = PacketQueue(account, wake, VIEWERS)
        self._videos: dict[str, _Video] = {}
        self._rests: dict[str, HostNs] = {}
        """Until when videos rest that it was sent before."""
        self._followed: tuple[Overlay, ...] | None = ()
        """The overlays whose videos it is sent; None while that changes, and if there may be room for more."""
        self._refused: set[str] = set()
        """Tracks that there was no room for."""
        self._turn: object = None
        """Stands for the steps that follow them."""
        self._number = 0
        self._lying: tuple[Overlay, ...] = ()
        """Those of the last picture that it was sent."""
        self._told: tuple[tuple[Overlay, int], ...] = ()
        """Those that it was told of, and by which number."""

    # -- which there are -------------------------------------------------------------------------

    # Between two steps it may be told to leave all, or the group that lets it follow may end: whoever follows next does
    # what is left to do.
    def follow(self, overlays: tuple[Overlay, ...], now_ns: HostNs) -> Iterator[None]:
        """These overlays lie over its screen now. In steps: it joins or leaves the track of each."""
        for video in self._videos.values():
            video.look(now_ns)
        if overlays is self._followed or not self.codecs:
            return
        self._followed, turn = None, object()
        self._turn = turn
        lying = {overlay.track for overlay in overlays}
        self._rests = {key: until_ns for key, until_ns in self._rests.items() if key in lying}
        self._refused.clear()
        for key in (*(self._videos.keys() - lying), *(lying - self._videos.keys())):
            if self._turn is not turn:
                return
            if key in lying:
                self._join(key, now_ns)
            elif key in self._videos:
                self._queue.leave(self._videos.pop(key).lane)
            yield
        if self._turn is turn:
            self._followed = overlays

    def _join(self, key: str, now_ns: HostNs) -> None:
        track = self._tracks.find(key)
        parameters = None if track is None else track.parameters
        if track is None or parameters is None or parameters.codec not in self.codecs:
            return
        try:
            lane = self._queue.join(track, self._who, now_ns)
        except GraphError:
            # Until there is room, the machine's door goes on decoding it into the picture.
            self._refused.add(key)
            return
        self._videos[key] = _Video(self._free_number(), lane, rests_until_ns=self._rests.pop(key, 0))

    def _free_number(self) -> int:
        used = {video.number for video in self._videos.values()}
        self._number = self._number % NUMBER_MAX + 1
        while self._number in used:
            self._number = self._number % NUMBER_MAX + 1
        return self._number

    def retry(self) -> None:
        """There may be room for what had none."""
        if self._refused:
            self._followed = None

    @property
    def shown(self) -> frozenset[str]:
        """The tracks that the viewer can show now."""
        return frozenset(key for key, video in self._videos.items() if video.shown)

    def lacks(self, track: str) -> str:
        """Why the viewer can't show this track now; empty if it can."""
        video = self._videos.get(track)
        if video is None and track in self._refused:
            return "has no room for its frames"
        if video is None:
            return "is sent no frames" if self.codecs else "draws no such video itself"
        if video.shown:
            return ""
        return "was sent too few frames lately" if video.rests else "waits for a key frame"

    def lost(self) -> None:
        """Frames did not arrive, or were not decoded: each video waits for its next key frame."""
        for video in self._videos.values():
            video.lose()

    def leave(self) -> None:
        """The viewer is sent no pictures now: what it is not sent meanwhile is not kept for it."""
        self._rests |= {key: video.rests_until_ns for key, video in self._videos.items()}
        for video in self._videos.values():
            self._queue.leave(video.lane)
        self._videos, self._followed, self._turn = {}, None, None

    def hide(self) -> None:
        """Nobody sees the viewer's picture: what it was not sent says nothing of its line."""
        self.leave()
        self._rests = {}

    def close(self) -> None:
        """The viewer has left."""
        self.leave()
        self._queue.close()

    # -- what is sent ----------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether frames wait."""
        return any(len(video.lane) for video in self._videos.values())

    def take(self, now_ns: HostNs) -> tuple[list[Part], HostNs]:
        """The frames that wait, and the time of the newest; none if there are none."""
        parts: list[Part] = []
        size = seen_ns = 0
        for _ in range(FRAMES_MAX):
            if size >= FRAMES_BYTES or (taken := self._queue.take(now_ns)) is None:
                break
            lane, items = taken
            key, video = next((key, video) for key, video in self._videos.items() if video.lane is lane)
            for item in items:
                part = self._part(key, video, item, now_ns)
                if part is not None and isinstance(item, Packet):
                    parts.append(part)
                    size += len(part.data)
                    seen_ns = max(seen_ns, item.pts_ns)
        self.frames += len(parts)
        self.bytes += size
        return parts, seen_ns

    def _part(self, key: str, video: _Video, item: Item, now_ns: HostNs) -> Part | None:
        """A frame to be sent, once all of it is there."""
        if isinstance(item, End):
            self._videos.pop(key, None)
        elif isinstance(item, Gap):
            video.lose()
        elif isinstance(item, Packet):
            if item.flags & Flags.KEY:
                video.begin(now_ns)
            if not video.whole or len(video.unit) + len(item.payload) > FRAME_MAX:
                video.lose()
                return None
            video.unit += item.payload
            if item.flags & Flags.END:
                return self._unit(video)
        return None

    # Viewers end a session in which a frame has no bytes.
    def _unit(self, video: _Video) -> Part | None:
        """The access unit that is whole now."""
        unit, key, video.unit, video.key = video.unit, video.key, b"", False
        if not unit:
            video.lose()
            return None
        return Part(PartType.FRAME, EMPTY, unit, video.number, 0, VIDEO_KEY if key else 0)

    # -- where they lie --------------------------------------------------------------------------

    def told_anew(self) -> None:
        """The viewer begins anew, with no overlays."""
        self._lying = self._told = ()

    # A video that it was sent before may have another number now.
    def places(self, overlays: tuple[Overlay, ...] | None, size: Size) -> Part | None:
        """What to tell the viewer of these overlays of a picture that it is sent; None if it knows.

        With None it is sent frames alone: the overlays are those of the picture before.
        """
        self._lying = self._lying if overlays is None else overlays
        lying = tuple((one, self._videos[one.track].number) for one in self._lying if one.track in self._videos)
        if lying == self._told:
            return None
        self._told, whole = lying, Rect(0, 0, size.width, size.height)
        return Part(PartType.OVERLAYS, EMPTY, pack_overlays(_place(*one, whole) for one in lying))


def passable(overlays: Iterable[Overlay]) -> tuple[Overlay, ...]:
    """The overlays that viewers can draw: none if they are too many, too large, or in too many parts."""
    lying = tuple(one for one in overlays if placeable(one.at) and not one.rotation and not one.source.area)
    parts, scaled = sum(len(one.clip) or 1 for one in lying), sum(one.at.area for one in lying)
    if len(lying) > OVERLAYS_MAX or parts > PARTS_MAX or scaled > PLACE_PIXELS_MAX:
        return ()
    drawn = sum(part.area for one in lying for part in visible(one))
    return lying if drawn <= PLACE_PIXELS_MAX else ()


def _place(overlay: Overlay, number: int, whole: Rect) -> Place:
    parts = (rect.common(whole) for rect in visible(overlay))
    return Place(number, overlay.at, tuple(part for part in parts if part.area))
