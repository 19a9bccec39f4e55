"""Sound on its way to a listener, or from a microphone."""

from __future__ import annotations

from typing import NamedTuple

from millrace.units import Frames, HostNs


class AudioPacket(NamedTuple):
    """A packet of sound. `position` is that of its first frame, `host_ns` that frame's time on the daemon's clock."""

    generation: int
    frames: Frames
    sequence: int
    position: Frames
    host_ns: HostNs
    payload: bytes
    follows: bool = False
