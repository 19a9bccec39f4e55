"""The keyboard of a guest: everybody may watch, one session has the keyboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from millrace.absent import nothing
from millrace.errors import RightsError
from millrace.rights.model import Principal, Right


@dataclass(frozen=True, eq=False, slots=True)
class Watcher:
    """One session of a principal. Two sessions of the same principal are two watchers."""

    key: str
    principal: Principal


# Taking the keyboard needs the right to type, having it needs nothing more: code that ends that right has to make
# the holder `leave`. It is an identity and not a key, so a second session of the same person does not type along.
class Seat:
    """One guest's keyboard, and what goes with it: the pointer, the screen's size, seeking in what plays."""

    def __init__(self, guest: str, changed: Callable[[], None] = nothing) -> None:
        """`changed` is called when another watcher, or nobody, has it."""
        self._guest, self._changed = guest, changed
        self._who: Watcher | None = None

    @property
    def who(self) -> Watcher | None:
        """The watcher that has it."""
        return self._who

    def take(self, who: Watcher) -> None:
        """Give it to `who`, whoever had it before; RightsError unless `who` may type in the guest."""
        who.principal.demand(Right.TYPE, self._guest)
        self._give(who)

    def leave(self, who: Watcher) -> None:
        """Take it away from `who`, if `who` has it."""
        if self._who is who:
            self._give(None)

    def _give(self, who: Watcher | None) -> None:
        before, self._who = self._who, who
        if who is not before:
            self._changed()

    def demand(self, who: Watcher, what: str) -> None:
        """RightsError unless `who` has it."""
        if self._who is not who:
            raise RightsError(f"{who.key} only watches guest {self._guest}: {what} needs the keyboard; take it first")
