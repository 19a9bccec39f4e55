"""module-sine and module-sine-source: a tone that the daemon makes itself."""

from __future__ import annotations

import numpy as np

from millrace.doors.ingress import Ingress, IngressStatus
from millrace.dsp.convert import Samples
from millrace.units import Frames

AMPLITUDE = 0.5
"""As PulseAudio's own."""


class Sine(Ingress):
    """The `Feed` of a tone; every frame is worked out from its number, so it never drifts off."""

    def __init__(self, frequency: int, rate: int) -> None:
        self._frequency, self._rate = frequency, rate
        self._at: Frames = 0

    def pull(self, out: Samples) -> Frames:
        """See `Feed`."""
        frames = np.arange(self._at, self._at + len(out), dtype=np.int64)
        phase = (frames * self._frequency % self._rate) / self._rate
        out[:] = (AMPLITUDE * np.sin(2 * np.pi * phase))[:, None]
        self._at = (self._at + len(out)) % self._rate
        return len(out)

    def status(self) -> IngressStatus:
        """See `Ingress`."""
        return IngressStatus("module")

    def short(self, frames: Frames, played_out: bool) -> None:
        """See `Feed`: it never is."""
