"""A queue in which customers take turns: what waits longest of the one that has used least is next.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996, section 2), with one change:
how long work takes is known only afterwards, so it is charged as what the customer's last took, and corrected then.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

from millrace.units import NS_PER_MS, HostNs

T = TypeVar("T")
EXPECTED_NS: HostNs = 10 * NS_PER_MS
"""What a customer's first work is expected to take."""


class Customer(Generic[T]):
    """Whoever has a turn of its own: what it has waiting, and how much it has used."""

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.used_ns: HostNs = 0
        """Since all began; after a rest, at least as much as those that went on."""
        self.expected_ns: HostNs = EXPECTED_NS


class Taken(NamedTuple, Generic[T]):
    """What is next, of which customer, and what it was charged."""

    customer: Customer[T]
    item: T
    charged_ns: HostNs


# A customer that uses less than its share has used less than the others whenever it comes, so it waits for what has
# begun and nothing else. One that rests saves nothing up: it begins again where those are that did not.
class FairQueue(Generic[T]):
    """What waits, by customer. It refers to a customer only while that has something waiting."""

    def __init__(self) -> None:
        self._customers: dict[Customer[T], None] = {}
        self._reached_ns: HostNs = 0
        """What the one had used that was served last."""

    def put(self, customer: Customer[T], item: T) -> None:
        """Add an item behind the others of its customer."""
        if not customer.waiting:
            customer.used_ns = max(customer.used_ns, self._reached_ns)
            self._customers[customer] = None
        customer.waiting.append(item)

    def take(self) -> Taken[T] | None:
        """Take out the next item; None if nothing waits."""
        customer = min(self._customers, key=lambda one: one.used_ns, default=None)
        if customer is None:
            return None
        item = customer.waiting[0]
        self.remove(customer, item)
        self._reached_ns = max(self._reached_ns, customer.used_ns)
        customer.used_ns += customer.expected_ns
        return Taken(customer, item, customer.expected_ns)

    def remove(self, customer: Customer[T], item: T) -> None:
        """Take out an item that waits. Its customer has used nothing."""
        customer.waiting.remove(item)
        if not customer.waiting:
            del self._customers[customer]

    def done(self, taken: Taken[T], took_ns: HostNs) -> None:
        """What was taken has ended, and took so long."""
        taken.customer.used_ns += took_ns - taken.charged_ns
        taken.customer.expected_ns = took_ns

    def clear(self) -> None:
        """Discard all that waits."""
        for customer in self._customers:
            customer.waiting.clear()
        self._customers.clear()
