"""A synthetic source of pictures in groups, and a sink that checks that it gets what a decoder needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from millrace.graph.packets import Publisher, Track
from millrace.graph.seat import Watcher
from millrace.media.format import AudioFormat, DataFormat, VideoFormat
from millrace.media.packet import (
    Cache,
    Demand,
    End,
    Flags,
    Gap,
    Item,
    KeyFrame,
    Kind,
    Packet,
    Parameters,
    Segment,
    TrackInfo,
    Upstream,
)
from millrace.rights.model import OWNER
from millrace.units import NS_PER_MS

WATCHER = Watcher("listener/1", OWNER)
PICTURES = TrackInfo("track/pictures", Kind.VIDEO, cache=Cache.GROUP)
THUMBNAILS = TrackInfo("track/thumbnails", Kind.VIDEO, role="thumbnail", cache=Cache.LAST)
SOUND = TrackInfo("track/sound", Kind.AUDIO)
CAPTIONS = TrackInfo("track/captions", Kind.TEXT, role="caption", cache=Cache.LAST)
FORMATS = {
    Kind.VIDEO: VideoFormat(640, 360, 30.0),
    Kind.TEXT: DataFormat("text/vtt"),
    Kind.AUDIO: AudioFormat(5, 48_000, ("mono",)),
}  # type: ignore[arg-type]
_UNIT = struct.Struct("<qqHH")
PICTURE_NS = 33 * NS_PER_MS
NONE = -1


@dataclass
class Source:
    """Makes access units, each of which names its reference. Records the demands and upstream events that it gets."""

    track: Track
    publisher: Publisher = field(init=False)
    number: int = 0
    generation: int = -1
    now_ns: int = 0
    unit: int = 0
    reference: int = NONE
    parts_open: int = 0
    demands: list[Demand] = field(default_factory=list)
    asked: list[tuple[Upstream, Watcher | None, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = self.track.publish(self)
        self.generation, self.number = self.publisher.next_generation - 1, self.publisher.next_number
        self.parameters()

    def demand(self, wanted: Demand) -> None:
        self.demands.append(wanted)

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        self.asked.append((event, who, self.now_ns))

    @property
    def keys_asked(self) -> list[int]:
        return [at for event, _, at in self.asked if isinstance(event, KeyFrame)]

    def parameters(self) -> None:
        self.generation += 1
        kind = self.track.info.kind
        self.publisher.push(Parameters(self.generation, "h264", FORMATS[kind], b"parameters"))
        self.reference = NONE

    def segment(self, rate: float = 1.0) -> None:
        self.publisher.push(Segment(rate, 0, self.now_ns))

    def picture(
        self,
        key: bool = False,
        disposable: bool = False,
        size: int = 1_000,
        parts: int = 1,
        lost: frozenset[int] = frozenset(),
    ) -> list[Packet]:
        """Make a picture; parts in `lost` are not pushed."""
        flags = Flags.DISPOSABLE if disposable and not key else Flags(0)
        needs = NONE if key else self.reference
        packets = []
        for part in range(parts):
            own = (
                flags | (Flags.KEY if key and part == 0 else Flags(0)) | (Flags.END if part == parts - 1 else Flags(0))
            )
            payload = _UNIT.pack(self.unit, needs, part, key) + bytes(size // parts)
            packet = Packet(
                self.number, self.generation, self.now_ns, self.now_ns, PICTURE_NS, self.now_ns, own, payload
            )
            self.number += 1
            if part not in lost:
                self.publisher.push(packet)
            packets.append(packet)
        if not flags:
            self.reference = self.unit
        self.unit += 1
        return packets

    def skip(self, count: int) -> None:
        """As if an earlier hop had dropped so many disposable packets, and announced the gap."""
        self.number += count
        self.publisher.push(Gap(count, self.now_ns))

    def group(self, deltas: int, size: int = 1_000) -> None:
        self.picture(key=True, size=size)
        for _ in range(deltas):
            self.tick()
            self.picture(size=size)

    def tick(self, ns: int = PICTURE_NS) -> None:
        self.now_ns += ns


@dataclass
class Decoder:
    """Takes items in order and asserts a track's invariants."""

    grouped: bool = True
    decoded: list[int] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    generation: int | None = None
    ended: bool = False
    segments: list[Segment] = field(default_factory=list)
    _gap: Gap | None = None
    _parts: list[tuple[int, int, int, int]] = field(default_factory=list)

    def begin(self, items: tuple[Item, ...]) -> None:
        for item in items:
            self.push(item)

    def push(self, item: Item) -> None:
        assert not self.ended, "something after the end"
        if isinstance(item, Packet):
            self._packet(item)
        elif isinstance(item, Gap):
            assert self._gap is None, "two gaps in a row"
            assert item.dropped > 0
            self._gap = item
            self.gaps.append(item)
        elif isinstance(item, Parameters):
            self.generation = item.generation
            self._parts = []
        elif isinstance(item, Segment):
            self.segments.append(item)
        else:
            self.ended = isinstance(item, End)

    def _packet(self, packet: Packet) -> None:
        assert packet.generation == self.generation, "a packet before its parameters"
        if self._gap is not None:
            assert self._gap.resume_ns == packet.pts_ns
        if self.packets:
            before, told = self.packets[-1], self._gap.dropped if self._gap else 0
            missing = packet.number - before.number - 1
            # What a source lost stays lost when another continues its numbers.
            assert missing == told or (missing < told and packet.generation != before.generation), "loss without a gap"
        unit, needs, part, key = _UNIT.unpack_from(packet.payload)
        if self._gap is not None or (self._parts and self._parts[-1][0] != unit):
            assert self._gap is not None or not self._parts, "an access unit without its end"
            self._parts = []
        self._gap = None
        self.packets.append(packet)
        assert part == len(self._parts), "an access unit without its beginning"
        self._parts.append((unit, needs, part, key))
        if packet.flags & Flags.END:
            self._parts = []
            if self.grouped:
                assert key or needs in self.decoded, f"unit {unit} needs {needs}"
            self.decoded.append(unit)
