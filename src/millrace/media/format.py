"""Formats of what flows: sound, pictures, data."""

from __future__ import annotations

import msgspec
import numpy as np

from millrace.dsp.convert import NAMES, SAMPLE_BYTES, Buffer, SampleFormat, Samples, decode, encode
from millrace.units import Positions


class AudioFormat(msgspec.Struct, frozen=True):
    """Samples: how each is written, how many a second, one channel per position.

    The one format of sound there is. What a protocol calls one (PulseAudio's sample spec and map, format_info, what
    QEMU says of a voice) is made into this where it comes in, and from this where it goes out.
    """

    sample: SampleFormat
    rate: int
    positions: Positions
    coded: str = ""
    """What its guest sends instead, which a codec made into these samples: opus."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.positions)

    @property
    def frame_bytes(self) -> int:
        """Bytes a frame."""
        return SAMPLE_BYTES[self.sample] * len(self.positions)

    @property
    def name(self) -> str:
        """What is sent, as users read it."""
        return self.coded or NAMES[self.sample]

    def decode(self, data: Buffer) -> Samples:
        """(frames, channels); what does not make a whole frame is left out."""
        frames = len(data) // self.frame_bytes
        out = np.empty((frames, len(self.positions)), np.float32)
        decode(self.sample, data[: frames * self.frame_bytes], out.reshape(-1))
        return out

    def encode(self, block: Samples) -> bytes:
        """(frames, channels) to bytes."""
        return encode(self.sample, np.ascontiguousarray(block))


class VideoFormat(msgspec.Struct, frozen=True):
    """Pictures: how large, and how often one may come at the most (0.0: no telling)."""

    width: int
    height: int
    fps_max: float = 0.0


class DataFormat(msgspec.Struct, frozen=True):
    """Anything else, by its media type: captions, ancillary data, events."""

    media_type: str
