"""Video streams of a SPICE server: MJPEG is decoded into the screen, VP8 passes through undecoded as a track.

A track's place is an overlay of the screen. While some viewer can't compose it, its pictures are decoded into the
screen as well. What has no room in the guest's memory is not shown, and the rest of the screen is: `Streams.trouble`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field

from millrace.budget import MACHINES, Account
from millrace.codec.video import PictureDecoder, Pixels, vp8_key, vp8_size
from millrace.doors.spice.canvas import Canvas, Steps
from millrace.doors.spice.stamps import StampMap
from millrace.errors import CodecError, GraphError, RemoteProtocolError
from millrace.graph.packets import Publisher, Track
from millrace.graph.pictures import Overlay
from millrace.graph.seat import Watcher
from millrace.media.format import VideoFormat
from millrace.media.packet import Demand, End, Flags, Packet, Parameters, Upstream
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.spice.display import MJPEG, VP8, ReportWanted, StreamCreate, StreamData, StreamReport
from millrace.wire.spice.draws import Clip

STREAMS_MAX = 256
DECODED_PIXELS_MAX = 2560 * 1600
"""Larger video is not decoded here: that would take longer than a cycle of sound."""
PASSED_SIDE_MIN = 64
"""A smaller stream is decoded: QEMU makes one of each column of 32 pixels, if it is told to make video of them."""
PASSED_PARTS_MAX = 64
"""A stream of which more parts are to be seen is decoded: whoever draws the screen's overlays looks at each of them."""
RECT_SIZE = 16
"""Bytes of one of a clip's rectangles, as it comes."""
UNDECODED_BYTES, FRAME_BYTES = 4 * 1024 * 1024, 64
"""Video since its last key frame that is kept, in case it must be decoded, and what each frame counts besides its
bytes; beyond that, the next key is waited for."""
DECODE_COST, DECODE_PIXEL_COST = 1024 * 1024, 3
"""What decoding a picture is counted as at least, and for each of its pixels, in pixels that could be copied."""
STREAM_BYTES, RECT_BYTES, DECODER_BYTES = 4096, 160, 8
"""What a stream takes, a rectangle of its clip, and its decoder for each pixel: VP8 keeps four pictures."""
SENT_AT_ONCE, SENT_COST = 4, 1024 * 1024
"""A frame is given to so many viewers at a time, which counts as so many pixels: one that is behind drops others."""
WAITING_BYTES = 1024
"""What a stream takes that waits for room."""
CATCH_UP = 6
"""Pictures decoded for each that arrives, until the newest is reached."""
HEADROOM_MS = 400
"""A server stamps pictures with the time at which they are made, and expects them to be shown this much later."""
NewTrack = Callable[[], Track]


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
    clip: Clip
    parts: tuple[Rect, ...] = ()
    """What is to be drawn of `at`."""
    pixels: int = 0
    """Of its largest picture."""
    decoder: PictureDecoder | None = None
    """There while its pictures are decoded."""
    stamps: StampMap = field(default_factory=StampMap)
    reports: Reports | None = None
    passed: Passed | None = None

    def lie(self, at: Rect, clip: Clip) -> None:
        """It is shown there from now on; RemoteProtocolError if that can't be."""
        self.parts = clip.within(at)
        self.at, self.clip = at, clip

    @property
    def overlaid(self) -> bool:
        """Whether viewers may draw it."""
        return self.passed is not None and len(self.parts) <= PASSED_PARTS_MAX

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        passed = 0 if self.passed is None else self.passed.undecoded_bytes
        decoder = 0 if self.decoder is None else self.pixels * DECODER_BYTES
        return STREAM_BYTES + RECT_BYTES * len(self.parts) + len(self.clip.rects or b"") + passed + decoder


