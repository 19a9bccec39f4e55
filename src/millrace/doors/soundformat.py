"""A client's samples as it has them, whichever door it came by."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.dsp.convert import NAMES, SAMPLE_BYTES, SampleFormat
from millrace.units import Positions


@dataclass(frozen=True)
class SoundFormat:
    """Sample format, rate and channel map."""

    sample: SampleFormat
    rate: int
    positions: Positions

    @property
    def frame_bytes(self) -> int:
        """Bytes a frame."""
        return SAMPLE_BYTES[self.sample] * len(self.positions)

    @property
    def name(self) -> str:
        """The sample format, as users read it."""
        return NAMES[self.sample]
