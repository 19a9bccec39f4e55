"""Who sits before a guest: all may watch, one has the keyboard."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.errors import RightsError
from millrace.rights.model import Principal, Right


@dataclass(frozen=True, eq=False, slots=True)
class Watcher:
    """One session of somebody's. Two sessions of the same principal are two watchers."""

    key: str
    principal: Principal


class Seat:
    """One guest's keyboard, and what goes with it: pointer, size of the screen, seeking in what plays."""

    def __init__(self, guest: str) -> None:
        self._guest = guest
        self._who: Watcher | None = None

    @property
    def who(self) -> Watcher | None:
        """Who has it."""
        return self._who

    def take(self, who: Watcher) -> None:
        """`who` has it from now on, whoever had it before; RightsError unless they may control the guest."""
        who.principal.demand(Right.CONTROL, self._guest)
        self._who = who

    def leave(self, who: Watcher) -> None:
        """`who` has it no more, if they had it."""
        if self._who is who:
            self._who = None

    def demand(self, who: Watcher, what: str) -> None:
        """RightsError unless `who` has it."""
        if self._who is not who:
            raise RightsError(
                f"{who.key} only watches guest {self._guest}: {what} is for who has the keyboard; take it"
            )
