"""How long a door leaves a server alone that would be no better off with another attempt at once."""

from __future__ import annotations

HOLD_FIRST_S, HOLD_FACTOR, HOLD_MAX_S, SOON_S = 30.0, 4.0, 1800.0, 2.0


class Hold:
    """Waits for one reason, each longer than the one before. `state` is that of the door meanwhile."""

    def __init__(self, state: str) -> None:
        self.state = state
        self._why = self._advice = ""
        self._next_s = HOLD_FIRST_S
        self._soon = False

    def begin(self, why: str, advice: str = "", soon: bool = False) -> None:
        """A wait is due; a short one that makes later ones no longer, if the next attempt is to be made `soon`."""
        self._why, self._advice, self._soon = why, advice, soon

    def take(self) -> tuple[float, str]:
        """How long to wait now, in seconds, and what to tell; 0 if no wait is due. The next one is longer."""
        if not self._why:
            return 0.0, ""
        seconds = SOON_S if self._soon else self._next_s
        if not self._soon:
            self._next_s = min(self._next_s * HOLD_FACTOR, HOLD_MAX_S)
        told = f"{self._why}; retrying after {seconds:.0f} s, or at once if you attach again{self._advice}"
        self._why = ""
        return seconds, told

    def lasted(self, seconds: float) -> None:
        """A session took so long: the next wait is a first one, if that is longer than it would be."""
        if seconds > self._next_s:
            self._next_s = HOLD_FIRST_S

    def drop(self) -> None:
        """No wait is due."""
        self._why = ""

    def reset(self) -> None:
        """No wait is due, and the next one is a first one."""
        self._why, self._next_s = "", HOLD_FIRST_S
