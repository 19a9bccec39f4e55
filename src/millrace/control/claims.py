"""Names that one connection at a time can own, such as `policy`. Others queue for a name, or take it over."""

from __future__ import annotations

from typing import Protocol

from millrace.rights.grants import Subject

NAMES_MAX = 64


class Claimant(Protocol):
    """A connection that can own names."""

    subject: Subject

    @property
    def name(self) -> str:
        """The program's own name for itself."""
        ...

    def claim_changed(self, name: str, have: bool) -> None:
        """It has acquired or lost the name."""
        ...


class Claims:
    """Which connection owns which name. Claims without `replace` queue; a replaced owner is next in line."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Claimant]] = {}

    def claim(self, name: str, who: Claimant, replace: bool) -> bool:
        """Claim a name; True if `who` owns it now. A repeated claim without `replace` keeps its place in the queue."""
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
        """A connection has closed: its names pass to the next in each queue."""
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
        """The names that a connection owns (True) or is queued for (False)."""
        return {name: queue[0] is who for name, queue in self._queues.items() if who in queue}

    def holder(self, name: str) -> Claimant | None:
        """The connection that owns the name."""
        queue = self._queues.get(name)
        return queue[0] if queue else None
