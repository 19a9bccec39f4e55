"""How much small work the event loop may do: of all customers little of its time, and of each a share of that."""

from __future__ import annotations

from typing import Any

from millrace.io.fairqueue import Customer
from millrace.units import NS_PER_MS, HostNs

SMALL_SHARE, SMALL_NS_MAX = 0.1, 5 * NS_PER_MS
"""How much of the loop's time small work may take, in the long run and at once."""
OWN_NS_MAX = SMALL_NS_MAX / 2
"""How much of it one customer's may take at once."""


# What comes back is divided among those that have used some, and one more: so whoever comes next finds something left,
# however much the others ask for.
class Purses:
    """What may be spent now, together and by each customer. Pure: the time is an argument."""

    def __init__(self, now_ns: HostNs) -> None:
        self._all_ns: float = SMALL_NS_MAX
        self._own_ns: dict[Customer[Any], float] = {}
        """Of those that have less than the most."""
        self._at_ns = now_ns

    def allow(self, customer: Customer[Any], now_ns: HostNs) -> bool:
        """Whether a customer may spend something."""
        more, self._at_ns = (now_ns - self._at_ns) * SMALL_SHARE, now_ns
        self._all_ns = min(SMALL_NS_MAX, self._all_ns + more)
        each = more / (len(self._own_ns) + 1)
        self._own_ns = {one: ns + each for one, ns in self._own_ns.items() if ns + each < OWN_NS_MAX}
        return self._all_ns > 0 and self._own_ns.get(customer, OWN_NS_MAX) > 0

    def spend(self, customer: Customer[Any], took_ns: HostNs) -> None:
        """Work of a customer took so long."""
        self._all_ns -= took_ns
        self._own_ns[customer] = self._own_ns.get(customer, OWN_NS_MAX) - took_ns
