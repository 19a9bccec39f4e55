"""Subscription events: each change is sent once, and clients are notified one per step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from millrace.absent import nothing
from millrace.wire.pulse.constants import Change, Facility

log = logging.getLogger("millrace.pulse")
Event = tuple[Facility, Change, int]


InTurns = Callable[[Callable[[], Iterator[None]]], Callable[[], None]]
"""Takes a generator function; returns a function to call when there is work. The steps are then run in turns."""


# Events say that an object is new, has changed or is gone; a client then asks for its current state. So an event that
# is already pending need not be sent twice, and a client that reads slowly has at most one entry for each object and
# kind of event, however often things change. A REMOVE takes a pending change with it, since a client that asked for
# the object's state would only be told that there is none.
#
# Every event has a serial. Events published before a client subscribed may still wait to be distributed; comparing
# serials keeps them from it, since the client has not yet listed the objects that they are about.
class SubscriptionEvents:
    """Changes in one guest, collected until they are distributed."""

    def __init__(self, in_turns: InTurns) -> None:
        self.subscriptions: dict[int, Subscription] = {}
        self.serial = 0
        self._waiting: dict[Event, int] = {}
        # Distributed in steps: a thousand subscribers can't be notified all at once.
        self._spread = in_turns(self.spreading)

    def publish(self, facility: Facility, change: Change, index: int) -> None:
        """Notify the clients that subscribed to `facility`, when their turn comes."""
        if not self.subscriptions:
            return
        self.serial += 1
        # A repeated event gets a new serial, so that clients that have subscribed since its last occurrence get it too.
        self._waiting[facility, change, index] = self.serial
        self._spread()

    def spreading(self) -> Iterator[None]:
        """Pass new events to the clients, one client per step."""
        while self._waiting:
            news, self._waiting = self._waiting, {}
            for subscription in list(self.subscriptions.values()):
                try:
                    subscription.note(news)
                except Exception:
                    # The others are told all the same. What is pending for this one it is told with what comes next.
                    log.exception("a client that subscribed could not be woken")
                yield


@dataclass(slots=True)
class SubscriptionState:
    """One client's subscription mask and its pending events."""

    mask: int = 0
    since: int = 0
    """The serial after which events concern it."""
    events: dict[tuple[int, int], None] = field(default_factory=dict)


class Subscription:
    """One client's subscription, continuing from `state`. `wake` is called when events are pending."""

    def __init__(
        self, news: SubscriptionEvents, client: int, wake: Callable[[], None], state: SubscriptionState
    ) -> None:
        self._news, self._client, self._wake, self._state = news, client, wake, state
        if state.mask:
            # Serials are valid only within one process, so a continued connection starts at the current one.
            state.since = news.serial
            news.subscriptions[client] = self

    def set_mask(self, mask: int) -> None:
        """Subscribe to these facilities from now on; 0 means none."""
        if not self._state.mask:
            self._state.since = self._news.serial
        self._state.mask = mask
        if mask:
            self._news.subscriptions[self._client] = self
        else:
            self._news.subscriptions.pop(self._client, None)

    def close(self) -> None:
        """The connection is over. It is reached through `wake`, and keeps this: a cycle (daemon/collector.py)."""
        self.set_mask(0)
        self._wake = nothing

    def leave(self) -> None:
        """The connection continues elsewhere, from its state."""
        self._news.subscriptions.pop(self._client, None)
        self._wake = nothing

    def note(self, news: Mapping[Event, int]) -> None:
        """Queue the events in the mask, each at most once."""
        state = self._state
        for (facility, change, index), serial in news.items():
            if state.mask & (1 << facility) and serial > state.since:
                if change is Change.REMOVE:
                    state.events.pop((facility | Change.CHANGE, index), None)
                state.events.setdefault((facility | change, index))
        if state.events:
            self._wake()

    def take(self) -> Iterable[tuple[int, int]]:
        """Take the pending events: (event, index)."""
        events = self._state.events
        if events:
            self._state.events = {}
        return events
