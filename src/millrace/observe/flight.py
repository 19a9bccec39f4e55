"""The flight recorder: a guest's last minute, sampled once a second, for finding out what happened."""

from __future__ import annotations

from collections import deque
from itertools import islice

import msgspec

from millrace.guest.guest import Guest
from millrace.guest.viewer import ViewerSession
from millrace.observe.views import latency_ms, viewer_view
from millrace.units import HostNs

SECONDS = 60
OBJECTS_SAMPLED_MAX = 64
"""The most streams, listeners, mixes and viewers of one guest that are sampled."""


class ListenerSample(msgspec.Struct, frozen=True):
    """The state of a listener."""

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


class ViewerSample(msgspec.Struct, frozen=True):
    """The state of a viewer; the fields are those of `ViewerView`."""

    screen: str | None
    fps: float
    skipped: int
    latency_ms: float | None
    ledger_ms: dict[str, float]
    skew_ms: float | None
    bitrate: int
    line_rate: int | None
    on_way: int
    rtt_ms: float | None


class Sample(msgspec.Struct, frozen=True):
    """One second of a guest. For each stream: its state, the sound queued ahead in ms, and its underruns.

    For each screen: the pictures painted a second, and the pixels.
    """

    host_ns: int
    running: bool
    quantum_ms: float
    position: int
    late_cycles: int
    streams: dict[str, tuple[str, float, int]]
    listeners: dict[str, ListenerSample]
    levels: dict[str, float]
    screens: dict[str, tuple[float, int]]
    viewers: dict[str, ViewerSample]


def sample(guest: Guest, now_ns: HostNs) -> Sample:
    """The current values of a guest's counters, by object key."""
    graph = guest.graph
    streams = {
        s.key: (s.state.value, round(graph.ahead(s) * 1000 / graph.rate, 1), s.underruns)
        for s in list(graph.streams.values())[:OBJECTS_SAMPLED_MAX]
    }
    listeners = {
        s.outlet.key: ListenerSample(
            latency_ms=latency_ms(s), fill_ms=round(s.report.fill_ns / 1e6, 1),
            target_ms=round(s.report.target_ns / 1e6, 1), drift_ppm=s.report.drift_ppm,
            underruns=s.report.underruns, lost=s.report.lost, skipped=s.report.skipped,
            queued=s.outlet.queued, dropped=s.outlet.dropped_packets, bitrate=s.bitrate(),
            rtt_ms=None if s.rtt_ns is None else round(s.rtt_ns / 1e6, 2),
        )
        for s in guest.sessions[:OBJECTS_SAMPLED_MAX]
    }  # fmt: skip
    return Sample(
        host_ns=now_ns, running=graph.running, quantum_ms=graph.quantum_ns / 1e6, position=graph.position,
        late_cycles=graph.late_cycles, streams=streams, listeners=listeners,
        levels={s.key: round(s.level, 4) for s in islice(graph.mixes(), OBJECTS_SAMPLED_MAX)},
        screens={listed.key: (round(listed.fps, 1), listed.pixels) for listed in guest.screens},
        viewers={one.key: _viewer(one) for one in guest.viewers.sessions[:OBJECTS_SAMPLED_MAX]},
    )  # fmt: skip


def _viewer(session: ViewerSession) -> ViewerSample:
    view = viewer_view(session)
    return ViewerSample(**{name: getattr(view, name) for name in ViewerSample.__struct_fields__})


class FlightRecorder:
    """The flight recorders of all guests. Guests that are idle and that nobody watches are not sampled."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[Sample]] = {}

    def note(self, guest: Guest, now_ns: HostNs) -> None:
        """Take a sample of a guest if it runs or is watched; called once a second for each."""
        if guest.graph.running or guest.viewers.sessions:
            self._samples.setdefault(guest.name, deque(maxlen=SECONDS)).append(sample(guest, now_ns))

    def of(self, guest: str) -> list[Sample]:
        """A guest's last minute."""
        return list(self._samples.get(guest, ()))

    def forget(self, guest: str) -> None:
        """Discard a guest's samples."""
        self._samples.pop(guest, None)
