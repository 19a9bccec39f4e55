"""Where the time of a picture went while it was encoded, and whether that is trouble. Pure: times are arguments.

Three pictures in a row that took longer than the time between two are trouble, and one that took a quarter of a second.
What took the time was measured: waiting for a thread, computing, or neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from millrace.symptoms import Evidence
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

ROW = 3
"""So many slow pictures in a row are trouble."""
LONG_NS = NS_PER_S // 4
"""One picture that takes this long is trouble."""
KEYS_MAX, KEYS_NS = 4, 5 * NS_PER_S // 2
"""So many key pictures within this time: as many as are made at most."""

Told: TypeAlias = Callable[[str, HostNs, Evidence], None]
"""Called with a cause of the stage "picture", when it began, and the evidence."""


class Spent(NamedTuple):
    """One piece of work: when it was asked for, began and ended, and what its thread computed meanwhile."""

    asked_ns: HostNs
    began_ns: HostNs
    ended_ns: HostNs
    computed_ns: HostNs
    crowded: bool
    """When it was asked for, all threads were busy with other pictures."""

    @property
    def took_ns(self) -> HostNs:
        """All of it."""
        return self.ended_ns - self.asked_ns

    @property
    def cause(self) -> str:
        """What took most of the time."""
        waited_ns = self.began_ns - self.asked_ns
        if waited_ns > self.took_ns // 2:
            return "kept waiting" if self.crowded else "starved"
        return "starved" if self.computed_ns < (self.ended_ns - self.began_ns) // 2 else "behind"

    def then(self, rest: Spent) -> Spent:
        """With the rest of the same work, which went on later."""
        return self._replace(ended_ns=rest.ended_ns, computed_ns=self.computed_ns + rest.computed_ns)

    def evidence(self) -> dict[str, float]:
        """The measurements."""
        spent = self.began_ns - self.asked_ns, self.ended_ns - self.began_ns, self.computed_ns
        waited, encoding, computed = (round(ns / NS_PER_MS, 1) for ns in spent)
        return {"waited_for_thread_ms": waited, "encoding_ms": encoding, "computed_ms": computed}


class Strain:
    """What one encoder's work tells. `interval_ns` is the time between two pictures."""

    def __init__(self, interval_ns: HostNs, told: Told) -> None:
        self.interval_ns, self._told = interval_ns, told
        self._slow: list[Spent] = []
        self._keys: deque[tuple[HostNs, int, int]] = deque(maxlen=KEYS_MAX)
        """When they were begun, and how many had joined and asked by the one before."""
        self._joined = self._refreshed = 0
        self._before = (0, 0)

    def encoded(self, spent: Spent) -> None:
        """A picture was encoded."""
        if spent.took_ns <= self.interval_ns:
            self._slow.clear()
            return
        self._slow.append(spent)
        if len(self._slow) < ROW and spent.took_ns < LONG_NS:
            return
        worst = max(self._slow, key=lambda one: one.took_ns)
        evidence = {**worst.evidence(), "interval_ms": round(self.interval_ns / NS_PER_MS, 1)}
        self._told(worst.cause, self._slow[0].asked_ns, evidence)
        self._slow.clear()

    def joined(self) -> None:
        """A viewer came, which needs a whole picture."""
        self._joined += 1

    def refreshed(self) -> None:
        """A viewer asked for a whole picture."""
        self._refreshed += 1

    # One viewer that joins, and one that joins a moment later, are two key pictures, and no storm.
    def key_picture(self, asked_ns: HostNs) -> None:
        """A key picture was made; it was begun at `asked_ns`."""
        self._keys.append((asked_ns, *self._before))
        self._before = self._joined, self._refreshed
        first_ns, joined, refreshed = self._keys[0]
        if len(self._keys) == KEYS_MAX and asked_ns - first_ns <= KEYS_NS:
            counts = {"joined": self._joined - joined, "asked_for": self._refreshed - refreshed}
            self._told("key pictures", first_ns, {"key_pictures": KEYS_MAX, **counts})
            self._keys.clear()
