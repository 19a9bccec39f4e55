"""What a packet port carries: packets, and what is said about them, in one order.

A source gives `Item`s. Parameters, segments, gaps and ends are items in the queue like packets are, so none of them
can overtake or be overtaken. Upstream go `Demand`, which is state and merged on its way, and events, which bear who
sent them.
"""

from __future__ import annotations

from enum import Enum, IntFlag
from typing import Protocol, TypeAlias

import msgspec

from millrace.media.format import AudioFormat, DataFormat, VideoFormat
from millrace.pixels.rects import Point, Rect
from millrace.units import HostNs, MediaNs


class Flags(IntFlag):
    """What is special about a packet."""

    KEY = 1
    """The first part of an access unit that needs none before it."""
    DISCONTINUITY = 2
    """Times begin anew here."""
    DISPOSABLE = 4
    """None after it needs it: all parts of an access unit say so, or none."""
    END = 8
    """It is the last part of its access unit: of the picture, the caption, the stretch of sound."""


WHOLE_KEY = Flags.KEY | Flags.END


class SideData(msgspec.Struct, frozen=True):
    """What travels with a packet and is no part of its payload."""

    kind: str
    data: bytes


class Packet(msgspec.Struct, frozen=True):
    """An access unit, or a part of one. Its payload is shared by all that get it, and never changed."""

    number: int
    """One more for each packet of the track; given by its first source, and kept by every hop."""
    generation: int
    """Of the Parameters that it needs."""
    pts_ns: MediaNs
    dts_ns: MediaNs
    duration_ns: int
    arrived_ns: HostNs
    flags: Flags
    payload: bytes
    region: Rect | None = None
    """The stripe or tile that it is of the picture with this time."""
    side: tuple[SideData, ...] = ()

    @property
    def weight(self) -> int:
        """What it makes a queue hold, in bytes."""
        weight = PACKET_BYTES + len(self.payload)
        return weight + sum(len(part.data) for part in self.side) if self.side else weight


PACKET_BYTES = 256
"""What a packet takes besides its payload."""


class Parameters(msgspec.Struct, frozen=True):
    """What is needed to decode the packets of a generation."""

    generation: int
    codec: str
    format: AudioFormat | VideoFormat | DataFormat
    extradata: bytes = b""
    framing: str = ""
    lookahead_ns: int = 0


class Segment(msgspec.Struct, frozen=True):
    """The source's own time against media time. `rate` 0 is a pause; a seek is a new one."""

    rate: float
    source_ns: int
    media_ns: MediaNs


class Gap(msgspec.Struct, frozen=True):
    """So many packets are missing. What follows can be decoded without them, and begins at `resume_ns`."""

    dropped: int
    resume_ns: MediaNs


class End(msgspec.Struct, frozen=True):
    """The track has ended; nothing follows."""

    why: str


Item: TypeAlias = Packet | Parameters | Segment | Gap | End


class Kind(Enum):
    """What a track carries."""

    AUDIO = "audio"
    VIDEO = "video"
    TEXT = "text"
    DATA = "data"


class Cache(Enum):
    """What of a track is kept for those that join."""

    GROUP = "group"
    """All since the last key packet, as long as that is short."""
    LAST = "last"
    """The last access unit."""
    NONE = "none"


class Hop(msgspec.Struct, frozen=True):
    """A host that a track came by."""

    host: str
    delay_ns: int = 0


class TrackInfo(msgspec.Struct, frozen=True):
    """What a track is. `role` is main, stem, caption, camera, thumbnail and such."""

    key: str
    kind: Kind
    role: str = "main"
    language: str = ""
    cache: Cache = Cache.NONE
    hops: tuple[Hop, ...] = ()


class Demand(msgspec.Struct, frozen=True):
    """What is wanted of a source: of one subscriber, or of all, merged. None: they do not mind."""

    subscribers: int = 1
    """With none the source may sleep."""
    bitrate_max: int | None = None
    latency_ns: int | None = None
    width_max: int | None = None
    fps_max: float | None = None
    drop_ratio: float = 0.0
    """What share of the pictures nobody can use."""
    played_ns: MediaNs | None = None
    """What is heard or seen where the keyboard is."""


NO_DEMAND = Demand(subscribers=0)


class KeyFrame(msgspec.Struct, frozen=True):
    """A subscriber needs a key packet to go on."""


class Seek(msgspec.Struct, frozen=True):
    """Go on from `source_ns`, at `rate`."""

    source_ns: int
    rate: float = 1.0


class Navigation(msgspec.Struct, frozen=True):
    """A key or a pointer for what plays: menus, players in a page."""

    what: str
    at: Point | None = None
    code: int = 0
    down: bool = True


class Custom(msgspec.Struct, frozen=True):
    """Anything else, in the source's own words."""

    name: str
    data: bytes = b""


Upstream: TypeAlias = KeyFrame | Seek | Navigation | Custom


class PacketSink(Protocol):
    """Gets a track: a subscriber's queue, a recorder, a door that gives it to a guest, a relay."""

    def begin(self, items: tuple[Item, ...]) -> None:
        """What a newcomer needs to go on from: parameters, the segment, the last group; or BudgetError."""
        ...

    def push(self, item: Item) -> None:
        """The next item. It never blocks."""
        ...
