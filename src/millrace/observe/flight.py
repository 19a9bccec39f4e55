"""The flight recorder: a guest's last minute, a sample a second, for when somebody asks what happened."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

from millrace.guest.guest import Guest
from millrace.observe.views import latency_ms
from millrace.units import HostNs

SECONDS = 60
THINGS_MAX = 64
"""Streams, listeners and mixes of one guest that are noted, each."""


def sample(guest: Guest, now_ns: HostNs) -> dict[str, Any]:
    """What a guest's counters say now; short names of things to numbers."""
    graph = guest.graph
    streams = {
        s.key: [s.state.value, round(graph.ahead(s) * 1000 / graph.rate, 1), s.underruns]
        for s in list(graph.streams.values())[:THINGS_MAX]
    }
    listeners = {
        s.outlet.key: {
            "latency_ms": latency_ms(s), "fill_ms": round(s.report.fill_ns / 1e6, 1),
            "target_ms": round(s.report.target_ns / 1e6, 1), "drift_ppm": s.report.drift_ppm,
            "underruns": s.report.underruns, "lost": s.report.lost, "skipped": s.report.skipped,
            "queued": s.outlet.queued, "dropped": s.outlet.dropped_packets, "bitrate": s.bitrate(),
            "rtt_ms": None if s.rtt_ns is None else round(s.rtt_ns / 1e6, 2),
        }
        for s in guest.sessions[:THINGS_MAX]
    }  # fmt: skip
    return {
        "host_ns": now_ns, "running": graph.running, "quantum_ms": graph.quantum_ns / 1e6, "position": graph.position,
        "late_cycles": graph.late_cycles, "streams": streams, "listeners": listeners,
        "levels": {s.key: round(s.level, 4) for s in islice(graph.mixes(), THINGS_MAX)},
    }  # fmt: skip


class FlightRecorder:
    """All guests'. An idle guest is not noted again and again."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[dict[str, Any]]] = {}

    def note(self, guests: list[Guest], now_ns: HostNs) -> None:
        """Once a second."""
        for guest in guests:
            if guest.graph.running:
                self._samples.setdefault(guest.name, deque(maxlen=SECONDS)).append(sample(guest, now_ns))

    def of(self, guest: str) -> list[dict[str, Any]]:
        """A guest's last minute."""
        return list(self._samples.get(guest, ()))

    def forget(self, guest: str) -> None:
        """A guest is gone."""
        self._samples.pop(guest, None)
