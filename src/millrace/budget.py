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
ENCODERS, PROGRAMS, VIEWERS, LISTENERS, WATCHERS = 0.875, 0.9375, 0.953125, 0.96875, 0.984375
REQUESTS, UNREAD, CONNECTIONS, MACHINES = 0.986, 0.988, 0.992, 1.0
"""How far each class of use may fill the budget. When a guest's programs have used up their share, a new connection
can still inspect and repair the guest, and a few listeners and viewers can still connect. Only machines reach its end:
of one whose session is up, nobody may take what that needs next."""
SHARES: Mapping[float, float] = {
    WATCHERS: 0.25, LISTENERS: 0.25, VIEWERS: 0.125, ENCODERS: 0.625, REQUESTS: 0.25, UNREAD: PROGRAMS,
}  # fmt: skip
"""What those who watch the state, hear and see the guest may hold of the budget, each class by itself; and so requests
with what is incomplete of messages, and what programs leave unread. One film of 3840 × 2160 has room, and with its
screen leaves programs a sixteenth."""
FEW: Mapping[float, float] = dict.fromkeys(SHARES, 1 / 64) | {REQUESTS: 1 / 256, UNREAD: 1 / 128}
"""The part of the budget up to which such a class may fill as much as its reach says. Those of requests and of what is
unread leave viewers, who come after them, some of theirs."""
FEW_BYTES = 128 * 1024
"""At least so much, however small the guest: a request with a body of 50 kB."""
DIVIDED: Mapping[float, int] = {REQUESTS: 1, VIEWERS: 2}
"""The classes in which a principal's leave others something free: this part of what they hold. For viewers, whose
connections make room for each other (guest/places.py), it is what they are being sent that would fill the class."""
BEYOND: Mapping[float, float] = dict.fromkeys(SHARES, ENCODERS) | {UNREAD: PROGRAMS}
"""How much such a class may fill beyond its few."""
NAMES: Mapping[float, str] = {
    WATCHERS: "watchers", LISTENERS: "listeners", VIEWERS: "viewers", ENCODERS: "encoders of pictures",
    REQUESTS: "requests", UNREAD: "unread messages",
}  # fmt: skip
"""What those classes are called."""
ENTRY_BYTES = 128
"""Overhead of a dictionary entry besides its key and value."""


