"""Sound on its way to a listener, and from a microphone."""

from __future__ import annotations

from typing import NamedTuple

from millrace.units import Frames, HostNs


class AudioPacket(NamedTuple):
    """A packet of sound. `position` is its first frame's, `host_ns` that frame's time on the daemon's clock."""

    generation: int
    frames: Frames
    sequence: int
    position: Frames
    host_ns: HostNs
    payload: bytes
    follows: bool = False
