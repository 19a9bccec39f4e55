"""Names that one connection has at a time, such as `policy`; others wait for them, or take them."""

from __future__ import annotations

from typing import Protocol

from millrace.rights.grants import Subject

NAMES_MAX = 64


class Claimant(Protocol):
    """A connection."""

    subject: Subject

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    def claim_changed(self, name: str, have: bool) -> None:
        """It has got the name, or lost it."""
        ...


class Claims:
    """Which client has which name. A newcomer without `replace` joins its queue; who is replaced comes first in it."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Claimant]] = {}

    def claim(self, name: str, who: Claimant, replace: bool) -> bool:
        """Whether `who` has it now. Who asks again without `replace` stays where it is in the queue."""
        if name not in self._queues and len(self._queues) >= NAMES_MAX:
            return False
        queue = self._queues.setdefault(name, [])
        had = queue[0] if queue else None
        if replace and who in queue:
            queue.remove(who)
        if who not in queue:
            queue.insert(0 if replace else len(queue), who)
        if had is not None and had is not queue[0]:
            had.claim_changed(name, False)
        return queue[0] is who

    def release(self, who: Claimant) -> None:
        """A connection has gone: the next in the queue get what it had."""
        for name, queue in list(self._queues.items()):
            if who not in queue:
                continue
            first = queue[0] is who
            queue.remove(who)
            if not queue:
                del self._queues[name]
            elif first:
                queue[0].claim_changed(name, True)

    def of(self, who: Claimant) -> dict[str, bool]:
        """The names that a connection has (True) or waits for."""
        return {name: queue[0] is who for name, queue in self._queues.items() if who in queue}

    def holder(self, name: str) -> Claimant | None:
        """The client that has it."""
        queue = self._queues.get(name)
        return queue[0] if queue else None
