"""The length of a cycle, chosen by the lowest latency that anybody asks for."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.units import NS_PER_S, Frames, HostNs

# All are frame durations of Opus, and each is twice the one before.
QUANTA_NS: tuple[HostNs, ...] = (2_500_000, 5_000_000, 10_000_000, 20_000_000, 40_000_000)


class Quanta:
    """The available cycle lengths at one rate, in frames."""

    def __init__(self, rate: int) -> None:
        self._frames = [max(1, rate * ns // NS_PER_S) for ns in QUANTA_NS]

    @property
    def shortest(self) -> Frames:
        """The grid on which graphs start."""
        return self._frames[0]

    @property
    def longest(self) -> Frames:
        """The length that every buffer must have room for."""
        return self._frames[-1]

    def chosen(self, asks_ns: Iterable[HostNs], now: Frames) -> Frames:
        """The longest that satisfies every request; `now` if there is none.

        Clients in underrun count too: they usually come back soon, and would have to wait for the end of a longer
        cycle.
        """
        ask = min(asks_ns, default=None)
        if ask is None:
            return now
        fits = [frames for frames, ns in zip(self._frames, QUANTA_NS, strict=True) if ns <= ask]
        return fits[-1] if fits else self.shortest
