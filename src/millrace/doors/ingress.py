"""What a door tells of its streams and recorders.

What shows a stream, takes its latency apart or says why it sounds as it does asks its feed, and knows no door. So a
new door is shown, explained and diagnosed as soon as its feed is an `Ingress`. The numbers are the same for all doors;
where the sound comes from, and what its buffer is like, each says in its own words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import msgspec

from millrace.graph.model import Stream, Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import UNKNOWN, Identity, Subject
from millrace.units import NS_PER_MS, Frames, HostNs

SOMEWHERE = "an unknown origin"


class Stage(NamedTuple):
    """One stage of a latency: how long, and whose choice that is."""

    stage: str
    ns: float
    why: str


class PlayoutStatus(msgspec.Struct, frozen=True):
    """How a stream fares that is sent by its sender's clock, and followed by ours."""

    target_ns: float
    """The target delay: how long after its arrival a frame is mixed."""
    latency_ns: float
    """The same as it is now."""
    underruns: int
    """Holes that were heard."""
    concealed: int
    """Times that sound was carried on over what came late, without a hole."""
    skipped: Frames
    """Frames left out to keep the latency."""
    drift_ppm: float | None
    """How fast the sender's clock runs against this machine's; None until that is known."""
    lost: int = 0
    """Packets that never came."""
    splices: int = 0
    frames: Frames = 0
    """Frames that have come."""
    gains: tuple[float, ...] = ()
    """The sender's own volume, linear."""
    real_time_percent: float | None = None
    """How much sound a second of ours brings; None until that is known."""


class IngressStatus(msgspec.Struct, frozen=True):
    """What a door tells of one stream, now. A door puts its words into a subclass: only some that ask want them."""

    door: str = ""
    """Which kind, as users read it; empty where no door has the stream."""
    format: AudioFormat | None = None
    """None where it is made in the graph's own."""
    fill_ns: HostNs = 0
    """Sound that has come and is not in the graph yet."""
    pid: int = 0
    """The process that has it; 0 where that is none of this machine."""
    asked_ns: HostNs | None = None
    """Sound that its client was asked for and has not sent; None where nobody asks."""
    corked: bool = False
    draining: bool = False
    resampler: str | None = None
    """None where the rates agree, and where `playout` follows the sender's clock."""
    playout: PlayoutStatus | None = None
    """None where the graph's clock is the stream's too: it is pulled."""

    @property
    def origin(self) -> str:
        """Where its sound comes from, as the end of a sentence that begins with its name."""
        return f"it comes from {SOMEWHERE}"

    @property
    def buffer(self) -> str:
        """What its buffer is like, in a sentence."""
        return ""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Where its sound waits on the way to the resampler and the graph."""
        return ()


class RecorderStatus(msgspec.Struct, frozen=True):
    """What a door tells of one recorder of a program."""

    door: str
    format: AudioFormat
    identity: Identity = UNKNOWN
    """The program that has it, as far as it is known."""


class Program(Protocol):
    """A program's connection, as it is shown."""

    index: int
    subject: Subject

    @property
    def name(self) -> str:
        """What the program calls itself."""
        ...


class Ingress(ABC):
    """A feed that a door made; see `graph.model.Feed` for the rest of it."""

    @abstractmethod
    def status(self) -> IngressStatus:
        """What there is to tell of its stream. It changes nothing."""


class Recorder(ABC):
    """A tap's consumer that is a program's recorder, and shown as one; see `graph.model.Consumer`."""

    @abstractmethod
    def status(self) -> RecorderStatus:
        """What there is to tell of it. It changes nothing."""


_NOTHING_KNOWN = IngressStatus()


def status_of(stream: Stream) -> IngressStatus:
    """What its door tells of a stream."""
    feed = stream.feed
    return feed.status() if isinstance(feed, Ingress) else _NOTHING_KNOWN


def recorder_of(tap: Tap) -> RecorderStatus | None:
    """What its door tells of a recorder; None for other taps: listeners', machines'."""
    consumer = tap.consumer
    return consumer.status() if isinstance(consumer, Recorder) else None


def described(identity: Identity) -> str:
    """A program, in words."""
    if not identity.pid:
        return "a connection whose program is not known"
    return f"{identity} (process {identity.pid} of user {identity.uid})"


def round_ms(ns: float) -> str:
    """A time, as these sentences have it."""
    return f"{ns / NS_PER_MS:.0f} ms"
