"""The offset between two clocks, from round trips."""

from __future__ import annotations

import msgspec

from millrace.units import NS_PER_MS, HostNs

# The pings of a listener are 2 s apart, those of the daemon 8 s: the window is 32 s or about two minutes long, and
# nearly always contains a round trip without queueing.
WINDOW = 16
AGEING = 20e-6
"""How fast the uncertainty of a round trip grows with age: a crystal may have drifted by this much since."""
DRIFT_MAX, READING_NS = 1e-3, 20 * NS_PER_MS
"""What two clocks drift apart at most, and how coarsely one is read: browsers round theirs. Two round trips that differ
by more than this and by half of each can't both be true: a clock has jumped, or stood still while its machine slept."""


class RoundTrip(msgspec.Struct, frozen=True):
    """Half-way between sending and receiving, the other clock showed `remote_ns`, accurate to half of `rtt_ns`."""

    local_ns: HostNs
    remote_ns: HostNs
    rtt_ns: HostNs

    def agrees(self, later: RoundTrip) -> bool:
        """Whether both can be true."""
        apart_ns = (later.remote_ns - later.local_ns) - (self.remote_ns - self.local_ns)
        error_ns = (self.rtt_ns + later.rtt_ns) / 2 + READING_NS
        return abs(apart_ns) <= error_ns + DRIFT_MAX * abs(later.local_ns - self.local_ns)


class OffsetFilter:
    """Trusts the quickest of the recent round trips, old ones less: delay is what makes them inaccurate.

    Those from before a clock jumped are forgotten with the first one after that.
    """

    def __init__(self) -> None:
        self._trips: list[RoundTrip] = []
        self.rtt_ns: HostNs | None = None
        """The quickest of the recent round trips."""

    def add(self, sent_ns: HostNs, remote_ns: HostNs, received_ns: HostNs) -> None:
        """Add a request and its response, which carries the other clock's time."""
        trip = RoundTrip((sent_ns + received_ns) // 2, remote_ns, received_ns - sent_ns)
        self._trips = [*(one for one in self._trips[-(WINDOW - 1) :] if one.agrees(trip)), trip]
        self.rtt_ns = min(one.rtt_ns for one in self._trips)

    def offset_ns(self, now_ns: HostNs, rate: float = 0.0) -> HostNs | None:
        """The other clock minus ours at `now_ns`; a second of the other takes 1 + `rate` seconds on ours."""
        if not self._trips:
            return None
        # `rtt / 2 + age × AGEING` bounds the error of a round trip: the remote reading was taken some time between
        # sending and receiving, and the clocks may have drifted apart since. The trip with the smallest bound is used
        # alone. An average would include the trips that waited in a queue on one of the two ways, and those are off by
        # half of the wait.
        best = min(self._trips, key=lambda trip: trip.rtt_ns / 2 + AGEING * (now_ns - trip.local_ns))
        return best.remote_ns - best.local_ns - round(rate * (now_ns - best.local_ns))
