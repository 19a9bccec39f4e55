"""What the other side has a listener tell its user: as much as somebody reads, and no more."""

from __future__ import annotations

from collections.abc import Callable

from millrace.clock.allowance import Allowance
from millrace.io.clock import now_ns
from millrace.text import SHOWN_MAX
from millrace.units import NS_PER_MS, HostNs

EACH_NS: HostNs = 100 * NS_PER_MS
"""At once as many as in ten seconds: somebody may turn a knob."""


class NoticeLimiter:
    """A server that says more than that is not repeated: it would fill terminals and logs."""

    def __init__(self) -> None:
        self._allowance = Allowance()

    def __call__(self, tell: Callable[[str, str], None], kind: str, text: str) -> None:
        """Tell it, if there has not been too much lately; what is too long is cut."""
        self._allowance.passed(now_ns())
        if self._allowance.take(EACH_NS):
            tell(kind, text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…")
