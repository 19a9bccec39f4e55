"""In whose turns a principal's commands are done: its guest's, or its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from millrace.io.turns import Turns
from millrace.rights.model import Principal
from millrace.symptoms import Symptom, kept_waiting

if TYPE_CHECKING:
    from millrace.guest.guest import Guest


class PrincipalTurns:
    """The turns of all principals. `report` is told of one that is kept waiting."""

    def __init__(self, guests: Mapping[str, Guest], report: Callable[[Symptom], None]) -> None:
        self._guests, self._report = guests, report
        self.owner, self.strangers = Turns(), Turns()
        """The owner's, and that of unauthenticated connections."""
        self._own: dict[str, Turns] = {}

    def of(self, principal: Principal) -> Turns:
        """The turns that a principal's commands are charged to.

        A principal of one guest is charged to that guest, however many tokens it has. Other tokens and certificates
        have turns of their own, and so has the owner.
        """
        kind = principal.key.partition("/")[0]
        if kind != "owner" and len(principal.guests) == 1 and (name := min(principal.guests)) in self._guests:
            return self._guests[name].turns
        if kind not in ("token", "certificate"):
            return self.owner
        if principal.key not in self._own:
            told = partial(kept_waiting, "", principal.key)
            self._own[principal.key] = Turns(kept_waiting=lambda *waited: self._report(told(*waited)))
        return self._own[principal.key]

    def forget(self, key: str) -> None:
        """Drop the turns of a principal that is gone."""
        self._own.pop(key, None)
