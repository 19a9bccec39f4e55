"""What is being heard now: the capture time of the sound at the end of an output, from the moments of its pulls."""

from __future__ import annotations

from collections import deque

from millrace.units import NS_PER_MS, NS_PER_S, HostNs, MediaNs

WINDOW_NS: HostNs = 2 * NS_PER_S
JUMP_NS: HostNs = 30 * NS_PER_MS
"""An age that differs by more is not a late pull but another delay: what was measured before no longer counts."""
PAUSE_NS: HostNs = 3 * NS_PER_S
"""A pause of the sound up to this long is still sound: pictures would jump at each end of it. After that, nothing is
being heard."""


# A thread pulls late now and then, and never early: so of the pulls of the last two seconds the one with the youngest
# sound says best where the output is. The delay also grows slowly, while the clocks are matched; the window ends that.
class HeardClock:
    """Estimates the capture time, on the sender's clock, of what is heard at a time of ours."""

    def __init__(self) -> None:
        self._ages: deque[tuple[HostNs, float]] = deque()
        """(when, age), ages rising: each is the least since it was pulled."""
        self._pulled_ns: HostNs | None = None

    def pulled(self, now_ns: HostNs, head_ns: float, output_ns: HostNs) -> None:
        """At `now_ns`, sound captured from `head_ns` on was pulled, to be heard `output_ns` later."""
        age = now_ns + output_ns - head_ns
        if self._ages and age - self._ages[0][1] > JUMP_NS and self._settled(age):
            self._ages.clear()
        while self._ages and (self._ages[-1][1] >= age or now_ns - self._ages[-1][0] > WINDOW_NS):
            self._ages.pop()
        while self._ages and now_ns - self._ages[0][0] > WINDOW_NS:
            self._ages.popleft()
        self._ages.append((now_ns, age))
        self._pulled_ns = now_ns

    # One pull that is 30 ms late is a stall; several in a row that agree are a new delay.
    def _settled(self, age: float) -> bool:
        recent = [held for _, held in list(self._ages)[-3:]]
        return len(recent) == 3 and all(abs(held - age) < JUMP_NS / 3 for held in recent)

    def forget(self) -> None:
        """The sound comes from elsewhere now, or not at all."""
        self._ages.clear()
        self._pulled_ns = None

    def at(self, now_ns: HostNs) -> MediaNs | None:
        """The capture time of what is heard at `now_ns`; None if there is no sound."""
        if self._pulled_ns is None or not self._ages or now_ns - self._pulled_ns > PAUSE_NS:
            return None
        return round(now_ns - self._ages[0][1])
