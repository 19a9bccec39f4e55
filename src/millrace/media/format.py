"""Formats of what flows: sound, pictures, data."""

from __future__ import annotations

import msgspec

from millrace.dsp.convert import NAMES, SAMPLE_BYTES, SampleFormat
from millrace.units import Positions


class AudioFormat(msgspec.Struct, frozen=True):
    """Samples: how each is written, how many a second, one channel per position."""

    sample: SampleFormat
    rate: int
    positions: Positions

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
        """The sample format, as users read it."""
        return NAMES[self.sample]


class VideoFormat(msgspec.Struct, frozen=True):
    """Pictures: how large, and how often one may come at the most (0.0: no telling)."""

    width: int
    height: int
    fps_max: float = 0.0


class DataFormat(msgspec.Struct, frozen=True):
    """Anything else, by its media type: captions, ancillary data, events."""

    media_type: str