# The laws of an account: `held` of a budget is at every moment the sum of the parts of its open accounts. A part
# changes only after the budget has agreed, so a refusal leaves both sums as they were. An account that is closed lets
# go of its budget first, so closing twice, or holding 0 afterwards, changes nothing; holding more than 0 then is
# refused, because nothing would ever release it.
#
# A part counts among the class by whose reach it is held, or the account's own class if it has one. Only a part that
# holds nothing can begin to count among another class.
class Account:
    """Memory held for one object, in named parts. Once closed it holds nothing, for good."""

    __slots__ = ("_always", "_among", "_budget", "_parts", "among", "what", "who")

    def __init__(
        self, budget: Budget | None, what: str, among: float | None = None, who: str = "", always: bool = False
    ) -> None:
        """`always`: see `Budget.is_free`; true of all that it will hold."""
        self.what, self.among, self.who = what, among, who
        """What it is; the reach of the class with a share of its own (`SHARES`) among which all of it counts; and whose
        it is: a principal's key, or empty where that does not matter."""
        self._budget, self._always = budget, always
        self._among: dict[Hashable, float] = {}
        """The parts that count among another class."""
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
        """Set part `name` to `size` bytes; BudgetError, leaving it unchanged, if that exceeds the budget.

        ValueError if it is held among another class already.
        """
        more = size - self._parts.get(name, 0)
        if self._budget is None:
            if size:
                raise BudgetError(f"this {self.what} has ended")
            return
        if size:
            self._check(name, reach)
        reach = self._reach(name, reach)
        if more:
            self._budget.change(self, more, reach, self._always)
        if size:
            self._parts[name] = size
            if reach in SHARES and self.among is None:
                self._among[name] = reach
        else:
            self._parts.pop(name, None)
            self._among.pop(name, None)

    def _check(self, name: Hashable, reach: float) -> None:
        among = reach if reach in SHARES else None
        if self.among is None and name in self._parts and self._among.get(name) != among:
            raise ValueError(f"part {name!r} of this {self.what} counts among another class already")

    def _reach(self, name: Hashable, reach: float) -> float:
        return self.among or self._among.get(name, reach)

    def belong(self, who: str) -> None:
        """From now on it is somebody else's."""
        held = self._shared()
        if self._budget is not None:
            self._budget.moved(held, self.who, who)
        self.who = who

    def _shared(self) -> Counter[float]:
        """What of it counts among each class with a share of its own."""
        if self.among is not None:
            return Counter({self.among: self.held})
        held: Counter[float] = Counter()
        for name, among in self._among.items():
            held[among] += self._parts[name]
        return held

    # No refusal is counted or reported here: the caller does without the memory (a shorter lane, a packet dropped). But
    # others are asked for what they can spare, as for `hold`.
    def fits(self, name: Hashable, size: int, reach: float = PROGRAMS) -> bool:
        """Like `hold`, but returns False instead of raising, for callers with an alternative."""
        if self._budget is None:
            return size == 0
        more = size - self.part(name)
        if not self._budget.has_room(more, self._reach(name, reach), who=self.who, always=self._always):
            return False
        self.hold(name, size, reach)
        return True

    def is_free(self, name: Hashable, size: int, reach: float = PROGRAMS) -> bool:
        """Whether a part could have that size: a question, see `Budget.is_free`."""
        more = size - self.part(name)
        if self._budget is None:
            return False
        return self._budget.is_free(more, self._reach(name, reach), who=self.who, always=self._always)

    def may_spare(self, give_back: Callable[[], None]) -> None:
        """Call this before anybody is refused, until the account is closed: it gives back what the object can spare."""
        if self._budget is not None:
            self._budget.sparing[self] = give_back

    def close(self) -> None:
        """Release everything: the object has ended. Calling it again does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.closed(self, self.held, self._shared())
            self._parts.clear()
            self._among.clear()


class Lack(NamedTuple):
    """What has no room for something more: the whole budget, or the share of a class (its name, else empty)."""

    among: str
    held: int
    limit: float
    who: str = ""
    """For requests whose share is full, or divided: whose hold most."""
    divided: str = ""
    """The name of the class if there is room, but for what somebody's leave others free (`DIVIDED`)."""


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
        self._whose: dict[float, Counter[str]] = {reach: Counter() for reach in DIVIDED}
        """What each principal holds of such a class."""

    def open(
        self, what: str, parts: Mapping[Any, int] | None = None, reach: float = PROGRAMS, who: str = "",
        always: bool = False,
    ) -> Account:  # fmt: skip
        """Open an account that starts with `parts`; BudgetError, and no account, if they do not fit."""
        account = Account(self, what, reach if reach in SHARES else None, who, always)
        if parts:
            self.change(account, sum(parts.values()), reach, always)
            account._parts.update(parts)
        self._accounts.add(account)
        return account

    # The limit may be lowered below what is held. Nothing is taken away then, and parts may still shrink, because
    # whatever frees memory must never be refused for want of memory.
    def has_room(self, more: int, reach: float, part: float = 1.0, who: str = "", always: bool = False) -> bool:
        """Whether `more` additional bytes fit, in this part of the class's share, if it has one.

        This is a demand: if they don't, what can be spared is given back first. Shrinking always fits, even while over
        the limit.
        """
        return self._demanded(more, reach, part, who, always) is None

    def _demanded(self, more: int, reach: float, part: float = 1.0, who: str = "", always: bool = False) -> Lack | None:
        """What has no room for `more` bytes, also once what can be spared is given back."""
        lack = self._lack(more, reach, part, who, always)
        return self._lack(more, reach, part, who, always) if lack is not None and self._spared() else lack

    def _spared(self) -> bool:
        """Have given back what can be spared; whether anything was."""
        before = self.held
        for give_back in list(self.sparing.values()):
            give_back()
        return self.held < before

    # Requests are too short-lived for one to make room for another. Instead, a principal's leave free as much as they
    # hold: half of what there is for the first one, and something for everybody else, however many it makes. What is
    # nobody's among viewers, and a budget of its own, is not divided.
    def is_free(self, more: int, reach: float, part: float = 1.0, who: str = "", always: bool = False) -> bool:
        """The same as a question, for whoever asks again and again: nobody gives anything back for it.

        `always`: they may fill what their class's reach says, also beyond its few.
        """
        return self._lack(more, reach, part, who, always) is None

    def _lack(self, more: int, reach: float, part: float = 1.0, who: str = "", always: bool = False) -> Lack | None:
        """The law of what fits: what has no room for `more` bytes; None if they fit."""
        if more <= 0:
            return None
        if who == self.whose:
            return None if self.held + more <= self.limit * reach else Lack("", self.held, self.limit)
        left = self._left_for_others(reach, who)
        lack = self._short(more + left, reach, part, always)
        if lack is None:
            return None
        divided = left > 0 and self._short(more, reach, part, always) is None
        whose = self._whose[reach] if reach == REQUESTS and (lack.among or divided) else Counter[str]()
        most = max(whose, key=whose.__getitem__, default=who if reach == REQUESTS and lack.among else "")
        return lack._replace(who=most, divided=NAMES[reach] if divided else "")

    def _short(self, more: int, reach: float, part: float, always: bool) -> Lack | None:
        """What has no room for so many bytes, whosever they are."""
        if reach in SHARES:
            shared, share = self._shared[reach] + more, self.limit * SHARES[reach]
            if shared > share * part:
                return Lack(NAMES[reach], self._shared[reach], share)
            if not always and shared > max(self.limit * FEW[reach], FEW_BYTES):
                reach = BEYOND[reach]
        return None if self.held + more <= self.limit * reach else Lack("", self.held, self.limit)

    def _left_for_others(self, reach: float, who: str) -> int:
        if reach not in DIVIDED or (reach == VIEWERS and not who):
            return 0
        return self._whose[reach][who] // DIVIDED[reach]

    def change(self, account: Account, more: int, reach: float, always: bool = False) -> None:
        """Called by accounts: change the total by `more` bytes, which may be negative."""
        reach = account.among or reach
        lack = self._demanded(more, reach, who=account.who, always=always)
        if lack is not None:
            self.refusals += 1
            self._refused(account.what, lack)
            raise BudgetError(self._sentence(account.what, lack), more)
        self._add(more, reach, account.who)

    def _sentence(self, what: str, lack: Lack) -> str:
        amount = f"{lack.held / MIB:.0f} of the {lack.limit / MIB:.0f} MiB"
        said = f"{self.whose} holds {amount} that it may hold"
        cure = "close some of its streams, samples or connections"
        if lack.among:
            said, cure = f"the {lack.among} of {self.whose} hold {amount} that they may hold", "end some of them"
        if lack.divided:
            most = "more than" if lack.divided == NAMES[REQUESTS] else "more than twice what"
            said += f", and nobody's{'' if lack.among else f' {lack.divided}'} may hold {most} is left for others"
            cure = "end some of them" if lack.among else f"end some of those {lack.divided}"
        return f"{said}: no room for this {what}; {cure}, or raise its `memory`"

    def _add(self, more: int, reach: float, who: str) -> None:
        self.held += more
        self._share(more, reach, who)

    def _share(self, more: int, reach: float, who: str) -> None:
        """Count it among its class."""
        if reach in SHARES:
            self._shared[reach] += more
        if reach in DIVIDED:
            whose = self._whose[reach]
            whose[who] += more
            if not whose[who]:
                del whose[who]

    def moved(self, shared: Mapping[float, int], before: str, after: str) -> None:
        """Called by accounts when one becomes somebody else's."""
        for reach, size in shared.items():
            self._share(-size, reach, before)
            self._share(size, reach, after)

    def closed(self, account: Account, held: int, shared: Mapping[float, int]) -> None:
        """Called by accounts when one closes."""
        self._accounts.discard(account)
        self.sparing.pop(account, None)
        self.held -= held
        for reach, size in shared.items():
            self._share(-size, reach, account.who)

    # Asked of the budget as it would be then, so that the law of what fits is written once.
    def would_fit(self, more: int, reach: float, freed: int, always: bool = False) -> bool:
        """Whether `more` additional bytes fit once so many that the class holds are given up."""
        self._add(-freed, reach, "")
        try:
            return self.has_room(more, reach, always=always)
        finally:
            self._add(freed, reach, "")

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
