"""How often one viewer, and all of a principal, may have what takes time from others: whole pictures, other paces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from millrace.clock.allowance import FASTER, Allowances
from millrace.units import NS_PER_S, HostNs

WHOLE_NS: HostNs = NS_PER_S // 4
"""A principal's viewers may have one whole picture each so long, however often they connect anew."""
_TAKEN_NS: HostNs = round(WHOLE_NS * FASTER)
"""What an allowance grows by in that time."""
PACE_NS: HostNs = NS_PER_S // 4
"""How long a viewer's encoder keeps its pictures a second, which the machine is told."""


def _always(now_ns: HostNs) -> bool:
    return True


class RateLimit:
    """What one viewer asks for: once in `interval_ns`, if `take` lets it then. The first comes at once."""

    def __init__(self, interval_ns: HostNs = NS_PER_S, take: Callable[[HostNs], bool] = _always) -> None:
        self.due_ns: HostNs | None = None
        """When to ask for it again; None if it waits for nothing."""
        self._interval_ns, self._take = interval_ns, take
        self._next_ns: HostNs = 0
        self._free = False

    def allowed(self, now_ns: HostNs) -> bool:
        """It needs one: whether it comes now. If not, `due_ns` says when to ask again."""
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + self._interval_ns
            if self._free or self._take(now_ns):
                self._free, self.due_ns = False, None
                return True
        self.due_ns = self._next_ns
        return False

    def came_due(self, now_ns: HostNs) -> bool:
        """Whether what it waited for may come now; it waits no more then."""
        due = self.due_ns is not None and now_ns >= self.due_ns
        if due:
            self.due_ns = None
        return due

    def renew(self) -> None:
        """The next comes at once, in any case: what makes it necessary is not the viewer's doing."""
        self._next_ns, self._free = 0, True


class WholePictures:
    """How many whole pictures the viewers of each principal may have in a guest. They outlast its connections."""

    def __init__(self, at_once: int) -> None:
        """After a rest, it may have so many at once."""
        self._of = Allowances(at_once * _TAKEN_NS)

    def __len__(self) -> int:
        return len(self._of)

    def of(self, principal: str) -> Callable[[HostNs], bool]:
        """Takes one of a principal's, if it may have one."""
        return partial(self._of.take, principal, _TAKEN_NS)


class ViewerLimits:
    """Those of one viewer. `take` takes one of its principal's whole pictures."""

    def __init__(self, take: Callable[[HostNs], bool]) -> None:
        self.moves = RateLimit(take=take)
        """To another encoder, which begins with the whole picture."""
        self.refreshes = RateLimit(take=take)
        self.paces = RateLimit(PACE_NS)
        """Other pictures a second of the encoder that it has."""

    @property
    def due_ns(self) -> HostNs | None:
        """When it may share another encoder, or have another pace, if it waits for that."""
        return min((ns for ns in (self.moves.due_ns, self.paces.due_ns) if ns is not None), default=None)

    def came_due(self, now_ns: HostNs) -> bool:
        """Whether it waits no more for that."""
        return any([self.moves.came_due(now_ns), self.paces.came_due(now_ns)])
