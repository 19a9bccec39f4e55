"""Which memory budget is charged for a watcher or a request: the guest's, or the principal's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millrace.budget import MIB, Budget
from millrace.rights.model import Principal

if TYPE_CHECKING:
    from millrace.guest.guest import Guest

PRINCIPAL_BYTES_MAX = 64 * MIB
"""Budget of a principal that belongs to no guest, or to several."""


class Budgets:
    """The budgets of all principals."""

    def __init__(self, guests: Mapping[str, Guest]) -> None:
        self._guests = guests
        self._own: dict[str, Budget] = {}

    # A principal with rights in one guest only is that guest, for this purpose: otherwise a tenant could have as many
    # budgets as it has tokens.
    def of(self, principal: Principal) -> Budget:
        """The budget of a principal's guest if it has exactly one, otherwise its own."""
        home = self._guests.get(min(principal.guests)) if len(principal.guests) == 1 else None
        if home is not None:
            return home.graph.budget
        return self._own.setdefault(principal.key, Budget(principal.key, PRINCIPAL_BYTES_MAX))

    def forget(self, key: str) -> None:
        """Drop the budget of a principal that is gone."""
        self._own.pop(key, None)
