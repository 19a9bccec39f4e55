"""What subscribers are told: each change once, a client in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from millrace.wire.pulse.constants import Change, Facility

Event = tuple[Facility, Change, int]


InTurns = Callable[[Callable[[], Iterator[None]]], Callable[[], None]]
"""Makes of steps what is called whenever there is something for them to do: they are done in turns."""


class SubscriptionEvents:
    """Changes of one guest, gathered until they are spread."""

    def __init__(self, in_turns: InTurns) -> None:
        self.subscriptions: dict[int, Subscription] = {}
        self.serial = 0
        self._waiting: dict[Event, int] = {}
        # A thousand clients that listen are not all told at once.
        self._spread = in_turns(self.spreading)

    def publish(self, facility: Facility, change: Change, index: int) -> None:
        """Tell every client that subscribed to `facility`, when it is its turn."""
        if not self.subscriptions:
            return
        self.serial += 1
        # Who has subscribed since it last happened hears of it now.
        self._waiting[facility, change, index] = self.serial
        self._spread()

    def spreading(self) -> Iterator[None]:
        """Tell the clients what is new, one in a step."""
        while self._waiting:
            news, self._waiting = self._waiting, {}
            for subscription in list(self.subscriptions.values()):
                subscription.note(news)
                yield


@dataclass(slots=True)
class SubscriptionState:
    """What one client wants to hear of, and what it has not been told yet."""

    mask: int = 0
    since: int = 0
    """The serial from which on it wants that."""
    events: dict[tuple[int, int], None] = field(default_factory=dict)


class Subscription:
    """One client's, which goes on from a `state`. `wake` is called when there is something to tell."""

    def __init__(
        self, news: SubscriptionEvents, client: int, wake: Callable[[], None], state: SubscriptionState
    ) -> None:
        self._news, self._client, self._wake, self._state = news, client, wake, state
        if state.mask:
            # Serials count one guest's news in one process: what is new here is new to it.
            state.since = news.serial
            news.subscriptions[client] = self

    def set_mask(self, mask: int) -> None:
        """Hear of these facilities from now on, of none where it is 0."""
        if not self._state.mask:
            self._state.since = self._news.serial
        self._state.mask = mask
        if mask:
            self._news.subscriptions[self._client] = self
        else:
            self._news.subscriptions.pop(self._client, None)

    def note(self, news: Mapping[Event, int]) -> None:
        """Queue those that it asked for; the same one is queued once."""
        state = self._state
        for (facility, change, index), serial in news.items():
            if state.mask & (1 << facility) and serial > state.since:
                if change is Change.REMOVE:
                    state.events.pop((facility | Change.CHANGE, index), None)
                state.events.setdefault((facility | change, index))
        if state.events:
            self._wake()

    def take(self) -> Iterable[tuple[int, int]]:
        """What to tell the client now: (event, index)."""
        events, self._state.events = self._state.events, {}
        return events
