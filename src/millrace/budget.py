"""Memory budgets: how many bytes the daemon holds for one guest. All of it is booked through accounts.

An account belongs to an object with a definite end: a graph node, a connection, a guest's cache. Memory held for that
object is booked as named parts of its account. `hold` sets the *current* size of a part rather than a difference, so
nothing is ever added or released twice. Closing the account releases everything at once. The owner closes it in the
one place where the object ends, so individual exit paths need no bookkeeping.

The figures approximate resident memory (docs/architecture.md says how they were measured). They need not be exact, but
each must grow with the object it stands for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from millrace.errors import BudgetError

MIB = 1024 * 1024
GUEST_BYTES_MAX = 256 * MIB
"""A guest's default memory budget."""
GUEST_BYTES_MIN = 16_000_000
"""Anything smaller hardly fits one client of each kind."""
ENCODERS, PROGRAMS, VIEWERS, LISTENERS, WATCHERS, CONNECTIONS = 0.875, 0.9375, 0.953125, 0.96875, 0.984375, 1.0
"""How far each class of use may fill the budget. When a guest's programs have used up their share, a new connection
can still inspect and repair the guest, and a few listeners and viewers can still connect. Only connections reach its
end: of a machine whose session is up, nobody may take what that needs next."""
SHARES: Mapping[float, float] = {WATCHERS: 0.25, LISTENERS: 0.25, VIEWERS: 0.125, ENCODERS: 0.625}
"""What those who watch the state, hear and see the guest may hold of the budget, each class by itself. One
film of 3840 × 2160 has room, and with its screen leaves programs a sixteenth."""
FEW = 1 / 64
"""The part of the budget up to which such a class may fill as much as its reach says: beyond, as much as encoders."""
NAMES: Mapping[float, str] = {
    WATCHERS: "watchers", LISTENERS: "listeners", VIEWERS: "viewers", ENCODERS: "encoders of pictures",
}  # fmt: skip
"""What those classes are called."""
ENTRY_BYTES = 128
"""Overhead of a dictionary entry besides its key and value."""


