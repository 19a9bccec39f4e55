"""Finds the cause of a dropout at the listener, from packet arrivals, device pulls and this program's own timer.

Pure: time is an argument. Verdicts are sent to the daemon, which knows the rest of the path.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from millrace.units import NS_PER_MS, HostNs

LATE_NS = 25 * NS_PER_MS
"""A tick or a pull later than this counts as delayed."""
RECENT_NS = 600 * NS_PER_MS
AUDIBLE_NS = 30 * NS_PER_MS
"""A loss of at least this much is audible: concealment no longer resembles the original."""
_WRAP, MISSING_MAX = 1 << 32, 1000
ON_TIME_NS = 10 * NS_PER_MS
"""A packet is on time if it is no later than this, measured against the earliest arrivals."""
DRIFT_MAX = 1e-3


@dataclass(frozen=True, slots=True)
class Span:
    """A delay: the event last happened at `last_ns`, was due again at `began_ns`, and happened at `ended_ns`."""

    last_ns: HostNs
    began_ns: HostNs
    ended_ns: HostNs

    @property
    def ms(self) -> float:
        """The length of the delay."""
        return round((self.ended_ns - self.began_ns) / NS_PER_MS, 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Stage and cause as in observe/incidents.py; `at_ns` is when it began, on this machine's clock."""

    stage: str
    cause: str
    at_ns: HostNs
    evidence: dict[str, float]


class _Gaps:
    """Remembers when a regular event was late."""

    def __init__(self) -> None:
        self._last_ns: HostNs | None = None
        self._late: deque[Span] = deque(maxlen=8)

    def mark(self, now_ns: HostNs, due_ns: HostNs) -> HostNs:
        """The event happened now, and was due `due_ns` after the previous one; returns how late it was."""
        late_ns = 0 if self._last_ns is None else now_ns - self._last_ns - due_ns
        if self._last_ns is not None and late_ns > LATE_NS:
            self._late.append(Span(self._last_ns, self._last_ns + due_ns, now_ns))
        self._last_ns = now_ns
        return late_ns

    def rest(self) -> None:
        """Expect no event until the next one."""
        self._last_ns = None

    def recent(self, now_ns: HostNs) -> Span | None:
        """The longest recent delay."""
        found = [span for span in self._late if now_ns - span.ended_ns < RECENT_NS]
        return max(found, key=lambda span: span.ended_ns - span.began_ns, default=None)

    def open(self, now_ns: HostNs, due_ns: HostNs) -> Span | None:
        """The delay still in progress, if the event is overdue."""
        if self._last_ns is None or now_ns - self._last_ns - due_ns < LATE_NS:
            return None
        return Span(self._last_ns, self._last_ns + due_ns, now_ns)


class _Pace:
    """Remembers since when packets have been falling behind, measured against the earliest arrivals."""

    def __init__(self) -> None:
        self._due_ns = 0.0
        self.timely_ns: HostNs = 0
        """When a packet last arrived on time."""

    def mark(self, now_ns: HostNs, length_ns: HostNs) -> None:
        """A packet arrived; in media time it is `length_ns` after the previous one."""
        self._due_ns = min(now_ns, self._due_ns + length_ns * (1 + DRIFT_MAX)) if self._due_ns else now_ns
        if now_ns - self._due_ns < ON_TIME_NS:
            self.timely_ns = now_ns

    def rest(self) -> None:
        """Expect no packet until the next one."""
        self._due_ns = 0.0


def began(*spans: Span | None) -> HostNs:
    """When the common cause of these delays began: after the last sign of life, and before the first missed event."""
    there = [span for span in spans if span is not None]
    return (max(span.last_ns for span in there) + min(span.began_ns for span in there)) // 2


