"""What a viewer has measured of its pictures."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from millrace.units import NS_PER_MS, HostNs

KEPT = 10_000


def _spread(values: deque[HostNs]) -> dict[str, float] | None:
    """Median, 5th, 95th and 99th percentile in ms; None of nothing."""
    if not values:
        return None
    found = np.percentile(np.array(values) / NS_PER_MS, (50, 5, 95, 99))
    return {name: round(float(value), 2) for name, value in zip(("p50", "p5", "p95", "p99"), found, strict=True)}


class Figures:
    """Counts, and the last `KEPT` measurements of each kind."""

    def __init__(self) -> None:
        self.pictures = 0
        """Pictures shown."""
        self.replaced = 0
        """Pictures that were replaced by a newer one before they were drawn."""
        self.refreshes = 0
        """How often a picture could not be decoded."""
        self.latencies: deque[HostNs] = deque(maxlen=KEPT)
        """From painting in the machine to drawing here."""
        self.skews: deque[HostNs] = deque(maxlen=KEPT)
        """How much later the picture was drawn than its sound was heard."""
        self.decoding: deque[HostNs] = deque(maxlen=KEPT)

    def decoded(self, took_ns: HostNs) -> None:
        """A picture was decoded."""
        self.decoding.append(took_ns)

    def shown(self, drawn: bool, latency_ns: HostNs | None, skew_ns: HostNs | None) -> None:
        """A picture was drawn, or replaced."""
        self.pictures += drawn
        self.replaced += not drawn
        if drawn and latency_ns is not None:
            self.latencies.append(latency_ns)
        if drawn and skew_ns is not None:
            self.skews.append(skew_ns)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in ms."""
        return {
            "pictures": self.pictures, "replaced": self.replaced, "refreshes": self.refreshes,
            "latency_ms": _spread(self.latencies), "skew_ms": _spread(self.skews),
            "decoding_ms": _spread(self.decoding),
        }  # fmt: skip