# The laws of an account: `held` of a budget is at every moment the sum of the parts of its open accounts. A part
# changes only after the budget has agreed, so a refusal leaves both sums as they were. An account that is closed lets
# go of its budget first, so closing twice, or holding 0 afterwards, changes nothing; holding more than 0 then is
# refused, because nothing would ever release it.
class Account:
    """Memory held for one object, in named parts. Once closed it holds nothing, for good."""

    __slots__ = ("_budget", "_parts", "among", "what")

    def __init__(self, budget: Budget | None, what: str, among: float | None = None) -> None:
        self.what, self.among = what, among
        """What it is, and the reach of the class with a share of its own (`SHARES`) among which all of it counts."""
        self._budget = budget
        self._parts: dict[Hashable, int] = {}

    @property
    def held(self) -> int:
        """Total bytes of all parts."""
        return sum(self._parts.values())

    def part(self, name: Hashable) -> int:
        """Bytes of one part."""
        return self._parts.get(name, 0)

    @property
    def parts(self) -> dict[Any, int]:
        """All parts, by name."""
        return dict(self._parts)

    def hold(self, name: Hashable, size: int, reach: float = PROGRAMS) -> None:
        """Set part `name` to `size` bytes; BudgetError, leaving it unchanged, if that exceeds the budget."""
        more = size - self._parts.get(name, 0)
        if self._budget is None:
            if size:
                raise BudgetError(f"this {self.what} has ended")
            return
        if more:
            self._budget.change(self, more, reach)
        if size:
            self._parts[name] = size
        else:
            self._parts.pop(name, None)

    # No refusal is counted or reported here: the caller does without the memory (a shorter lane, a packet dropped), so
    # nothing was denied to the guest.
    def fits(self, name: Hashable, size: int, reach: float = PROGRAMS) -> bool:
        """Like `hold`, but returns False instead of raising, for callers with an alternative."""
        if self._budget is None:
            return size == 0
        if not self._budget.has_room(size - self.part(name), self.among or reach):
            return False
        self.hold(name, size, reach)
        return True

    def may_spare(self, give_back: Callable[[], None]) -> None:
        """Call this before anybody is refused, until the account is closed: it gives back what the object can spare."""
        if self._budget is not None:
            self._budget.sparing[self] = give_back

    def close(self) -> None:
        """Release everything: the object has ended. Calling it again does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            held = self.held
            self._parts.clear()
            budget.closed(self, held)


class Lack(NamedTuple):
    """What has no room for something more: the whole budget, or the share of a class (its name, else empty)."""

    among: str
    held: int
    limit: float


def _untold(what: str, lack: Lack) -> None:
    """Ignore refusals."""


class Budget:
    """The budget of one guest, or of a principal that belongs to no single guest."""

    def __init__(
        self, whose: str = "this guest", limit: int = GUEST_BYTES_MAX, refused: Callable[[str, Lack], None] = _untold
    ) -> None:
        """`refused` is called with the kind of object that did not fit, and what has no room for it."""
        self.whose, self.limit = whose, limit
        self.held = 0
        self.refusals = 0
        self._refused = refused
        self._accounts: set[Account] = set()
        self.sparing: dict[Account, Callable[[], None]] = {}
        """What accounts that can spare something do before anybody is refused."""
        self._shared = dict.fromkeys(SHARES, 0)
        """What each class with a share of its own holds."""

    def open(self, what: str, parts: Mapping[Any, int] | None = None, reach: float = PROGRAMS) -> Account:
        """Open an account that starts with `parts`; BudgetError, and no account, if they do not fit."""
        account = Account(self, what, reach if reach in SHARES else None)
        if parts:
            self.change(account, sum(parts.values()), reach)
            account._parts.update(parts)
        self._accounts.add(account)
        return account

    # The limit may be lowered below what is held. Nothing is taken away then, and parts may still shrink, because
    # whatever frees memory must never be refused for want of memory.
    def has_room(self, more: int, reach: float, part: float = 1.0) -> bool:
        """Whether `more` additional bytes fit, in this part of the class's share, if it has one.

        If they don't, what can be spared is given back first. Shrinking always fits, even while over the limit.
        """
        return self._fits(more, reach, part) or (self._spared() and self._fits(more, reach, part))

    def _spared(self) -> bool:
        """Have given back what can be spared; whether anything was."""
        before = self.held
        for give_back in list(self.sparing.values()):
            give_back()
        return self.held < before

    def _fits(self, more: int, reach: float, part: float) -> bool:
        if more <= 0:
            return True
        if reach in SHARES:
            shared = self._shared[reach] + more
            if shared > self.limit * SHARES[reach] * part:
                return False
            reach = reach if shared <= self.limit * FEW else ENCODERS
        return self.held + more <= self.limit * reach

    def change(self, account: Account, more: int, reach: float) -> None:
        """Called by accounts: change the total by `more` bytes, which may be negative."""
        if not self.has_room(more, account.among or reach):
            self.refusals += 1
            lack = self._lack(more, account.among or reach)
            self._refused(account.what, lack)
            raise BudgetError(self._sentence(account.what, lack))
        self._add(account, more)

    def _lack(self, more: int, reach: float) -> Lack:
        """What has no room for `more` bytes."""
        share = self.limit * SHARES.get(reach, 1.0)
        if reach in SHARES and self._shared[reach] + more > share:
            return Lack(NAMES[reach], self._shared[reach], share)
        return Lack("", self.held, self.limit)

    def _sentence(self, what: str, lack: Lack) -> str:
        amount = f"{lack.held / MIB:.0f} of the {lack.limit / MIB:.0f} MiB"
        said = f"{self.whose} holds {amount} that it may hold"
        cure = "close some of its streams, samples or connections"
        if lack.among:
            said, cure = f"the {lack.among} of {self.whose} hold {amount} that they may hold", "end some of them"
        return f"{said}: no room for this {what}; {cure}, or raise its `memory`"

    def _add(self, account: Account, more: int) -> None:
        self.held += more
        if account.among is not None:
            self._shared[account.among] += more

    def closed(self, account: Account, held: int) -> None:
        """Called by accounts when one closes."""
        self._accounts.discard(account)
        self.sparing.pop(account, None)
        self._add(account, -held)

    def shares(self) -> dict[str, int]:
        """Bytes held by kind of object, largest first."""
        shares: Counter[str] = Counter()
        for account in self._accounts:
            shares[account.what] += account.held
        return dict(shares.most_common())


def size_of(texts: Mapping[str, str] | Mapping[str, bytes]) -> int:
    """Approximate memory taken by a property list."""
    return sum(sys.getsizeof(key) + sys.getsizeof(value) + ENTRY_BYTES for key, value in texts.items())


ENDED = Account(None, "stream")
"""A closed account: for objects that do not exist yet, or no longer do."""
