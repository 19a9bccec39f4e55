"""Which of the errors by which a door's sessions end are logged."""

from __future__ import annotations

from typing import NamedTuple

from millrace.units import NS_PER_S, HostNs

KINDS_MAX = 16
"""So many kinds of errors are counted; the rest are one more. A machine may choose the words of its errors."""
QUIET_NS: HostNs = 600 * NS_PER_S
"""An error that was not seen for so long is news."""
_FIGURES = str.maketrans("", "", "0123456789")


class _Seen(NamedTuple):
    times: int
    last_ns: HostNs


# A door may be tried four times a second for days: an error is logged at growing intervals, whatever figures are in its
# text, and whatever other errors come in between.
class Losses:
    """The errors of one door, counted by their kind."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = {}

    def logged(self, error: Exception, text: str, now_ns: HostNs) -> int:
        """Count an error; if it is to be logged, how often there were such ones, else 0."""
        self._seen = {kind: seen for kind, seen in self._seen.items() if now_ns - seen.last_ns < QUIET_NS}
        kind = type(error).__name__, text.translate(_FIGURES)
        if kind not in self._seen and len(self._seen) >= KINDS_MAX:
            kind = "", ""
        times = self._seen[kind].times + 1 if kind in self._seen else 1
        self._seen[kind] = _Seen(times, now_ns)
        return times if times & (times - 1) == 0 else 0
