"""Sound for PulseAudio streams in the graph's own format."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import SampleFormat, encode
from millrace.wire.pulse.tagstruct import Spec

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
STEREO = (1, 2)
FRAME = 4


def s16(signal: np.ndarray) -> bytes:
    return encode(SampleFormat.S16LE, signal)


def ms(milliseconds: float, frame_bytes: int = FRAME, rate: int = 48_000) -> int:
    return int(milliseconds * rate / 1000) * frame_bytes


def constant(*levels: float, frames: int = 24_000) -> bytes:
    return s16(np.tile(np.array(levels, np.float32), (frames, 1)))
