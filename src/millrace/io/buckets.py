"""How much small work the event loop may do: of all customers little of its time, and of each a share of that."""

from __future__ import annotations

from typing import Any

from millrace.io.fairqueue import Customer
from millrace.units import NS_PER_MS, HostNs

SMALL_SHARE, SMALL_NS_MAX = 0.1, 5 * NS_PER_MS
"""How much of the loop's time small work may take, in the long run and at once."""
FILL_NS = 2 * NS_PER_MS
"""How often buckets are filled: that takes time in proportion to their number."""


# Token buckets, one for each customer that has used some lately. All of them, and one more for whoever comes next, have
# equal parts of what comes back, and of what there can be at once. So whoever asks for less than such a part is never
# refused, however many others ask for however much; one alone gets no more than half; and all together get no more than
# `SMALL_SHARE`. A common bucket would break that: those that ask most often would take each drop that comes into it.
# At once, n customers get the sum of `SMALL_NS_MAX` / (k + 1) for k = 1 ... n, each one piece of work beyond its part.
class Buckets:
    """What each customer may spend now. Pure: the time is an argument."""

    def __init__(self, now_ns: HostNs) -> None:
        self._left_ns: dict[Customer[Any], float] = {}
        """Of those that have less than the most."""
        self._at_ns = now_ns

    def allow(self, customer: Customer[Any], now_ns: HostNs) -> bool:
        """Whether a customer may spend something."""
        if now_ns - self._at_ns >= FILL_NS:
            self._fill(now_ns - self._at_ns)
            self._at_ns = now_ns
        return self._left_ns.get(customer, SMALL_NS_MAX) > 0

    def _fill(self, passed_ns: HostNs) -> None:
        parts = len(self._left_ns) + 1
        each, most = passed_ns * SMALL_SHARE / parts, SMALL_NS_MAX / parts
        self._left_ns = {one: ns + each for one, ns in self._left_ns.items() if ns + each < most}

    def spend(self, customer: Customer[Any], took_ns: HostNs) -> None:
        """Work of a customer took so long."""
        left_ns = self._left_ns.get(customer)
        if left_ns is None:
            left_ns = SMALL_NS_MAX / (len(self._left_ns) + 2)
        self._left_ns[customer] = left_ns - took_ns
