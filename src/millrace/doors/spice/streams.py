"""Video streams of a SPICE server: MJPEG is decoded into the screen, VP8 passes through undecoded as a track.

A track's place is an overlay of the screen. While some viewer can't compose it, its pictures are decoded into the
screen as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from millrace.budget import Account
from millrace.codec.video import PictureDecoder, Pixels, vp8_key
from millrace.doors.spice.canvas import Canvas, Steps
from millrace.errors import CodecError, RemoteProtocolError
from millrace.graph.packets import Publisher, Track
from millrace.graph.pictures import Overlay
from millrace.graph.seat import Watcher
from millrace.media.format import VideoFormat
from millrace.media.packet import Demand, End, Flags, Packet, Parameters, Upstream
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.spice.display import MJPEG, VP8, ReportWanted, StreamCreate, StreamData, StreamReport

STREAMS_MAX = 256
DECODED_PIXELS_MAX = 2560 * 1600
"""Larger video is not decoded here: that would take longer than a cycle of sound."""
PASSED_SIDE_MIN = 64
"""A smaller stream is decoded: QEMU makes one of each column of 32 pixels, if it is told to make video of them."""
UNDECODED_BYTES = 4 * 1024 * 1024
"""Video since its last key frame that is kept, in case it must be decoded; beyond that, the next key is waited for."""
DECODE_COST = 1024 * 1024
"""What decoding a picture is counted as, in pixels that could be copied."""
STREAM_BYTES, RECT_BYTES, DECODER_BYTES = 4096, 160, 8
"""What a stream takes, a rectangle of its clip, and its decoder for each pixel: VP8 keeps four pictures."""
CATCH_UP = 6
"""Pictures decoded for each that arrives, until the newest is reached."""
JUMP_NS: HostNs = 1_000 * NS_PER_MS
"""A stamp that is off by more starts the mapping of times anew."""
HEADROOM_MS = 400
"""A server stamps pictures with the time at which they are made, and expects them to be shown this much later."""
_MODULO = 1 << 32
NewTrack = Callable[[], Track]


# The stamp's clock is the server's, and has another origin. The least delay that was seen is taken for the path's, so
# what varies above it (a queue, a stall) does not shift the picture against the sound.
class StampMap:
    """Maps a server's stamps (ms, modulo 2^32) to host time: arrival, less what the picture waited on its way."""

    def __init__(self) -> None:
        self._ms: int | None = None
        self._offset_ns: HostNs = 0
        self._newest_ns: HostNs = 0

    def host_ns(self, stamp_ms: int, arrived_ns: HostNs) -> HostNs:
        """The host time of a picture. It never goes back."""
        ahead = 0 if self._ms is None else (stamp_ms - self._ms + _MODULO // 2) % _MODULO - _MODULO // 2
        self._ms = (0 if self._ms is None else self._ms) + ahead if self._ms is not None else stamp_ms
        offset_ns = arrived_ns - self._ms * NS_PER_MS
        if not self._newest_ns or abs(offset_ns - self._offset_ns) > JUMP_NS:
            self._offset_ns = offset_ns
        self._offset_ns = min(self._offset_ns, offset_ns)
        self._newest_ns = max(self._newest_ns, self._ms * NS_PER_MS + self._offset_ns)
        return self._newest_ns


@dataclass(slots=True)
class Reports:
    """Counts a stream's pictures for the reports that the server has asked for."""

    wanted: ReportWanted
    first_ms: int = 0
    pictures: int = 0
    since_ns: HostNs = 0

    def took(self, stamp_ms: int, late_ns: HostNs, now_ns: HostNs) -> StreamReport | None:
        """A picture came, so much later than the fastest; returns a report if one is due."""
        if not self.pictures:
            self.first_ms, self.since_ns = stamp_ms, now_ns
        self.pictures += 1
        if self.pictures < self.wanted.pictures and now_ns - self.since_ns < self.wanted.timeout_ms * NS_PER_MS:
            return None
        pictures, self.pictures = self.pictures, 0
        delay_ms = max(-(1 << 31), HEADROOM_MS - late_ns // NS_PER_MS)
        return StreamReport(self.wanted.stream, self.wanted.unique, self.first_ms, stamp_ms, pictures, 0, delay_ms)


@dataclass(slots=True)
class Stream:
    """One stream: where it is, and what it is decoded or published with."""

    made: StreamCreate
    at: Rect
    parts: tuple[Rect, ...]
    decoder: PictureDecoder | None = None
    """Made for the first picture that is decoded: most that pass through never are."""
    stamps: StampMap = field(default_factory=StampMap)
    reports: Reports | None = None
    passed: Passed | None = None

    @property
    def pixels_max(self) -> int:
        """The most pixels of a picture that is decoded."""
        return min(self.made.width * self.made.height, DECODED_PIXELS_MAX)

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        passed = 0 if self.passed is None else self.passed.undecoded_bytes
        decoder = 0 if self.decoder is None else self.pixels_max * DECODER_BYTES
        return STREAM_BYTES + RECT_BYTES * len(self.parts) + passed + decoder


# A decoder needs every frame since the last key, and SPICE has no way to ask for a key. So what was not decoded is
# kept, until the next key makes it worthless. When somebody begins to need the picture, the decoder catches up a few
# frames at a time.
class Passed:
    """A stream that passes through: its track, and its undecoded frames since the last key."""

    def __init__(self, track: Track, width: int, height: int) -> None:
        self.track = track
        self.painted = False
        self._publisher: Publisher = track.publish(self)
        self._generation = self._publisher.next_generation
        self._undecoded: deque[bytes] = deque()
        self._whole = False
        self._publisher.push(Parameters(self._generation, "vp8", VideoFormat(width, height)))

    def demand(self, wanted: Demand) -> None:
        """See `PacketSource`: the server adapts to its own line only."""

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        """See `PacketSource`: SPICE has no message that asks for a key frame; VP8 streams repeat theirs."""

    @property
    def undecoded_bytes(self) -> int:
        """What is kept for the decoder."""
        return sum(map(len, self._undecoded))

    def push(self, payload: bytes, pts_ns: HostNs, arrived_ns: HostNs) -> None:
        """Publish a frame, and keep it."""
        key = vp8_key(payload)
        flags = Flags.END | (Flags.KEY if key else Flags(0))
        number = self._publisher.next_number
        self._publisher.push(Packet(number, self._generation, pts_ns, pts_ns, 0, arrived_ns, flags, payload))
        if key:
            self._undecoded.clear()
            self._whole = True
        if self._whole:
            self._undecoded.append(payload)
        if self.undecoded_bytes > UNDECODED_BYTES:
            self._undecoded.clear()
            self._whole = False

    def newest(self, decoder: PictureDecoder) -> Pixels | None:
        """Decode the next frames; the picture of the newest one, once it is reached."""
        pixels = None
        for _ in range(min(CATCH_UP, len(self._undecoded))):
            try:
                pixels = decoder.decode(self._undecoded.popleft())
            except CodecError:
                self._undecoded.clear()
                self._whole = False
                raise
        return None if self._undecoded else pixels

    def end(self) -> None:
        """The stream is over."""
        self._publisher.push(End("the stream has ended"))


def _worth_a_track(made: StreamCreate) -> bool:
    """Whether a viewer can compose a stream, and would rather than have it in the screen."""
    # A picture stored from the bottom up would be upside down there.
    return made.surface == 0 and made.top_down and min(made.width, made.height) >= PASSED_SIDE_MIN


class Streams:
    """The streams of one display channel. `new_track` is None if nobody takes tracks: then all is decoded."""

    def __init__(
        self, canvas: Canvas, account: Account, new_track: NewTrack | None, report: Callable[[StreamReport], None]
    ) -> None:
        self._canvas, self._account, self._new_track, self._report = canvas, account, new_track, report
        self._streams: dict[int, Stream] = {}
        self._painted: frozenset[str] = frozenset()

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The tracks that pass through."""
        return tuple(stream.passed.track for stream in self._streams.values() if stream.passed is not None)

    @property
    def overlays(self) -> tuple[Overlay, ...]:
        """Where the tracks are to be shown."""
        return tuple(
            Overlay(stream.passed.track.info.key, stream.at, () if stream.parts == (stream.at,) else stream.parts)
            for stream in self._streams.values()
            if stream.passed is not None and stream.parts
        )

    def paint(self, tracks: frozenset[str]) -> None:
        """These tracks must be decoded into the screen, from their next pictures on."""
        self._painted = tracks

    def create(self, made: StreamCreate) -> None:
        """A stream begins."""
        if len(self._streams) >= STREAMS_MAX:
            raise RemoteProtocolError(f"more than {STREAMS_MAX} SPICE streams")
        if made.codec not in (MJPEG, VP8):
            raise RemoteProtocolError(f"unsupported SPICE video: codec {made.codec}")
        self.destroy(made.stream)
        stream = Stream(made, made.at, made.parts)
        if made.codec == VP8 and _worth_a_track(made) and self._new_track is not None:
            stream.passed = Passed(self._new_track(), made.width, made.height)
        self._streams[made.stream] = stream
        self._charge()

    def wanted(self, wanted: ReportWanted) -> None:
        """The server wants reports on a stream."""
        if (stream := self._streams.get(wanted.stream)) is not None:
            stream.reports = Reports(wanted)

    def clip(self, number: int, clip: Iterable[Rect] | None) -> None:
        """Only a part of a stream is to be drawn."""
        if (stream := self._streams.get(number)) is not None:
            known = (stream.at,) if clip is None else clip
            stream.parts = tuple(part for rect in known if (part := rect.common(stream.at)).area)
            self._charge()

    def destroy(self, number: int | None) -> None:
        """A stream is over; None: all are."""
        for key in [key for key in self._streams if number in (None, key)]:
            passed = self._streams.pop(key).passed
            if passed is not None:
                passed.end()
        self._charge()

    def _charge(self, more: int = 0) -> None:
        self._account.hold("video", sum(stream.bytes for stream in self._streams.values()) + more)

    def data(self, data: StreamData, now_ns: HostNs) -> Steps:
        """A picture of a stream came: draw it; returns what changed on the screen's surface."""
        stream = self._streams.get(data.stream)
        if stream is None:
            return []
        pts_ns = stream.stamps.host_ns(data.mm_time, now_ns)
        if stream.reports is not None:
            report = stream.reports.took(data.mm_time, now_ns - pts_ns, now_ns)
            if report is not None:
                self._report(report)
        pixels = self._pixels(stream, data, pts_ns, now_ns)
        yield DECODE_COST
        if pixels is None:
            return []
        shown = pixels if stream.made.top_down else pixels[::-1]
        # A picture with a size of its own has its own place too.
        at = stream.at if data.at is None else data.at
        parts = stream.parts if data.at is None else (data.at,)
        changed = yield from self._canvas.showing(shown, stream.made.surface, at, parts)
        return changed if stream.made.surface == 0 else []

    def _pixels(self, stream: Stream, data: StreamData, pts_ns: HostNs, now_ns: HostNs) -> Pixels | None:
        passed = stream.passed
        try:
            if passed is None:
                return self._decoder(stream).decode(data.data)
            passed.push(data.data, pts_ns, now_ns)
            self._charge()
            return passed.newest(self._decoder(stream)) if passed.track.info.key in self._painted else None
        except CodecError as error:
            raise RemoteProtocolError(f"SPICE video can't be decoded: {error}") from None

    def _decoder(self, stream: Stream) -> PictureDecoder:
        """A stream's decoder; BudgetError if there is no room for one."""
        if stream.decoder is None:
            self._charge(stream.pixels_max * DECODER_BYTES)
            stream.decoder = PictureDecoder("vp8" if stream.made.codec == VP8 else "jpeg", stream.pixels_max)
        return stream.decoder
