"""The states of native streams and recorders, as plain values with which others can continue them.

Their sound is in the shared memory and in the graph's lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace.doors.resampled import ResampledState
from millrace.dsp.resumable import ResamplerState
from millrace.media.format import AudioFormat
from millrace.units import Frames, HostNs


@dataclass(slots=True)
class PlaybackState:
    """A playback stream between two cycles."""

    format: AudioFormat
    target: Frames
    """The client keeps the ring filled up to this many frames."""
    pid: int = 0
    """The client's process ID."""
    taken: Frames = 0
    """Frames read from the ring."""
    corked: bool = False
    prebuffering: bool = True
    draining: bool = False
    seen: Frames = 0
    """The client's write position when last checked."""
    wrote_ns: HostNs = 0
    looked_ns: HostNs = 0
    woken_ns: HostNs = 0
    resampled: ResampledState = field(default_factory=ResampledState)
    """Current only while the stream is frozen."""


@dataclass(slots=True)
class RecordState:
    """A recorder between two cycles."""

    format: AudioFormat
    period: Frames
    written: Frames = 0
    """Frames written to the ring."""
    told: Frames = 0
    """What `written` was when the client was last woken."""
    resampler: ResamplerState = field(default_factory=ResamplerState)
    """Current only while the recorder is frozen."""
