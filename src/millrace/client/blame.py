"""Why the listener's sound had a hole: what came, what was asked for, and when this program ran.

Pure: time is an argument. What it finds is sent to the daemon, which knows the rest of the way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from millrace.units import NS_PER_MS, HostNs

LATE_NS = 25 * NS_PER_MS
"""A tick or a pull later than this was held up."""
RECENT_NS = 600 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Span:
    """Something that should have happened at `began_ns` happened at `ended_ns`."""

    began_ns: HostNs
    ended_ns: HostNs

    @property
    def ms(self) -> float:
        """How long."""
        return round((self.ended_ns - self.began_ns) / NS_PER_MS, 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Stage and cause as graph/incidents.py has them; `at_ns` is when it began, on this machine's clock."""

    stage: str
    cause: str
    at_ns: HostNs
    evidence: dict[str, float]


class _Gaps:
    """Remembers where something regular was late."""

    def __init__(self) -> None:
        self._last_ns: HostNs | None = None
        self._late: deque[Span] = deque(maxlen=8)

    def mark(self, now_ns: HostNs, due_ns: HostNs) -> HostNs:
        """It happened now, and was due `due_ns` after the time before; returns how late it was."""
        late_ns = 0 if self._last_ns is None else now_ns - self._last_ns - due_ns
        if self._last_ns is not None and late_ns > LATE_NS:
            self._late.append(Span(self._last_ns + due_ns, now_ns))
        self._last_ns = now_ns
        return late_ns

    def rest(self) -> None:
        """It is not expected for now."""
        self._last_ns = None

    def recent(self, now_ns: HostNs) -> Span | None:
        """The longest of late."""
        found = [span for span in self._late if now_ns - span.ended_ns < RECENT_NS]
        return max(found, key=lambda span: span.ended_ns - span.began_ns, default=None)

    def open(self, now_ns: HostNs, due_ns: HostNs) -> Span | None:
        """If it should have happened by now and has not."""
        if self._last_ns is None or now_ns - self._last_ns - due_ns < LATE_NS:
            return None
        return Span(self._last_ns + due_ns, now_ns)


class Blame:
    """One listener's memory of the last moments."""

    def __init__(self, tick_ns: HostNs) -> None:
        self._tick_ns = tick_ns
        self._loop, self._device, self._line = _Gaps(), _Gaps(), _Gaps()
        self._packet_ns: HostNs = 20 * NS_PER_MS
        self._lost: deque[tuple[HostNs, int]] = deque(maxlen=64)

    def ticked(self, now_ns: HostNs) -> HostNs:
        """This program's own clock, every `tick_ns` if it is let run; returns how late it is."""
        return self._loop.mark(now_ns, self._tick_ns)

    def pulled(self, now_ns: HostNs, period_ns: HostNs) -> None:
        """The device has asked for a period."""
        self._device.mark(now_ns, period_ns)

    def arrived(self, now_ns: HostNs, length_ns: HostNs, lost: int) -> None:
        """A packet of that length came, and so many before it never will."""
        self._packet_ns = length_ns
        self._line.mark(now_ns, length_ns)
        if lost:
            self._lost.append((now_ns, lost))

    def silence(self) -> None:
        """No packet is expected until the next."""
        self._line.rest()

    def hole(self, now_ns: HostNs) -> Verdict:
        """Sound was missing at `now_ns`: whose fault was that?"""
        loop, device = self._loop.recent(now_ns), self._device.recent(now_ns)
        if loop is not None:
            both = device is not None
            return Verdict("listener", "not run", loop.began_ns, {"late_ms": loop.ms, "device_too": float(both)})
        if device is not None:
            return Verdict("device", "late", device.began_ns, {"late_ms": device.ms})
        lost = [(at, n) for at, n in self._lost if now_ns - at < RECENT_NS]
        if lost:
            return Verdict("network", "packets lost", lost[0][0], {"packets": float(sum(n for _, n in lost))})
        gap = self._line.open(now_ns, self._packet_ns) or self._line.recent(now_ns)
        if gap is not None:
            return Verdict("network", "stalled", gap.began_ns, {"nothing_for_ms": gap.ms})
        return Verdict("network", "late", now_ns, {})
