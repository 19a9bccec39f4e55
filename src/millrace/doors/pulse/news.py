"""What subscribers are told: each change once, a client in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from millrace.wire.pulse.constants import Change, Facility

Event = tuple[Facility, Change, int]


class Subscriber(Protocol):
    """A client that wants to hear of changes."""

    def note_events(self, news: Mapping[Event, int]) -> None:
        """Tell it those that it asked for."""
        ...


class News:
    """Changes of one guest, gathered until they are spread."""

    def __init__(self) -> None:
        self.subscribers: dict[int, Subscriber] = {}
        self.serial = 0
        self.spread: Callable[[], None] = self._spread_now
        """Has `spreading` done: a thousand clients that listen are not all told at once."""
        self._waiting: dict[Event, int] = {}

    def publish(self, facility: Facility, change: Change, index: int) -> None:
        """Tell every client that subscribed to `facility`, when `spread` lets it."""
        if not self.subscribers:
            return
        if change is Change.REMOVE:
            self._waiting.pop((facility, Change.CHANGE, index), None)
        self.serial += 1
        self._waiting.setdefault((facility, change, index), self.serial)
        self.spread()

    def spreading(self) -> Iterator[None]:
        """Tell the clients what is new, one in a step."""
        while self._waiting:
            news, self._waiting = self._waiting, {}
            for client in list(self.subscribers.values()):
                client.note_events(news)
                yield

    def _spread_now(self) -> None:
        for _ in self.spreading():
            pass
