"""The items that a packet port carries: packets, and what describes them, in one order.

A source emits `Item`s. Parameters, segments, gaps and ends are queued like packets, so they can't overtake packets or
be overtaken. In the other direction go `Demand`, which is state and is merged on its way, and events, which carry their
sender.
"""

from __future__ import annotations

from enum import Enum, IntFlag
from typing import Protocol, TypeAlias

import msgspec

from millrace.media.format import AudioFormat, DataFormat, VideoFormat
from millrace.pixels.rects import Point, Rect
from millrace.units import HostNs, MediaNs


class Flags(IntFlag):
    """Properties of a packet."""

    KEY = 1
    """The first part of an access unit that depends on no earlier one."""
    DISCONTINUITY = 2
    """The time line starts anew here."""
    DISPOSABLE = 4
    """No later access unit depends on it. Set on all parts of an access unit, or on none."""
    END = 8
    """The last part of its access unit (a picture, a caption, a stretch of sound)."""


WHOLE_KEY = Flags.KEY | Flags.END


class SideData(msgspec.Struct, frozen=True):
    """Data that travels with a packet outside its payload."""

    kind: str
    data: bytes


# One object is in the queues of all subscribers at the same time, so nothing of it may change after `push`. A hop that
# needs another region, time or framing makes a new packet with the same number: loss stays visible across hops.
class Packet(msgspec.Struct, frozen=True):
    """An access unit or part of one. The payload is shared by all receivers, and never modified."""

    number: int
    """Increases by one per packet of the track; assigned by its first source and kept by every hop."""
    generation: int
    """The generation of the Parameters that it needs."""
    pts_ns: MediaNs
    dts_ns: MediaNs
    duration_ns: int
    arrived_ns: HostNs
    flags: Flags
    payload: bytes
    region: Rect | None = None
    """The stripe or tile of the picture with this time that it contains."""
    side: tuple[SideData, ...] = ()

    @property
    def weight(self) -> int:
        """Bytes that it occupies in a queue."""
        weight = PACKET_BYTES + len(self.payload)
        return weight + sum(len(part.data) for part in self.side) if self.side else weight


PACKET_BYTES = 256
"""Overhead of a packet besides its payload."""


class Parameters(msgspec.Struct, frozen=True):
    """What is needed to decode the packets of a generation."""

    generation: int
    codec: str
    format: AudioFormat | VideoFormat | DataFormat
    extradata: bytes = b""
    framing: str = ""
    lookahead_ns: int = 0


class Segment(msgspec.Struct, frozen=True):
    """Maps the source's own time to media time. `rate` 0 is a pause; a seek is a new segment."""

    rate: float
    source_ns: int
    media_ns: MediaNs


class Gap(msgspec.Struct, frozen=True):
    """`dropped` packets are missing. What follows can be decoded without them, and begins at `resume_ns`."""

    dropped: int
    resume_ns: MediaNs


class End(msgspec.Struct, frozen=True):
    """The track has ended; nothing follows."""

    why: str


Item: TypeAlias = Packet | Parameters | Segment | Gap | End


class Kind(Enum):
    """The content of a track."""

    AUDIO = "audio"
    VIDEO = "video"
    TEXT = "text"
    DATA = "data"


class Cache(Enum):
    """How much of a track is kept for new subscribers."""

    GROUP = "group"
    """Everything since the last key packet, as long as that is short."""
    LAST = "last"
    """The last access unit."""
    NONE = "none"


class Hop(msgspec.Struct, frozen=True):
    """A host that a track passed through."""

    host: str
    delay_ns: int = 0


class TrackInfo(msgspec.Struct, frozen=True):
    """Description of a track. `role` is main, stem, caption, camera, thumbnail or the like."""

    key: str
    kind: Kind
    role: str = "main"
    language: str = ""
    cache: Cache = Cache.NONE
    hops: tuple[Hop, ...] = ()


# State and not events: a subscriber that joins late, or a source that is replaced, needs the current wishes and not
# their history.
class Demand(msgspec.Struct, frozen=True):
    """What one subscriber, or all of them merged, want from a source. None: no preference."""

    subscribers: int = 1
    """If there are none, the source may sleep."""
    bitrate_max: int | None = None
    latency_ns: int | None = None
    width_max: int | None = None
    fps_max: float | None = None
    drop_ratio: float = 0.0
    """The share of pictures that no subscriber can use."""
    played_ns: MediaNs | None = None
    """The media time that is being heard or seen by the holder of the keyboard."""


NO_DEMAND = Demand(subscribers=0)


class KeyFrame(msgspec.Struct, frozen=True):
    """A subscriber needs a key packet to continue."""


class Seek(msgspec.Struct, frozen=True):
    """Continue from `source_ns`, at `rate`."""

    source_ns: int
    rate: float = 1.0


class Navigation(msgspec.Struct, frozen=True):
    """A key press or pointer event for the media: menus, players in a page."""

    what: str
    at: Point | None = None
    code: int = 0
    down: bool = True


class Custom(msgspec.Struct, frozen=True):
    """Any other event, defined by the source."""

    name: str
    data: bytes = b""


Upstream: TypeAlias = KeyFrame | Seek | Navigation | Custom


class PacketSink(Protocol):
    """The receiver of a track: a subscriber's queue, a recorder, a protocol that passes it to a guest, a relay."""

    def begin(self, items: tuple[Item, ...]) -> None:
        """What a new subscriber starts from: parameters, the segment, the last group. May raise BudgetError."""
        ...

    def push(self, item: Item) -> None:
        """The next item. Must not block."""
        ...
