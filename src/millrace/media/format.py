"""Formats of sound, pictures and data."""

from __future__ import annotations

import msgspec
import numpy as np

from millrace.dsp.convert import NAMES, SAMPLE_BYTES, Buffer, SampleFormat, Samples, decode, encode
from millrace.units import Positions


class AudioFormat(msgspec.Struct, frozen=True):
    """A sample format, a rate, and one channel per position.

    Millrace has no other audio format type. Protocol-specific ones (PulseAudio's sample spec and channel map,
    format_info, QEMU's voice parameters) are converted to and from this one at the protocol's edge.
    """

    sample: SampleFormat
    rate: int
    positions: Positions
    coded: str = ""
    """The codec that the guest sends (opus), if the samples were decoded from one."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.positions)

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame."""
        return SAMPLE_BYTES[self.sample] * len(self.positions)

    @property
    def name(self) -> str:
        """What the guest sends, for users to read."""
        return self.coded or NAMES[self.sample]

    def decode(self, data: Buffer) -> Samples:
        """Bytes to (frames, channels); a trailing partial frame is dropped."""
        frames = len(data) // self.frame_bytes
        out = np.empty((frames, len(self.positions)), np.float32)
        decode(self.sample, data[: frames * self.frame_bytes], out.reshape(-1))
        return out

    def encode(self, block: Samples) -> bytes:
        """(frames, channels) to bytes."""
        return encode(self.sample, np.ascontiguousarray(block))


class VideoFormat(msgspec.Struct, frozen=True):
    """Size of the pictures, and their maximum rate (0.0: unknown)."""

    width: int
    height: int
    fps_max: float = 0.0


class DataFormat(msgspec.Struct, frozen=True):
    """Anything else, by its media type: captions, ancillary data, events."""

    media_type: str
