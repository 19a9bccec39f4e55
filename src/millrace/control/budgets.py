"""Whose budget pays for what the daemon keeps for a watcher or a request: the guest's, or the holder's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millrace.budget import MIB, Budget
from millrace.rights.model import Holder

if TYPE_CHECKING:
    from millrace.guest.guest import Guest

HOLDER_BYTES_MAX = 64 * MIB
"""What the daemon keeps for one holder who is of no guest."""


class Budgets:
    """All holders'."""

    def __init__(self, guests: Mapping[str, Guest]) -> None:
        self._guests = guests
        self._own: dict[str, Budget] = {}

    def of(self, holder: Holder) -> Budget:
        """The budget of the guest that a holder is let into, of the first where they are several, or its own."""
        homes = sorted(holder.guests & self._guests.keys())
        if homes:
            return self._guests[homes[0]].graph.budget
        return self._own.setdefault(holder.key, Budget(holder.key, HOLDER_BYTES_MAX))

    def forget(self, key: str) -> None:
        """A holder is gone."""
        self._own.pop(key, None)
