"""Names that one connection has at a time, such as `policy`; others wait for them, or take them."""

from __future__ import annotations

from typing import Protocol

from millrace.rights.grants import Subject

NAMES_MAX = 64


class Claimant(Protocol):
    """A connection."""

    subject: Subject

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    def claim_changed(self, name: str, have: bool) -> None:
        """It has got the name, or lost it."""
        ...


class Claims:
    """Which client has which name. A newcomer without `replace` waits in line; one that is replaced is first in it."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Claimant]] = {}

    def claim(self, name: str, who: Claimant, replace: bool) -> bool:
        """Whether `who` has it now. Who asks again without `replace` stays where it is in the line."""
        if name not in self._lines and len(self._lines) >= NAMES_MAX:
            return False
        line = self._lines.setdefault(name, [])
        had = line[0] if line else None
        if replace and who in line:
            line.remove(who)
        if who not in line:
            line.insert(0 if replace else len(line), who)
        if had is not None and had is not line[0]:
            had.claim_changed(name, False)
        return line[0] is who

    def release(self, who: Claimant) -> None:
        """A connection has gone: the next in line get what it had."""
        for name, line in list(self._lines.items()):
            if who not in line:
                continue
            first = line[0] is who
            line.remove(who)
            if not line:
                del self._lines[name]
            elif first:
                line[0].claim_changed(name, True)

    def of(self, who: Claimant) -> dict[str, bool]:
        """The names that a connection has (True) or waits for."""
        return {name: line[0] is who for name, line in self._lines.items() if who in line}

    def holder(self, name: str) -> Claimant | None:
        """The client that has it."""
        line = self._lines.get(name)
        return line[0] if line else None
