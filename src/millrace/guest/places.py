"""The places that a guest has for listeners and viewers: who gives one up when there are no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol, TypeVar

from millrace.rights.model import Principal, Right


class Visitor(Protocol):
    """A connection that has a place."""

    principal: Principal


V = TypeVar("V", bound=Visitor)


# Places are shared by principals, as encoders are (sharing.py): whoever has most gives up its newest, unless that would
# leave it with fewer than who comes. So nobody is kept out by one who connects again and again, in the end all that
# want some have as many as another, and nobody takes one from whom it would have to give it back.
#
# A guest's admin may make any number of tokens, each with one connection. So one that may type, and before it one that
# may everything, have one place whatever others have, and are asked for theirs last.
def giver(visitors: Collection[V], who: Principal, guest: str) -> V | None:
    """Which of the guest's visitors gives up its place for one more of `who`; None if that would be no fairer.

    Of each principal's the last one does.
    """
    count = Counter(visitor.principal.key for visitor in visitors)
    mine, own = count[who.key], _rank(who, guest)

    def gives(visitor: V) -> bool:
        its = visitor.principal
        return count[its.key] >= mine + 2 or (not mine and _rank(its, guest) < own)

    def order(visitor: V) -> tuple[int, int]:
        its = visitor.principal
        return -_rank(its, guest), count[its.key]

    # Of equal ones `max` returns the first.
    return max((visitor for visitor in reversed([*visitors]) if gives(visitor)), key=order, default=None)


def most(visitors: Collection[V]) -> tuple[str, int]:
    """Whose are most of them, and how many; an empty name without any."""
    count = Counter(visitor.principal.key for visitor in visitors)
    return count.most_common(1)[0] if count else ("", 0)


def _rank(who: Principal, guest: str) -> int:
    return who.may(Right.TYPE, guest) + who.may(Right.ADMIN)
