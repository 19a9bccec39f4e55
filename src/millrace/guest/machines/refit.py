"""Shows a machine's screen, or plays its sound, once the guest has room for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.io.clock import now_ns
from millrace.io.later import Later
from millrace.units import HostNs

AGAIN_S = 1.0
"""How often room is looked for. It takes nothing from anybody as long as there is none: see `Budget.is_free`."""


class Fitted(Protocol):
    """A screen, or sound, which may have no room."""

    trouble: str
    """Why what the machine shows or plays is left out; empty if it is not."""

    def fit(self, now_ns: HostNs) -> None:
        """Show or play what had no room, if it has some now."""
        ...


# A machine says its size once, and that its sound begins, so what has no room then would never be there. The guest's
# programs may have taken it for a while only.
class Refit:
    """Looks for room as long as a part has none; `look` is to be called when the machine has said something."""

    def __init__(self, part: Fitted, changed: Callable[[], None]) -> None:
        """`changed` is called when the part has got into trouble, or out of it."""
        self._part, self._changed, self._told = part, changed, ""
        self._later = Later(self._again)

    @property
    def trouble(self) -> str:
        """That of the part."""
        return self._part.trouble

    def look(self) -> None:
        """The part may be in trouble."""
        if self._part.trouble != self._told:
            self._told = self._part.trouble
            self._changed()
        if self._told and not self._later.begun:
            self._later.begin(AGAIN_S)

    def _again(self) -> None:
        self._part.fit(now_ns())
        self.look()

    def close(self) -> None:
        """The session is over."""
        self._later.close()
