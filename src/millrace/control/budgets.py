"""Whose budget pays for what the daemon keeps for a watcher or a request: the guest's, or the principal's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millrace.budget import MIB, Budget
from millrace.rights.model import Principal

if TYPE_CHECKING:
    from millrace.guest.guest import Guest

PRINCIPAL_BYTES_MAX = 64 * MIB
"""What the daemon keeps for one principal who is of no guest, or of several."""


class Budgets:
    """All principals'."""

    def __init__(self, guests: Mapping[str, Guest]) -> None:
        self._guests = guests
        self._own: dict[str, Budget] = {}

    def of(self, principal: Principal) -> Budget:
        """The budget of the guest that a principal is let into, or its own where that is no one guest."""
        home = self._guests.get(min(principal.guests)) if len(principal.guests) == 1 else None
        if home is not None:
            return home.graph.budget
        return self._own.setdefault(principal.key, Budget(principal.key, PRINCIPAL_BYTES_MAX))

    def forget(self, key: str) -> None:
        """A principal is gone."""
        self._own.pop(key, None)
