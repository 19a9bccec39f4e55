"""What a guest has for those who hear, see and watch it: who gives something up when there is no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from millrace.rights.model import Principal, Right
from millrace.symptoms import Evidence, Symptom


class Visitor(Protocol):
    """A connection that has a place, or what was made for some."""

    @property
    def principal(self) -> Principal:
        """Whose it is."""
        ...


V = TypeVar("V", bound=Visitor)
SizeOf = Callable[[V], int]


def _one(visitor: object) -> int:
    return 1


# Places are shared by principals, as encoders are (sharing.py): whoever has most gives up its newest, unless that would
# leave it with fewer than who comes. So nobody is kept out by one who connects again and again, in the end all that
# want some have as many as another, and nobody takes one from whom it would have to give it back.
#
# A guest's admin may make any number of tokens, each with one connection. So one that may type, and before it one that
# may everything, have one place whatever others have, and are asked for theirs last.
def giver(visitors: Collection[V], who: Principal, guest: str, size: SizeOf[V] = _one, more: int = 1) -> V | None:
    """Which of the guest's visitors gives up its place for `more` of `who`; None if that would be no fairer.

    Of each principal's the largest one does, and of equal ones the last.
    """
    held = _held(visitors, size)
    mine, own = held[who.key], _rank(who, guest)

    def gives(visitor: V) -> bool:
        its = visitor.principal
        return held[its.key] > mine + more or (not mine and _rank(its, guest) < own)

    def order(visitor: V) -> tuple[int, int, int]:
        its = visitor.principal
        return -_rank(its, guest), held[its.key], size(visitor)

    # Of equal ones `max` returns the first.
    return max((visitor for visitor in reversed([*visitors]) if gives(visitor)), key=order, default=None)


def crowded(visitors: Collection[V], who: Principal, guest: str, kind: str, size: SizeOf[V] = _one) -> Symptom:
    """That there was no room for one more of this kind for `who`: who holds most, and how many of them."""
    held = _held(visitors, size)
    whose = max(held, key=held.__getitem__, default="")
    has = sum(visitor.principal.key == whose for visitor in visitors)
    evidence: Evidence = {"who": whose, f"its_{kind}s": has, "of": len(visitors), "for": who.key}
    return Symptom("guest", "crowded", guest, "", evidence)


def _held(visitors: Collection[V], size: SizeOf[V]) -> Counter[str]:
    """What each principal's are in all."""
    held: Counter[str] = Counter()
    for visitor in visitors:
        held[visitor.principal.key] += size(visitor)
    return held


def _rank(who: Principal, guest: str) -> int:
    return who.may(Right.TYPE, guest) + who.may(Right.ADMIN)
