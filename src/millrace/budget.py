"""What one guest makes the daemon hold, in bytes: one budget, and accounts that are the only way to hold any of it.

An account belongs to something that certainly ends: a node of the graph, a connection, a guest's cache. Whatever is
held for that thing is held in parts of its account (`hold` says how much a part is *now*, so that nothing is ever added
or given back twice), and closing the account gives back all of it at once. The owner of the thing closes the account
at the one place where the thing ends, whatever the way there: no exit path has to remember anything.

The figures are what things cost in resident memory, as far as that is known (docs/architecture.md says how they were
measured); they need not be exact, but each must grow with what it stands for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from millrace.errors import BudgetError

MIB = 1024 * 1024
GUEST_BYTES_MAX = 256 * MIB
"""What a guest may have held for it, unless its configuration says otherwise."""
GUEST_BYTES_MIN = 16_000_000
"""With less there is hardly room for one client of everything."""
PROGRAMS, CONNECTIONS, LISTENERS = 0.875, 0.9375, 1.0
"""Up to which share of the budget each may go: a guest whose programs have used up theirs can still be looked at and
mended by a new connection, and be listened to."""
ENTRY_BYTES = 128
"""What an entry of a dictionary takes besides its key and value."""


class Account:
    """What is held for one thing, by parts. Closed, it holds nothing, and never will again."""

    __slots__ = ("_budget", "_parts", "what")

    def __init__(self, budget: Budget | None, what: str) -> None:
        self.what = what
        self._budget = budget
        self._parts: dict[Hashable, int] = {}

    @property
    def held(self) -> int:
        """Bytes, all parts together."""
        return sum(self._parts.values())

    def part(self, name: Hashable) -> int:
        """Bytes of one part."""
        return self._parts.get(name, 0)

    def hold(self, name: Hashable, size: int, reach: float = PROGRAMS) -> None:
        """The part `name` is of `size` bytes from now on; BudgetError, and it is as it was, where that is too much."""
        more = size - self._parts.get(name, 0)
        if self._budget is None:
            if size:
                raise BudgetError(f"this {self.what} has ended")
            return
        if more:
            self._budget.change(self.what, more, reach)
        if size:
            self._parts[name] = size
        else:
            self._parts.pop(name, None)

    def fits(self, name: Hashable, size: int, reach: float = PROGRAMS) -> bool:
        """As `hold`, where there is another way if there is no room."""
        if self._budget is None:
            return size == 0
        if not self._budget.has_room(size - self.part(name), reach):
            return False
        self.hold(name, size, reach)
        return True

    def close(self) -> None:
        """What it stands for has ended. A second time does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            held = self.held
            self._parts.clear()
            budget.closed(self, held)


def _untold(what: str) -> None:
    """Nobody asks what was refused."""


class Budget:
    """One guest's."""

    def __init__(
        self, whose: str = "this guest", limit: int = GUEST_BYTES_MAX, refused: Callable[[str], None] = _untold
    ) -> None:
        """`refused` hears for what there was no memory."""
        self.whose, self.limit = whose, limit
        self.held = 0
        self.refusals = 0
        self._refused = refused
        self._accounts: set[Account] = set()

    def open(self, what: str, parts: Mapping[Any, int] | None = None, reach: float = PROGRAMS) -> Account:
        """An account that holds `parts` to begin with; BudgetError, and there is none, where they are too much."""
        account = Account(self, what)
        if parts:
            self.change(what, sum(parts.values()), reach)
            account._parts.update(parts)
        self._accounts.add(account)
        return account

    def has_room(self, more: int, reach: float) -> bool:
        """Whether so many bytes more may be held."""
        return more <= 0 or self.held + more <= self.limit * reach

    def change(self, what: str, more: int, reach: float) -> None:
        """For accounts: hold so many bytes more, or fewer."""
        if not self.has_room(more, reach):
            self.refusals += 1
            self._refused(what)
            raise BudgetError(
                f"{self.whose} holds {self.held / MIB:.0f} of the {self.limit / MIB:.0f} MiB that it may hold: no room"
                f" for this {what}; close some of its streams, samples or connections, or raise its `memory`"
            )
        self.held += more

    def closed(self, account: Account, held: int) -> None:
        """For accounts: one is closed."""
        self._accounts.discard(account)
        self.held -= held

    def shares(self) -> dict[str, int]:
        """Bytes by what they are held for, the largest share first."""
        shares: Counter[str] = Counter()
        for account in self._accounts:
            shares[account.what] += account.held
        return dict(shares.most_common())


def size_of(texts: Mapping[str, str] | Mapping[str, bytes]) -> int:
    """What properties take."""
    return sum(sys.getsizeof(key) + sys.getsizeof(value) + ENTRY_BYTES for key, value in texts.items())


ENDED = Account(None, "stream")
"""The account of what is not there yet, or not any more."""
