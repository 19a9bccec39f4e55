"""Connections that have not logged in yet: they are closed in time, and first of all when descriptors run short.

Pure: time is an argument. Every door's connections stand here, whatever they speak: a daemon has one supply of
descriptors, and one that opens connections and says nothing must not use it up for those that have something to say.
"""

from __future__ import annotations

import logging
from typing import Protocol

from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.io")
LOGIN_NS = 20 * NS_PER_S
"""To log in, or to say all of a request, from the first byte to the last."""
REST_NS = 75 * NS_PER_S
"""Between two requests of somebody who is known; as long as proxies keep a line."""


class PendingConnection(Protocol):
    """A connection, as asyncio's transports have it."""

    def is_closing(self) -> bool:
        """Whether it is on its way out."""
        ...

    def abort(self) -> None:
        """Close it at once."""
        ...


class PendingConnections:
    """Strangers wait to be let in; who is inside stays as long as its own protocol lets it; who rests may be waiting
    between two requests. Each queue is in the order of its deadlines."""

    def __init__(self) -> None:
        self.strangers: dict[PendingConnection, HostNs] = {}
        self.resting: dict[PendingConnection, HostNs] = {}
        self._inside: set[PendingConnection] = set()
        self._swept_ns: HostNs = 0
        self.pressed = 0
        """For so many more that come one goes."""

    def arrive(self, visitor: PendingConnection, now_ns: HostNs) -> None:
        """Somebody has connected, or a stranger has asked something: their time begins."""
        self._sweep(now_ns)
        if visitor not in self._inside:
            self.left(visitor)
            self.strangers[visitor] = now_ns + LOGIN_NS

    def enter(self, visitor: PendingConnection) -> None:
        """It is known which program that is."""
        self.left(visitor)
        self._inside.add(visitor)

    def rest(self, visitor: PendingConnection, now_ns: HostNs) -> None:
        """What somebody known had asked is done."""
        self._sweep(now_ns)
        self.left(visitor)
        self.resting[visitor] = now_ns + REST_NS

    def left(self, visitor: PendingConnection) -> None:
        """The connection is gone."""
        self.strangers.pop(visitor, None)
        self.resting.pop(visitor, None)
        self._inside.discard(visitor)

    def _sweep(self, now_ns: HostNs) -> None:
        """Those that have hung up by themselves are forgotten within a second: what TLS keeps of each is not small."""
        if now_ns - self._swept_ns < NS_PER_S:
            return
        self._swept_ns = now_ns
        for queue in (self.strangers, self.resting):
            for visitor in [one for one in queue if one.is_closing()]:
                del queue[visitor]

    def next_timeout(self) -> HostNs | None:
        """When the next one's time is over."""
        return min((next(iter(queue.values())) for queue in (self.strangers, self.resting) if queue), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Let go those whose time is over."""
        for queue, why in ((self.strangers, "did not log in"), (self.resting, "sent no further request")):
            late = 0
            while queue and next(iter(queue.values())) <= now_ns:
                late += self._let_go(queue)
            if late:
                log.info("closed %d connections that %s in time", late, why)

    def make_room(self) -> bool:
        """Descriptors run short: the stranger that has waited longest goes, else one at rest. False: none."""
        for queue in (self.strangers, self.resting):
            while queue:
                if self._let_go(queue):
                    return True
        return False

    def _let_go(self, queue: dict[PendingConnection, HostNs]) -> bool:
        visitor = next(iter(queue))
        del queue[visitor]
        if visitor.is_closing():
            return False
        visitor.abort()
        return True
