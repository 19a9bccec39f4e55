"""Grants: which programs of a guest may record its microphone, and what it plays.

A rule is about one kind of capture and one program, or `*` for those without a rule of their own. Without any
rule a guest's programs may record, as under PulseAudio.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from millrace.errors import ConfigError

ANY = "*"
RULES_MAX = 1000


class Capture(Enum):
    """What can be recorded."""

    MICROPHONE = "microphone"
    MONITOR = "monitor"


def parse_capture(text: str) -> Capture:
    """A kind of capture by name; ConfigError says what there is."""
    try:
        return Capture(text)
    except ValueError:
        raise ConfigError(f"{text!r}: there are {' and '.join(c.value for c in Capture)}") from None


class Grants:
    """One guest's rules."""

    def __init__(self) -> None:
        self._rules: dict[tuple[Capture, str], bool] = {}

    def __iter__(self) -> Iterator[tuple[Capture, str, bool]]:
        return iter([(what, program, allow) for (what, program), allow in self._rules.items()])

    def set(self, what: Capture, program: str, allow: bool | None) -> None:
        """Make a rule, or with None take it away; ConfigError where there are too many."""
        if allow is None:
            self._rules.pop((what, program), None)
            return
        if len(self._rules) >= RULES_MAX and (what, program) not in self._rules:
            raise ConfigError(f"{RULES_MAX} grants a guest at most")
        self._rules[what, program] = allow

    def may(self, what: Capture, program: str) -> bool:
        """Whether `program` may record that: by its own rule, else by the one for any, else yes."""
        return self._rules.get((what, program), self._rules.get((what, ANY), True))
