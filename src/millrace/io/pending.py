"""Connections that have not logged in yet. They are closed after a timeout, or earlier when descriptors run short.

Pure: time is an argument. It covers the connections of all doors and protocols, because they share the daemon's
descriptors: a client that opens connections and sends nothing must not use them up.
"""

from __future__ import annotations

import logging
from typing import Protocol

from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.io")
LOGIN_NS = 20 * NS_PER_S
"""Time to log in, or to send a whole request."""
REST_NS = 75 * NS_PER_S
"""How long a logged-in client's connection may idle between requests; as long as proxies keep connections alive."""


class PendingConnection(Protocol):
    """A connection, with the methods of an asyncio transport."""

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        ...

    def abort(self) -> None:
        """Close it at once."""
        ...


# All timeouts in a queue are of the same length, and a connection that begins again is put at the end. A dictionary
# keeps its entries in the order of insertion, so its first entry is always the next to expire and the one that waited
# longest: finding it takes no search, however many strangers there are.
class PendingConnections:
    """`strangers` have not logged in yet. Connections inside are left to their own protocol. `resting` ones have logged
    in and idle between two requests. Both queues are in order of their deadlines."""

    def __init__(self) -> None:
        self.strangers: dict[PendingConnection, HostNs] = {}
        self.resting: dict[PendingConnection, HostNs] = {}
        self._inside: set[PendingConnection] = set()
        self._swept_ns: HostNs = 0
        self.pressed = 0
        """For this many further connections, each new one displaces a pending one."""

    def arrive(self, visitor: PendingConnection, now_ns: HostNs) -> None:
        """A client has connected, or a stranger has begun a request: start its timeout."""
        self._sweep(now_ns)
        if visitor not in self._inside:
            self.left(visitor)
            self.strangers[visitor] = now_ns + LOGIN_NS

    def enter(self, visitor: PendingConnection) -> None:
        """The client has logged in."""
        self.left(visitor)
        self._inside.add(visitor)

    def rest(self, visitor: PendingConnection, now_ns: HostNs) -> None:
        """A logged-in client's request has been served."""
        self._sweep(now_ns)
        self.left(visitor)
        self.resting[visitor] = now_ns + REST_NS

    def left(self, visitor: PendingConnection) -> None:
        """The connection is gone."""
        self.strangers.pop(visitor, None)
        self.resting.pop(visitor, None)
        self._inside.discard(visitor)

    def _sweep(self, now_ns: HostNs) -> None:
        """Forget connections that have closed, at most once a second: their TLS state takes a lot of memory."""
        if now_ns - self._swept_ns < NS_PER_S:
            return
        self._swept_ns = now_ns
        for queue in (self.strangers, self.resting):
            for visitor in [one for one in queue if one.is_closing()]:
                del queue[visitor]

    def next_timeout(self) -> HostNs | None:
        """When the next timeout ends."""
        return min((next(iter(queue.values())) for queue in (self.strangers, self.resting) if queue), default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Close the connections whose time is over."""
        for queue, why in ((self.strangers, "did not log in"), (self.resting, "sent no further request")):
            late = 0
            while queue and next(iter(queue.values())) <= now_ns:
                late += self._let_go(queue)
            if late:
                log.info("closed %d connections that %s in time", late, why)

    def make_room(self) -> bool:
        """Close the stranger that has waited longest, or else the oldest resting connection. False if there is none."""
        for queue in (self.strangers, self.resting):
            while queue:
                if self._let_go(queue):
                    return True
        return False

    def _let_go(self, queue: dict[PendingConnection, HostNs]) -> bool:
        visitor = next(iter(queue))
        del queue[visitor]
        # One that is closing may wait for its peer to read; but it may as well be closed, and make no room.
        here = not visitor.is_closing()
        visitor.abort()
        return here
