"""The flight recorder: a guest's last minute, a sample a second, for when somebody asks what happened."""

from __future__ import annotations

from collections import deque
from itertools import islice

import msgspec

from millrace.guest.guest import Guest
from millrace.observe.views import latency_ms
from millrace.units import HostNs

SECONDS = 60
THINGS_MAX = 64
"""Streams, listeners and mixes of one guest that are noted, each."""


class ListenerSample(msgspec.Struct, frozen=True):
    """How a listener fared."""

    latency_ms: float | None
    fill_ms: float
    target_ms: float
    drift_ppm: float
    underruns: int
    lost: int
    skipped: int
    queued: int
    dropped: int
    bitrate: int
    rtt_ms: float | None


class Sample(msgspec.Struct, frozen=True):
    """One second of a guest. A stream is its state, the sound that is there ahead in ms, and its underruns."""

    host_ns: int
    running: bool
    quantum_ms: float
    position: int
    late_cycles: int
    streams: dict[str, tuple[str, float, int]]
    listeners: dict[str, ListenerSample]
    levels: dict[str, float]


def sample(guest: Guest, now_ns: HostNs) -> Sample:
    """What a guest's counters say now; short names of things to numbers."""
    graph = guest.graph
    streams = {
        s.key: (s.state.value, round(graph.ahead(s) * 1000 / graph.rate, 1), s.underruns)
        for s in list(graph.streams.values())[:THINGS_MAX]
    }
    listeners = {
        s.outlet.key: ListenerSample(
            latency_ms=latency_ms(s), fill_ms=round(s.report.fill_ns / 1e6, 1),
            target_ms=round(s.report.target_ns / 1e6, 1), drift_ppm=s.report.drift_ppm,
            underruns=s.report.underruns, lost=s.report.lost, skipped=s.report.skipped,
            queued=s.outlet.queued, dropped=s.outlet.dropped_packets, bitrate=s.bitrate(),
            rtt_ms=None if s.rtt_ns is None else round(s.rtt_ns / 1e6, 2),
        )
        for s in guest.sessions[:THINGS_MAX]
    }  # fmt: skip
    return Sample(
        host_ns=now_ns, running=graph.running, quantum_ms=graph.quantum_ns / 1e6, position=graph.position,
        late_cycles=graph.late_cycles, streams=streams, listeners=listeners,
        levels={s.key: round(s.level, 4) for s in islice(graph.mixes(), THINGS_MAX)},
    )  # fmt: skip


class FlightRecorder:
    """All guests'. An idle guest is not noted again and again."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[Sample]] = {}

    def note(self, guests: list[Guest], now_ns: HostNs) -> None:
        """Once a second."""
        for guest in guests:
            if guest.graph.running:
                self._samples.setdefault(guest.name, deque(maxlen=SECONDS)).append(sample(guest, now_ns))

    def of(self, guest: str) -> list[Sample]:
        """A guest's last minute."""
        return list(self._samples.get(guest, ()))

    def forget(self, guest: str) -> None:
        """A guest is gone."""
        self._samples.pop(guest, None)
