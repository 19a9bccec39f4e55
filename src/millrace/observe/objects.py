"""The public form of each object, in `millrace ls`, the API and change notifications. The API schema is built from it.

Fields that only some objects have are UNSET in the others, and omitted there. Types that may have thousands of
instances are `gc=False`: they are values, and never part of a reference cycle.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from millrace.codec.settings import CodecSettings
from millrace.guest.home import MachineView


class SinkView(msgspec.Struct, frozen=True, gc=False):
    """A sink or a source. `volume` is in percent: a single number if all channels have the same."""

    id: str
    name: str
    aliases: list[str]
    description: str
    state: str
    default: bool
    channels: int
    rate: int
    peak: float
    rms: float
    linked_to: list[str]
    volume: int | list[int]
    mute: bool


class RememberedView(msgspec.Struct, frozen=True, gc=False):
    """The key under which a session manager remembers a stream, and what is remembered there."""

    key: str
    levels: list[int] = []
    mute: bool | None = None
    sink: str | None = None


class StreamView(msgspec.Struct, gc=False):
    """A stream. Fields from `door` on come from its door, those from `margin_ms` on only if its clock is tracked."""

    id: str
    name: str
    state: str
    sink: str
    linked_to: list[str]
    application: str
    role: str
    map: str
    levels: list[int]
    remembered: RememberedView
    chosen: list[str]
    placed: bool
    ducked_db: float
    underruns: int
    ahead_ms: float
    volume: int | list[int]
    mute: bool
    door: str | UnsetType = UNSET
    format: str | UnsetType = UNSET
    rate: int | UnsetType = UNSET
    channels: int | UnsetType = UNSET
    corked: bool | UnsetType = UNSET
    fill_ms: float | UnsetType = UNSET
    resampler: str | UnsetType | None = UNSET
    margin_ms: float | UnsetType = UNSET
    latency_ms: float | UnsetType = UNSET
    bridged: int | UnsetType = UNSET
    skipped: int | UnsetType = UNSET
    guest_volume: list[float] | UnsetType = UNSET
    frames: int | UnsetType = UNSET
    real_time_percent: float | UnsetType | None = UNSET
    drift_ppm: float | UnsetType | None = UNSET


class MicrophoneView(msgspec.Struct, frozen=True, gc=False):
    """A listener's microphone; all fields but the state exist only while it is sending."""

    state: str
    stream: str | UnsetType = UNSET
    fill_ms: float | UnsetType = UNSET
    target_ms: float | UnsetType = UNSET
    underruns: int | UnsetType = UNSET
    bridged: int | UnsetType = UNSET
    lost: int | UnsetType = UNSET
    skipped: int | UnsetType = UNSET
    splices: int | UnsetType = UNSET


class ListenerView(msgspec.Struct, frozen=True, gc=False):
    """A listener."""

    id: str
    name: str
    address: str
    by: str
    sink: str | None
    settings: CodecSettings
    latency_profile: str
    microphone: MicrophoneView
    bitrate: int
    latency_ms: float | None
    fill_ms: float
    ledger_ms: dict[str, float]
    target_ms: float
    drift_ppm: float
    locked: bool
    underruns: int
    bridged: int
    lost: int
    skipped: int
    loss_percent: int
    output: str
    sent_packets: int
    dropped_packets: int
    queued: int
    rtt_ms: float | None


class RecorderView(msgspec.Struct, frozen=True):
    """A program that records."""

    id: str
    name: str
    sink: str | None
    running: bool
    application: str


class ScreenView(msgspec.Struct, frozen=True):
    """A screen, without a size before its first picture. `fps` are pictures painted a second, `damage` pixels."""

    id: str
    name: str
    door: str
    width: int
    height: int
    state: str
    viewers: int
    keyboard: str | None
    fps: float
    damage: int


class ViewerView(msgspec.Struct, frozen=True, gc=False):
    """A viewer of a screen. Times and rates are of the last pictures; null until they are known.

    `ledger_ms` are the parts of `latency_ms`: door, damage (until the encoder begins), encode, queue (for a thread and
    the socket), network, decode, sound (until that is heard), draw. `skew_ms` is how much later the picture is seen
    than its sound is heard. `skipped` counts pictures painted that it was not sent, because a newer one took their
    place, and `skipped_fps` those of the last second; `fps` are those that it was sent. `sent` counts also
    what sharpens a picture, or brings a viewer what it lacked. In `settings`, `picture` and `scale` are text ("0.5").
    """

    id: str
    name: str
    address: str
    by: str
    screen: str | None
    listener: str | None
    settings: dict[str, str | int | bool]
    codecs: list[str]
    keyboard: bool
    hidden: bool
    bitrate: int
    line_rate: int | None
    fps: float
    latency_ms: float | None
    ledger_ms: dict[str, float]
    skew_ms: float | None
    sent: int
    shown: int
    skipped: int
    skipped_fps: float
    on_way: int
    refreshed: int
    rtt_ms: float | None


class ClientView(msgspec.Struct, frozen=True):
    """A program's connection."""

    id: str
    name: str
    program: str
    sandbox: str
    pid: int
    uid: int


class GuestSummary(msgspec.Struct, frozen=True):
    """A guest, without its contents."""

    id: str
    name: str
    rate: int
    channels: int
    pulse: str
    native: str
    default: str | None


class MemoryView(msgspec.Struct, frozen=True):
    """What a guest makes the daemon hold, in bytes: how much, the limit, and by purpose."""

    held: int
    max: int
    refused: int
    held_for: dict[str, int] = msgspec.field(name="for")


class GuestView(msgspec.Struct, frozen=True):
    """A guest with its contents."""

    name: str
    state: str
    rate: int
    quantum_ms: float
    late_cycles: int
    clients: int
    memory: MemoryView
    refused_logins: int
    refused_captures: int
    pulse: str
    pulse_tcp: list[str]
    native: str
    sinks: list[SinkView]
    sources: list[SinkView]
    doors: list[MachineView]
    streams: list[StreamView]
    recorders: list[RecorderView]
    listeners: list[ListenerView]
    screens: list[ScreenView]
    viewers: list[ViewerView]