# The order in which `hole` looks for causes is that in which they produce each other's signs. Without a device,
# nothing is pulled. A program that was not run takes its packets late and answers its device late, so those delays
# prove nothing against either. A late device is its own cause. Lost packets also look like a stall until the next one
# shows the gap in the numbers, so they are looked for before a stall. What is left is a network that has become slow.
#
# Every verdict is dated to when its cause began, not to when the dropout was heard: the daemon puts verdicts of
# several listeners and of its own stages into one order. Where the moment lies between two observations, it is their
# middle.
class Blame:
    """One listener's recent history, from which it derives verdicts."""

    def __init__(self, tick_ns: HostNs) -> None:
        self._tick_ns = tick_ns
        self._loop, self._device, self._network = _Gaps(), _Gaps(), _Gaps()
        self._packet_ns: HostNs = 20 * NS_PER_MS
        self._batch_ns: HostNs = 20 * NS_PER_MS
        """How much sound the last batch held: nothing more is due for that long."""
        self._lost: deque[tuple[HostNs, int]] = deque(maxlen=64)
        self._next: int | None = None
        self._gap_ns: HostNs = 0
        """When the first missing or late packet was due."""
        self._gap_open = False
        self._pace = _Pace()
        self._gone_ns: HostNs = 0
        self._back_ns: HostNs = 0

    def ticked(self, now_ns: HostNs) -> HostNs:
        """This program's own timer, due every `tick_ns`; returns how late it is."""
        return self._loop.mark(now_ns, self._tick_ns)

    def pulled(self, now_ns: HostNs, period_ns: HostNs) -> HostNs:
        """The device has pulled a period; returns how late the pull was."""
        return self._device.mark(now_ns, period_ns)

    def gone(self, at_ns: HostNs) -> Verdict:
        """The device disappeared at `at_ns`."""
        self._gone_ns, self._back_ns = at_ns, 0
        self._device.rest()
        return Verdict("device", "lost", at_ns, {})

    def back(self, now_ns: HostNs) -> None:
        """There is a device again."""
        self._back_ns = now_ns

    # Packets that were sent together arrive together, so only the first of a batch says anything about the path; the
    # next one is due when the sound of the whole batch is over. A number far behind the expected one is a packet that
    # was overtaken and closes the gap that it had seemed to leave.
    def arrived(self, now_ns: HostNs, length_ns: HostNs, sequence: int, follows: bool = False) -> None:
        """A packet arrived. One that `follows` was sent together with the previous one."""
        missing = 0 if self._next is None else (sequence - self._next) % _WRAP
        if 0 < missing < MISSING_MAX:
            self._gap_ns, self._gap_open = now_ns - missing * length_ns, True
        if missing >= _WRAP // 2:
            self._gap_open = False
        else:
            self._next = (sequence + 1) % _WRAP
        if follows:
            self._batch_ns += length_ns
            return
        self._network.mark(now_ns, self._batch_ns)
        self._pace.mark(now_ns, self._batch_ns + (missing * length_ns if missing < MISSING_MAX else 0))
        self._packet_ns = self._batch_ns = length_ns

    def unsure(self, now_ns: HostNs) -> bool:
        """Whether the next packets are needed to tell a stalled connection from lost packets."""
        return self._gap_open or self._network.open(now_ns, self._batch_ns) is not None

    def lost(self, now_ns: HostNs, packets: int) -> Verdict | None:
        """This many packets are given up as lost; returns a verdict if the loss is audible."""
        self._gap_open = False
        since_ns = self._gap_ns if now_ns - self._gap_ns < RECENT_NS else now_ns
        self._lost.append((since_ns, packets))
        if packets * self._packet_ns < AUDIBLE_NS:
            return None
        return Verdict("network", "packets lost", since_ns, {"packets": float(packets)})

    def apart(self) -> None:
        """There is no connection, and until there is one this program's timer does not run."""
        self._loop.rest()
        self.silence()

    def silence(self) -> None:
        """The daemon has stopped sending: expect no packet until the next one."""
        self._network.rest()
        self._pace.rest()
        self._next, self._gap_open = None, False

    def hole(self, now_ns: HostNs) -> Verdict:
        """The cause of a dropout at `now_ns`."""
        if self._gone_ns and (not self._back_ns or now_ns - self._back_ns < RECENT_NS):
            return Verdict("device", "lost", self._gone_ns, {})
        loop, device = self._loop.recent(now_ns), self._device.recent(now_ns)
        network = self._network.open(now_ns, self._batch_ns) or self._network.recent(now_ns)
        if loop is not None:
            too = {} if device is None else {"device_late_ms": device.ms}
            at = began(loop, device if _meet(loop, device) else None, network if _meet(loop, network) else None)
            return Verdict("listener", "not run", at, {"late_ms": loop.ms} | too)
        if device is not None:
            return Verdict("device", "late", began(device), {"late_ms": device.ms})
        lost = [(at, n) for at, n in self._lost if now_ns - at < RECENT_NS]
        if lost:
            return Verdict("network", "packets lost", lost[0][0], {"packets": float(sum(n for _, n in lost))})
        if network is not None:
            return Verdict("network", "stalled", began(network), {"nothing_for_ms": network.ms})
        timely_ns = min(now_ns, self._pace.timely_ns)
        late_ms = round((now_ns - timely_ns) / NS_PER_MS, 1)
        return Verdict("network", "late", timely_ns, {"late_for_ms": late_ms} if late_ms else {})


def _meet(one: Span, other: Span | None) -> bool:
    return other is not None and one.last_ns < other.ended_ns and other.last_ns < one.ended_ns
