"""What all subscribers of a track want of its source, together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from millrace.media.packet import NO_DEMAND, Demand
from millrace.units import MediaNs


def _largest(wishes: Iterable[float | None]) -> float | None:
    """The greatest value; None, meaning unbounded, if any of them is None."""
    known = list(wishes)
    bounded = [wish for wish in known if wish is not None]
    return max(bounded) if len(bounded) == len(known) else None


# One encoder serves all, so each wish is merged in the direction that harms no subscriber: the lowest bitrate, because
# it must fit the slowest connection; the largest size and rate, because smaller ones can be made from it by dropping.
# None among sizes means unbounded, among bitrates and latencies it means no wish. Nearly all subscribers want the same,
# so equal wishes are looked at once: to merge them costs as much as there are different ones.
class Wishes:
    """The wishes of all subscribers of a track."""

    def __init__(self) -> None:
        self._counts: Counter[Demand] = Counter()

    def add(self, wish: Demand) -> None:
        """One more has this wish."""
        self._counts[wish] += 1

    def remove(self, wish: Demand) -> None:
        """One fewer has this wish."""
        self._counts[wish] -= 1
        if not self._counts[wish]:
            del self._counts[wish]

    def clear(self) -> None:
        """There are no subscribers any more."""
        self._counts.clear()

    @property
    def played(self) -> bool:
        """Whether any of them says what is being played."""
        return any(wish.played_ns is not None for wish in self._counts)

    def merged(self, played_ns: MediaNs | None) -> Demand:
        """The combined demand: what suits the slowest connection, the longest path and the largest screen."""
        wishes = self._counts
        if not wishes:
            return NO_DEMAND
        width = _largest([wish.width_max for wish in wishes])
        return Demand(
            subscribers=sum(wish.subscribers * count for wish, count in wishes.items()),
            bitrate_max=min((wish.bitrate_max for wish in wishes if wish.bitrate_max is not None), default=None),
            latency_ns=max((wish.latency_ns for wish in wishes if wish.latency_ns is not None), default=None),
            width_max=None if width is None else int(width),
            fps_max=_largest([wish.fps_max for wish in wishes]),
            drop_ratio=min(wish.drop_ratio for wish in wishes),
            played_ns=played_ns,
        )