# A decoder needs every frame since the last key, and SPICE has no way to ask for a key. So what was not decoded is
# kept, until the next key makes it worthless. When somebody begins to need the picture, the decoder catches up a few
# frames at a time.
class Passed:
    """A stream that passes through: its track, and its undecoded frames since the last key."""

    def __init__(self, track: Track, width: int, height: int) -> None:
        self.track = track
        self.undecoded_bytes = 0
        """What is kept for the decoder."""
        self._publisher: Publisher = track.publish(self)
        self._generation = self._publisher.next_generation
        self._undecoded: deque[bytes] = deque()
        self._whole = False
        self._publisher.push(Parameters(self._generation, "vp8", VideoFormat(width, height)))

    def demand(self, wanted: Demand) -> None:
        """See `PacketSource`: the server adapts to its own line only."""

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        """See `PacketSource`: SPICE has no message that asks for a key frame; VP8 streams repeat theirs."""

    def push(self, payload: bytes, pts_ns: HostNs, arrived_ns: HostNs) -> Generator[int, None, bool]:
        """Publish a frame, and keep it; returns whether it is a key frame. CodecError if it can be none."""
        if not payload:
            raise CodecError("an empty vp8 picture")
        key = vp8_key(payload)
        if key:
            vp8_size(payload)
        flags = Flags.END | (Flags.KEY if key else Flags(0))
        number = self._publisher.next_number
        packet = Packet(number, self._generation, pts_ns, pts_ns, 0, arrived_ns, flags, payload)
        for _ in self._publisher.push_in_steps(packet, SENT_AT_ONCE):
            yield SENT_COST
        if key:
            self.forget()
            self._whole = True
        if self._whole:
            self._undecoded.append(payload)
            self.undecoded_bytes += FRAME_BYTES + len(payload)
        if self.undecoded_bytes > UNDECODED_BYTES:
            self.forget()
        return key

    def take(self) -> bytes | None:
        """The next frame to decode; None if there is none."""
        if not self._undecoded:
            return None
        frame = self._undecoded.popleft()
        self.undecoded_bytes -= FRAME_BYTES + len(frame)
        return frame

    def forget(self) -> None:
        """Keep nothing until the next key."""
        self._undecoded.clear()
        self.undecoded_bytes, self._whole = 0, False

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
        self._ending: deque[Passed] = deque()
        """Streams that are over, whose tracks are still to be ended."""
        self._painted: frozenset[str] = frozenset()
        self._waiting: dict[int, Stream] = {}
        """Those for which there is no room yet."""
        self._unseen: dict[int, str] = {}
        """Why streams are not shown, by number."""
        self._lain: tuple[int, int, tuple[Overlay, ...]] | None = None
        """The overlays, as they were asked for last; None if they have changed since."""

    @property
    def trouble(self) -> str:
        """Why a stream is not shown; empty if all are."""
        return next(iter(self._unseen.values()), "")

    # Whoever has the same overlays as before is given the same value: to compare two costs nothing then.
    def overlays(self, dx: int, dy: int) -> tuple[Overlay, ...]:
        """Where the tracks are to be shown on a screen that begins elsewhere, by so much, than the surface."""
        if self._lain is None or self._lain[:2] != (dx, dy):
            lying = [stream for stream in self._streams.values() if stream.overlaid and stream.parts]
            self._lain = dx, dy, tuple(_overlay(stream, dx, dy) for stream in lying)
        return self._lain[2]

    def paint(self, tracks: frozenset[str]) -> None:
        """These tracks must be decoded into the screen, from their next pictures on."""
        self._painted = tracks

    def create(self, made: StreamCreate) -> None:
        """A stream begins."""
        if made.codec not in (MJPEG, VP8):
            raise RemoteProtocolError(f"unsupported SPICE video: codec {made.codec}")
        self.destroy(made.stream)
        self._end()
        if len(self._streams.keys() | self._unseen.keys()) >= STREAMS_MAX:
            raise RemoteProtocolError(f"more than {STREAMS_MAX} SPICE streams")
        self._begin(Stream(made, made.at, made.clip, pixels=made.width * made.height))

    def _begin(self, stream: Stream) -> None:
        made = stream.made
        stream.lie(stream.at, stream.clip)
        self._streams[made.stream] = stream
        self._lain = None
        if not self._has_room():
            self._wait(stream)
        elif made.codec == VP8 and _worth_a_track(made):
            stream.passed = self._passed(made)

    # The server tells of a stream once, so it is kept, with the room that a machine has beyond the guest's programs.
    def _wait(self, stream: Stream) -> None:
        """There is no room for a stream: leave it out until there is."""
        number = stream.made.stream
        self.destroy(number)
        stream.passed = stream.decoder = None
        stream.parts = ()
        self._lacks_room(stream.made)
        self._waiting[number] = stream
        self._hold_waiting(number)

    def _hold_waiting(self, number: int = -1) -> None:
        """One of those that wait has changed, or some are gone."""
        needed = sum(WAITING_BYTES + len(stream.clip.rects or b"") for stream in self._waiting.values())
        if not self._account.fits("waiting", needed, MACHINES):
            # It is not shown, even if there is room one day.
            self._waiting.pop(number, None)

    def _come(self, data: StreamData) -> Stream | None:
        """The stream that a picture is for, begun if it has waited and there is room: VP8 with a key frame."""
        number = data.stream
        stream = self._waiting.get(number)
        if stream is not None and (stream.made.codec != VP8 or (data.data and vp8_key(data.data))):
            rects = len(stream.clip.rects or b"")
            needed = STREAM_BYTES + rects + RECT_BYTES * max(1, rects // RECT_SIZE)
            if self._account.is_free("video", self._account.part("video") + needed):
                del self._waiting[number]
                self._begin(stream)
                self._hold_waiting(number)
        return self._streams.get(number)

    def _passed(self, made: StreamCreate) -> Passed | None:
        """Its track; None if there can be none: then it is decoded."""
        try:
            return None if self._new_track is None else Passed(self._new_track(), made.width, made.height)
        except GraphError:
            return None

    def wanted(self, wanted: ReportWanted) -> None:
        """The server wants reports on a stream."""
        if (stream := self._streams.get(wanted.stream) or self._waiting.get(wanted.stream)) is not None:
            stream.reports = Reports(wanted)

    def clip(self, number: int, clip: Clip) -> None:
        """Only a part of a stream is to be drawn."""
        if (stream := self._streams.get(number)) is not None:
            self._lie(stream, stream.at, clip)
        elif (stream := self._waiting.get(number)) is not None:
            stream.clip = clip
            self._hold_waiting(number)

    def _lie(self, stream: Stream, at: Rect, clip: Clip) -> None:
        stream.lie(at, clip)
        self._lain = None
        if not self._has_room():
            self._wait(stream)

    def close(self) -> None:
        """All streams are over, and their tracks end at once."""
        self.destroy(None)
        self._end()

    def _end(self) -> None:
        for _ in self.ends():
            pass

    def ends(self) -> Iterator[int]:
        """End the tracks of those that are over: each of their viewers is told."""
        while self._ending:
            self._ending.popleft().end()
            yield SENT_COST

    def destroy(self, number: int | None) -> None:
        """A stream is over; None: all are. `ends` ends their tracks."""
        for key in [key for key in self._streams if number in (None, key)]:
            passed = self._streams.pop(key).passed
            if passed is not None:
                self._ending.append(passed)
        self._waiting = {key: stream for key, stream in self._waiting.items() if number not in (None, key)}
        self._unseen = {key: why for key, why in self._unseen.items() if number not in (None, key)}
        self._lain = None
        self._has_room()
        self._hold_waiting()

    def leave(self, surface: int) -> None:
        """A surface is gone, and with it the streams on it."""
        for key, stream in [*self._streams.items(), *self._waiting.items()]:
            if stream.made.surface == surface:
                self.destroy(key)

    # -- memory ----------------------------------------------------------------------------------

    def _has_room(self, more: int = 0) -> bool:
        """Hold what the streams take, and so many bytes; False, having changed nothing, if there is no room for it."""
        return self._account.fits("video", sum(stream.bytes for stream in self._streams.values()) + more)

    def _may_decode(self, stream: Stream) -> bool:
        """Whether there is room for its decoder. It is demanded once; while there was none, this is only asked."""
        more = stream.pixels * DECODER_BYTES
        free = self._account.is_free("video", self._account.part("video") + more)
        return (free or stream.made.stream not in self._unseen) and self._has_room(more)

    def _lacks_room(self, made: StreamCreate) -> None:
        why = f"no room in the guest's memory for a video of {made.width} × {made.height}"
        self._unseen[made.stream] = f"{why}: close some of its streams or connections, or raise its `memory`"

    # -- pictures --------------------------------------------------------------------------------

    def data(self, data: StreamData, now_ns: HostNs) -> Steps:
        """A picture of a stream came: draw it; returns what changed on the screen's surface."""
        stream = self._come(data)
        if stream is None:
            return []
        pts_ns = stream.stamps.host_ns(data.mm_time, now_ns)
        if stream.reports is not None:
            report = stream.reports.took(data.mm_time, now_ns - pts_ns, now_ns)
            if report is not None:
                self._report(report)
        self._size(stream, data)
        pixels = (yield from self._pixels(stream, data, pts_ns, now_ns)) if data.stream in self._streams else None
        if pixels is None:
            return []
        shown = pixels if stream.made.top_down else pixels[::-1]
        changed = yield from self._canvas.showing(shown, stream.made.surface, stream.at, stream.parts)
        return changed if stream.made.surface == 0 else []

    # A picture with a size of its own has its own place too, in the screen and over it: the track's frames have none.
    def _size(self, stream: Stream, data: StreamData) -> None:
        at = stream.made.at if data.at is None else data.at
        if at != stream.at:
            self._lie(stream, at, stream.clip)
        if data.width * data.height > stream.pixels:
            stream.pixels = data.width * data.height
            if not self._has_room():
                stream.decoder = None

    def _pixels(
        self, stream: Stream, data: StreamData, pts_ns: HostNs, now_ns: HostNs
    ) -> Generator[int, None, Pixels | None]:
        passed = stream.passed
        try:
            if passed is None and self._goes_on(stream, data.data):
                return (yield from self._decoded(stream, [data.data]))
            if passed is None:
                yield DECODE_COST
                return None
            key = yield from passed.push(data.data, pts_ns, now_ns)
            if key and not self._paints(stream):
                stream.decoder = None
            if not self._has_room():
                passed.forget()
                self._has_room()
            if not self._paints(stream):
                self._unseen.pop(data.stream, None)
                yield DECODE_COST
                return None
            pixels = yield from self._decoded(stream, (frame for _ in range(CATCH_UP) if (frame := passed.take())))
            return None if passed.undecoded_bytes else pixels
        except CodecError as error:
            raise RemoteProtocolError(f"SPICE video can't be decoded: {error}") from None

    def _goes_on(self, stream: Stream, frame: bytes) -> bool:
        """Whether a decoder can take this frame: one that had no room before begins with a key."""
        return stream.made.stream not in self._unseen or stream.made.codec != VP8 or vp8_key(frame)

    def _paints(self, stream: Stream) -> bool:
        """Whether a stream that passes through is decoded into the screen."""
        assert stream.passed is not None
        return stream.passed.track.info.key in self._painted or not stream.overlaid

    def _decoded(self, stream: Stream, frames: Iterable[bytes]) -> Generator[int, None, Pixels | None]:
        """Decode these pictures one by one; the newest that is to be shown, if any is."""
        pixels: Pixels | None = None
        if not self._decodes(stream):
            yield DECODE_COST
            return None
        for frame in frames:
            assert stream.decoder is not None
            made = stream.decoder.decode(frame)
            pixels = pixels if made is None else made
            yield max(DECODE_COST, DECODE_PIXEL_COST * stream.pixels)
        self._has_room()
        return pixels

    def _decodes(self, stream: Stream) -> bool:
        """Whether a stream has a decoder now that takes its pictures: one may be too large, or have no room."""
        made, number = stream.made, stream.made.stream
        if stream.pixels > DECODED_PIXELS_MAX:
            stream.decoder = None
            self._unseen[number] = f"a video of {stream.pixels} pixels is not decoded: {DECODED_PIXELS_MAX} at most"
            return False
        if stream.decoder is None:
            if not self._may_decode(stream):
                self._lacks_room(made)
                return False
            stream.decoder = PictureDecoder("vp8" if made.codec == VP8 else "jpeg", stream.pixels)
        stream.decoder.pixels_max = stream.pixels
        self._unseen.pop(number, None)
        return True


def _overlay(stream: Stream, dx: int, dy: int) -> Overlay:
    """A stream that passes through, on a screen that begins elsewhere."""
    assert stream.passed is not None
    clip = () if stream.parts == (stream.at,) else tuple(part.moved(dx, dy) for part in stream.parts)
    return Overlay(stream.passed.track.info.key, stream.at.moved(dx, dy), clip)
