"""A machine's streams that have no room in their guest: they are left out, and begun once there is some."""

from __future__ import annotations

import logging
from collections.abc import Callable

from millrace.budget import PROGRAMS, Budget
from millrace.errors import BudgetError, GraphError
from millrace.units import HostNs

log = logging.getLogger("millrace.attach")


# A machine says once that its sound begins. Without this, what has no room would end the session, and with it the
# machine's picture, and the next session would end in the same way.
class SoundRoom:
    """The streams of one door, by number; see `guest.machines.refit` for who calls `fit`."""

    def __init__(self, whose: str, what: str, budget: Budget) -> None:
        """`whose` machine it is and `what` its streams are, in words."""
        self.trouble = ""
        """Why one is left out; empty if none is."""
        self._whose, self._what, self._budget = whose, what, budget
        self._lacking: dict[int, tuple[int, Callable[[], None]]] = {}

    def __len__(self) -> int:
        """How many are left out."""
        return len(self._lacking)

    def __contains__(self, number: int) -> bool:
        """Whether this one is left out."""
        return number in self._lacking

    def begin(self, number: int, make: Callable[[], None]) -> None:
        """Have a stream made, now or later. `make` raises GraphError without room."""
        try:
            make()
        except GraphError as error:
            self._lacking[number] = error.needed if isinstance(error, BudgetError) else 0, make
            trouble = f"no room for its {self._what}: {error}"
            if not self.trouble:
                log.warning("%s: %s", self._whose, trouble)
            self.trouble = trouble
        else:
            self.end(number)

    def end(self, number: int) -> None:
        """A stream is over, or there."""
        self._lacking.pop(number, None)
        if not self._lacking:
            self.trouble = ""

    # It is asked each second: without room, nothing is tried that would be counted as a refusal. A stream takes all
    # that it needs at once, so what had no room is all of it.
    def fit(self, now_ns: HostNs) -> None:
        """Make what had no room, as far as there is some now."""
        del now_ns
        for number, (needed, make) in list(self._lacking.items()):
            if self._budget.is_free(needed, PROGRAMS):
                self.begin(number, make)

    def close(self) -> None:
        """The door is closed."""
        self._lacking.clear()
        self.trouble = ""
