"""Base layer: the units used everywhere.

Three kinds of time are never mixed: host time (monotonic, `_ns`), position
(frames since the stream began) and wall clock (logs only). Times and frames
are integers. Floats are for `ratio` and `ppm`; a positive ppm means the remote
clock is fast.
"""

from __future__ import annotations

from typing import TypeAlias

HostNs: TypeAlias = int
"""Monotonic host time in nanoseconds."""
MediaNs: TypeAlias = int
"""Nanoseconds on the media timeline: the host time at which media was captured or is due."""
Frames: TypeAlias = int
"""A count of frames, or a position in frames since a stream began."""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_US = 1_000

MAX_CHANNELS = 32
RATE_MIN = 1_000
RATE_MAX = 384_000

# Channel positions of PulseAudio (pulse/channelmap.h), in its order: a name's
# index is its number on the wire.
POSITIONS: tuple[str, ...] = (
    "mono",
    "front-left",
    "front-right",
    "front-center",
    "rear-center",
    "rear-left",
    "rear-right",
    "lfe",
    "front-left-of-center",
    "front-right-of-center",
    "side-left",
    "side-right",
    *(f"aux{i}" for i in range(32)),
    "top-center",
    "top-front-left",
    "top-front-right",
    "top-front-center",
    "top-rear-left",
    "top-rear-right",
    "top-rear-center",
)

Positions: TypeAlias = tuple[str, ...]
"""A channel map: one position name per channel."""

_FL, _FR, _FC, _LFE = "front-left", "front-right", "front-center", "lfe"
_RL, _RR, _SL, _SR = "rear-left", "rear-right", "side-left", "side-right"
DEFAULT_MAPS: dict[int, Positions] = {
    1: ("mono",),
    2: (_FL, _FR),
    3: (_FL, _FR, _LFE),
    4: (_FL, _FR, _RL, _RR),
    5: (_FL, _FR, _RL, _RR, _FC),
    6: (_FL, _FR, _RL, _RR, _FC, _LFE),
    7: (_FL, _FR, _RL, _RR, _FC, _SL, _SR),
    8: (_FL, _FR, _RL, _RR, _FC, _LFE, _SL, _SR),
}


def default_map(channels: int) -> Positions:
    """The channel map assumed for a bare channel count (auxiliary names beyond 7.1)."""
    known = DEFAULT_MAPS.get(channels)
    return known if known is not None else tuple(f"aux{i}" for i in range(channels))


def frames_to_ns(frames: Frames, rate: int) -> HostNs:
    """Duration of `frames` at `rate`, rounded down."""
    return frames * NS_PER_S // rate


def ns_to_frames(ns: HostNs, rate: int) -> Frames:
    """Whole frames at `rate` that fit in `ns`."""
    return ns * rate // NS_PER_S
