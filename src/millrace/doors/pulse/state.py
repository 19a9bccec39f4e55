"""The states of PulseAudio connections and of their streams, as values that others can continue from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

from millrace.budget import Account, size_of
from millrace.doors.frozen import read_frozen
from millrace.doors.pulse.attrs import PlaybackAttr, RecordAttr
from millrace.doors.pulse.meter import MeterState
from millrace.doors.pulse.queue import QueueState, capacity_for
from millrace.doors.pulse.rendered import Rendered
from millrace.doors.pulse.samples import Upload
from millrace.doors.pulse.subscriptions import SubscriptionState
from millrace.doors.resampled import ResampledState
from millrace.dsp.resumable import ResamplerState
from millrace.media.format import AudioFormat
from millrace.rights.grants import Subject
from millrace.units import Frames, HostNs
from millrace.wire.pulse.constants import NO_INDEX
from millrace.wire.pulse.session import PulseState
from millrace.wire.pulse.tagstruct import Props

Attr = TypeVar("Attr", PlaybackAttr, RecordAttr)
VERSION = 1
VERSIONS = range(max(1, VERSION - 1), VERSION + 1)
"""A connection continues from its own version and the one before. New fields have defaults."""
CLIENT_BYTES = {"itself": 10 * 1024, "paid props": 6 * 1024}
"""Memory of a connection, including its socket and the properties that clients usually set."""


def weigh_props(account: Account, props: Props) -> None:
    """Charge for properties beyond those paid with the connection, which let a client in a full guest name itself."""
    account.hold("props", max(0, size_of(props) - account.part("paid props")))


def weights(state: ClientState) -> dict[Hashable, int]:
    """What the connection holds from the start: itself, its properties and its uploads."""
    props = max(0, size_of(state.props) - CLIENT_BYTES["paid props"])
    held: dict[Hashable, int] = {"props": props}
    held.update(CLIENT_BYTES)
    return held | {("upload", channel): upload.weight for channel, upload in state.uploads.items()}


@dataclass(slots=True)
class StreamState(Generic[Attr]):
    """A stream in either direction."""

    channel: int
    format: AudioFormat
    attr: Attr
    props: Props
    _: KW_ONLY
    glide: bool = False
    """Whether its rate may change without a break."""
    corked: bool = False
    fail_on_suspend: bool = False


@dataclass(slots=True)
class PlaybackState(StreamState[PlaybackAttr]):
    """A playback stream between two events. `queue` and `resampled` are set when it is frozen."""

    queue: QueueState
    missing: int
    """Bytes to request from the client."""
    requested: int = 0
    """Bytes requested and not received."""
    sync_id: int = NO_INDEX
    synchronised: bool = False
    own_pin: str = ""
    """Why its node must not be moved, apart from being synchronised with others."""
    prebuffering: bool = True
    drain: int | None = None
    """The tag of the request to answer when everything has been played."""
    end_is_drain: bool = False
    """Whether running dry is its intended end."""
    goes_when_heard: bool = False
    """Whether the stream ends when all of it has been played."""
    underflow_told: bool = True
    waited_frames: Frames = 0
    """How long a late client has been waited for, at the graph's rate; see `GRACE_NS`."""
    missed_part: int = 0
    pulled_at: Frames = 0
    pulled_frames: Frames = 0
    """Frames pulled so far in the cycle at that position."""
    wrote_ns: HostNs = 0
    asked_ns: HostNs = 0
    """When the client was first asked since it last wrote."""
    every_ns: HostNs = 0
    paid_bytes: int = 0
    """The size of the queue that was paid for in advance."""
    rendered: Rendered = field(default_factory=Rendered)
    resampled: ResampledState = field(default_factory=ResampledState)


def new_playback(
    channel: int, fmt: AudioFormat, attr: PlaybackAttr, props: Props, glide: bool = False
) -> PlaybackState:
    """The state of a new stream, which lacks all of its buffer."""
    queue, paid = QueueState(attr.maxlength), capacity_for(attr.tlength)
    return PlaybackState(channel, fmt, attr, props, queue, attr.tlength, glide=glide, paid_bytes=paid)


@dataclass(slots=True)
class RecordState(StreamState[RecordAttr]):
    """A record stream between two cycles. `queue`, `applied`, `meter` and `resampler` are set when it is frozen."""

    gains: tuple[float, ...]
    mute: bool = False
    peaks: bool = False
    """Whether it is a peak meter."""
    low_delay: bool | None = None
    """Whether its resampler is the one with low delay; None if it has yet to be chosen."""
    keeps_awake: bool = True
    """Whether it keeps the graph running when nothing plays."""
    write_index: int = 0
    applied: tuple[float, ...] = ()
    """The gains of the last block, from which the next one ramps; empty before the first."""
    levelled: tuple[tuple[float, ...], bool] | None = None
    """The volume and mute that they came from."""
    queue: bytes = b""
    """Sound that was not sent."""
    meter: MeterState = field(default_factory=MeterState)
    resampler: ResamplerState = field(default_factory=ResamplerState)


def new_record(
    channel: int, fmt: AudioFormat, attr: RecordAttr, props: Props, peaks: bool = False, glide: bool = False
) -> RecordState:
    """The state of a new recorder, at full level."""
    return RecordState(channel, fmt, attr, props, (1.0,) * len(fmt.positions), peaks=peaks, glide=glide)


@dataclass(slots=True)
class ClientState:
    """A connection between two requests. The nodes of its streams belong to the graph.

    The guest assigns `index` once; it stays the same when the connection continues elsewhere. `received`, `playback`
    and `records` are set when it is frozen.
    """

    index: int
    """The daemon's number of it."""
    subject: Subject
    version: int = VERSION
    wire: PulseState = field(default_factory=PulseState)
    known: bool = False
    """Whether it has authenticated to this door."""
    ready: bool = False
    """Whether its login is complete."""
    client_index: int = NO_INDEX
    """Its index in the guest, from its login on. Before these were counted, programs were given `index`."""
    props: Props = field(default_factory=dict)
    subscribed: SubscriptionState = field(default_factory=SubscriptionState)
    extensions: set[str] = field(default_factory=set)
    """Modules to whose changes it has subscribed."""
    next_channel: int = 0
    next_asked: int = 1
    asked: dict[int, bytes] = field(default_factory=dict)
    """Requests that wait for a permission or, when it is frozen, for the disk, as on the wire. A connection that
    continues makes them again."""
    told_sinks: dict[int, int] = field(default_factory=dict)
    """The sink or source last reported to the client for each of its streams, by node."""
    uploads: dict[int, Upload] = field(default_factory=dict)
    received: bytes = b""
    """What has not been processed yet."""
    playback: dict[int, PlaybackState] = field(default_factory=dict)
    """Its playback streams, by node, in the order of their creation."""
    records: dict[int, RecordState] = field(default_factory=dict)


def read_client(data: bytes) -> ClientState:
    """The state of a connection from its encoding; ConfigError if that is damaged or of an unknown version."""
    return read_frozen(data, ClientState, VERSIONS, "connection")
