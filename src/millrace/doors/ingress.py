"""The status that a door reports for its streams and recorders.

The code that lists streams, breaks down their latency or explains their sound asks the stream's feed and depends on no
particular door. A new door is therefore listed, explained and diagnosed as soon as its feed is an `Ingress`. The
figures are the same for all doors; each door describes the origin of the sound and its buffer in its own words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import msgspec

from millrace.graph.model import Stream, Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import UNKNOWN, Identity, Subject
from millrace.units import NS_PER_MS, Frames, HostNs

UNKNOWN_ORIGIN = "an unknown origin"


class Stage(NamedTuple):
    """One stage of a latency: its length, and what determines it."""

    stage: str
    ns: float
    why: str


class PlayoutStatus(msgspec.Struct, frozen=True):
    """State of a stream that is sent on its sender's clock, which we track."""

    target_ns: float
    """The target delay, from a frame's arrival to its mix."""
    latency_ns: float
    """The current delay."""
    underruns: int
    """Audible dropouts."""
    concealed: int
    """How often late sound was concealed without an audible dropout."""
    skipped: Frames
    """Frames skipped to hold the latency."""
    drift_ppm: float | None
    """The sender's clock relative to this machine's; None until it is known."""
    lost: int = 0
    """Packets that never arrived."""
    splices: int = 0
    frames: Frames = 0
    """Frames received."""
    gains: tuple[float, ...] = ()
    """The sender's own volume, linear."""
    real_time_percent: float | None = None
    """Sound received per second of host time, in percent; None until it is known."""


class IngressStatus(msgspec.Struct, frozen=True):
    """A door's current status of one stream. Its wording is in a subclass's properties, built only when asked for."""

    door: str = ""
    """The kind of door, as shown to users; empty if the stream belongs to no door."""
    format: AudioFormat | None = None
    """None if the stream is generated in the graph's own format."""
    fill_ns: HostNs = 0
    """Sound that has arrived but has not reached the graph."""
    pid: int = 0
    """The process that owns the stream; 0 if it is not a process on this machine."""
    asked_ns: HostNs | None = None
    """Sound requested from the client and not sent yet; None if the door does not request sound."""
    corked: bool = False
    draining: bool = False
    resampler: str | None = None
    """None if the rates agree, or if `playout` tracks the sender's clock."""
    playout: PlayoutStatus | None = None
    """None if the stream is pulled, and so runs on the graph's clock."""

    @property
    def origin(self) -> str:
        """Where the sound comes from, worded to follow the stream's name in a sentence."""
        return f"it comes from {UNKNOWN_ORIGIN}"

    @property
    def buffer(self) -> str:
        """A description of the buffer, in one sentence."""
        return ""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages at which sound waits before the resampler and the graph."""
        return ()


class RecorderStatus(msgspec.Struct, frozen=True):
    """A door's status of one program's recorder."""

    door: str
    format: AudioFormat
    identity: Identity = UNKNOWN
    """The program that owns the recorder, if known."""


class Program(Protocol):
    """A program's connection, as shown to users."""

    index: int
    subject: Subject

    @property
    def name(self) -> str:
        """What the program calls itself."""
        ...


# `status` is asked for by views, metrics and incidents while the graph is in any state, between two cycles. It must
# not change the stream, and it must not fail for a stream that has just lost its client or its sink.
class Ingress(ABC):
    """A feed created by a door; see `graph.model.Feed` for the rest of its interface."""

    @abstractmethod
    def status(self) -> IngressStatus:
        """The stream's current status. Has no side effects."""


class Recorder(ABC):
    """A tap's consumer that is a program's recorder and is shown as one; see `graph.model.Consumer`."""

    @abstractmethod
    def status(self) -> RecorderStatus:
        """The recorder's current status. Has no side effects."""


_NOTHING_KNOWN = IngressStatus()


def status_of(stream: Stream) -> IngressStatus:
    """A stream's status, from its door."""
    feed = stream.feed
    return feed.status() if isinstance(feed, Ingress) else _NOTHING_KNOWN


def recorder_of(tap: Tap) -> RecorderStatus | None:
    """A recorder's status, from its door; None for other taps (of listeners and machines)."""
    consumer = tap.consumer
    return consumer.status() if isinstance(consumer, Recorder) else None


def described(identity: Identity) -> str:
    """A program, in words."""
    if not identity.pid:
        return "a connection whose program is not known"
    return f"{identity} (process {identity.pid} of user {identity.uid})"


def round_ms(ns: float) -> str:
    """A duration, as worded in these sentences."""
    return f"{ns / NS_PER_MS:.0f} ms"
