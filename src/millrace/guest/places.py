"""What a guest has for those who hear, see and watch it: who gives something up when there is no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from millrace.budget import Budget
from millrace.rights.model import Principal, Right
from millrace.symptoms import Evidence, Report, Symptom


class Held(NamedTuple):
    """A part of what is shared that somebody has: a connection, an encoder, a microphone."""

    kind: str
    principal: Principal
    size: int = 1
    """Bytes where memory is short, 1 where places are."""
    give_up: Callable[[], None] | None = None
    """Has it given up at once; None if it counts, but can't be."""


class Wanted(NamedTuple):
    """Something of a kind that is wanted for somebody in a guest, and its size."""

    kind: str
    who: Principal
    guest: str
    more: int = 1


# Places and memory are shared by principals, as encoders of pictures are (sharing.py): whoever has most gives up one,
# its largest, or its newest if all are alike, if it has more than who comes would have then. So nobody is kept out by
# one who connects again and again, in the end all that want some have about as much as another, and nobody takes one
# from whom it would have to give it back. Where memory is short, all count that take of the same, of whatever kind.
#
# A guest's admin may make any number of tokens, each with one connection. So one that may type, and before it one that
# may everything, have one of each kind whatever others have, and are asked for theirs last. Its memory is weighed
# against what their class's reach says (`Budget.is_free`): what programs hold makes others give up no more for it.
def make_room(
    wanted: Wanted, room: Callable[[int, bool], bool], held: Callable[[], Sequence[Held]], report: Report
) -> bool:
    """If there is no room for what is wanted, have others give up as much as it takes, if that is fair.

    `room` says whether there is some once so much is given up of what is `held`, and whether for one that has one in
    any case. That there is none is reported if any is held, whether or not anybody gives up anything. Returns whether
    it is to be admitted as one that has one in any case.
    """
    if room(0, False):
        return False
    here = held()
    always = _has_one(here, wanted)
    if always and room(0, True):
        return True
    if here:
        report(crowded(here, wanted))
    for one in _plan(here, wanted, lambda freed: room(freed, always)):
        # One of those before may have taken more with it: the last listener of an encoder ends that too.
        if one.give_up is not None and not room(0, always):
            one.give_up()
    return always


# Nobody loses anything for somebody who has no room then either, nor more than is wanted: where others than those who
# are asked here hold too much, a whole class would have to leave for one who comes.
def _plan(here: Sequence[Held], wanted: Wanted, room: Callable[[int], bool]) -> list[Held]:
    """All that is given up; nothing if that is not enough."""
    gives, freed, order = list[Held](), 0, givers(here, wanted)
    while not room(freed):
        one = next(order, None) if freed < wanted.more else None
        if one is None:
            return []
        gives.append(one)
        freed += one.size
    return gives


def in_budget(budget: Budget, more: int, reach: float, leaving: int = 0) -> Callable[[int, bool], bool]:
    """Whether a budget has room for so many bytes more, once others, and so many anyway, are given up."""
    return lambda freed, always: more <= 0 or budget.would_fit(more, reach, freed + leaving, always)


# A crowd may be thousands: each one's are sorted once, and then only who has most has to be found.
def givers(here: Sequence[Held], wanted: Wanted) -> Iterator[Held]:
    """What is given up for what is wanted, in this order, as far as that is fair."""
    has, own, always = _by_principal(here), _rank(wanted.who, wanted.guest), _has_one(here, wanted)
    least = has[wanted.who.key] + wanted.more
    theirs: dict[str, list[tuple[int, int]]] = {}
    for number, one in enumerate(here):
        if one.give_up is not None:
            theirs.setdefault(one.principal.key, []).append((one.size, number))
    order = list[tuple[int, int, int, int, str]]()

    def line_up(who: str) -> None:
        """Its next one is its largest, of equal ones the newest."""
        if theirs[who]:
            size, number = theirs[who][-1]
            rank = _rank(here[number].principal, wanted.guest)
            if has[who] > least or (always and rank < own):
                heappush(order, (rank, -has[who], -size, -number, who))

    for who, its in theirs.items():
        its.sort()
        line_up(who)
    while order:
        *_, who = heappop(order)
        size, number = theirs[who].pop()
        has[who] -= size
        yield here[number]
        line_up(who)


def _has_one(here: Sequence[Held], wanted: Wanted) -> bool:
    """Whether somebody may type and has none of that kind yet, so has one in any case."""
    none = not any(one.kind == wanted.kind and one.principal.key == wanted.who.key for one in here)
    return none and _rank(wanted.who, wanted.guest) > 0


def crowded(here: Sequence[Held], wanted: Wanted) -> Symptom:
    """That there was no room for what is wanted: who has most, and how many of each kind."""
    has = _by_principal(here)
    whose = max(has, key=has.__getitem__, default="")
    kinds = Counter(one.kind for one in here if one.principal.key == whose)
    its = {f"its_{kind}s": kinds[kind] for kind in (wanted.kind, *kinds)}
    evidence: Evidence = {"who": whose, **its, "of": len(here), "for": wanted.who.key}
    return Symptom("guest", "crowded", wanted.guest, "", evidence)


def _by_principal(here: Sequence[Held]) -> Counter[str]:
    """What each principal has in all."""
    has: Counter[str] = Counter()
    for one in here:
        has[one.principal.key] += one.size
    return has


def divided(who: Principal, guest: str) -> str:
    """Whose it is where what there is is divided (`Budget.is_free`): nobody's, of who always has some."""
    return "" if _rank(who, guest) else who.key


def _rank(who: Principal, guest: str) -> int:
    return who.may(Right.TYPE, guest) + who.may(Right.ADMIN)
