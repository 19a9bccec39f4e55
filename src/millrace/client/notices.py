"""Limits the messages that a daemon can make a listener show its user."""

from __future__ import annotations

from typing import Protocol

from millrace.clock.allowance import Allowance
from millrace.io.clock import now_ns
from millrace.text import SHOWN_MAX
from millrace.units import NS_PER_MS, HostNs

INTERVAL_NS: HostNs = 100 * NS_PER_MS
"""The average interval. A burst of ten seconds' worth is allowed, as somebody may be turning a knob."""


class Notice(Protocol):
    """Called with what happens to a listener or viewer, for its user: its kind in one word, and a sentence."""

    def __call__(self, kind: str, text: str, /) -> None:
        """It has happened now."""
        ...


def unnoticed(kind: str, text: str) -> None:
    """A `Notice` for whoever has no user."""


class NoticeLimiter:
    """Drops messages beyond the limit, so that a server can't fill terminals and logs."""

    def __init__(self) -> None:
        self._allowance = Allowance()

    def __call__(self, tell: Notice, kind: str, text: str) -> None:
        """Show the message, shortened if too long, unless there were too many lately."""
        self._allowance.passed(now_ns())
        if self._allowance.take(INTERVAL_NS):
            tell(kind, text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…")
