"""What a screen's source does too often or too much: counted as it happens, judged once a second. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from millrace.symptoms import Evidence
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

MODES_MAX, MODES_PAUSE_NS = 5, NS_PER_S // 2
"""So many changes of mode, none of them later than this after the one before, are trouble. A machine that boots makes
two or three."""
MODES_SHOWN_NS = 100 * NS_PER_MS
"""The least time between the modes that a reader is shown of a machine that makes too many."""
OVER_SCREENS, OVER_FACTOR = 8, 50
"""So many whole screens in a second were reported in pictures of which a fiftieth, or less, had changed."""
COMPARED_MAX = 256
"""Of what was compared since the last second."""
SILENT_S = 5
"""A machine that answers nothing for so many seconds is stopped, or hangs."""
HELD_NS = NS_PER_S
"""A reader that keeps a picture for longer withholds it: encoding takes far less (`python -m bench encode`)."""


class Found(NamedTuple):
    """A cause of the stage "screen", when it began (None: within the last second), and the measurements."""

    cause: str
    at_ns: HostNs | None
    evidence: Evidence


def none_unanswered() -> int:
    """Of a source that is asked nothing."""
    return 0


# Each mode makes another encoder for each sort of viewers, and the whole picture anew. So of too many, each reader is
# shown few (`ShownModes`), and lists of screens tell the newest once a second.
class ScreenFacts:
    """The counts of one screen. Times are those of painting."""

    def __init__(self, unanswered: Callable[[], int] = none_unanswered) -> None:
        """`unanswered`: the number of a question that the source has not answered yet; 0 if none."""
        self.modes = 0
        """How many the source has set."""
        self._modes: list[HostNs] = []
        """Those that followed each other quickly, the first ones of them only."""
        self._last_mode_ns: HostNs = 0
        self._told_modes = self._told_over = False
        self._over: list[tuple[HostNs, int, int]] = []
        """When, and the pixels that were reported and that had changed, where that was too far apart."""
        self._untyped = 0
        self._told_untyped = False
        self._waited_ns: HostNs = 0
        """For the machine's layout, in vain; 0 once that is told."""
        self._asked = unanswered
        self._unanswered = self._unanswered_s = 0

    def mode(self, now_ns: HostNs) -> None:
        """The source set a mode."""
        self.modes += 1
        if now_ns - self._last_mode_ns > MODES_PAUSE_NS:
            self._modes, self._told_modes = [], False
        if len(self._modes) < MODES_MAX:
            self._modes.append(now_ns)
        self._last_mode_ns = now_ns

    @property
    def many_modes(self) -> bool:
        """Whether the source's last modes are too many."""
        return len(self._modes) == MODES_MAX

    def compared(self, reported: int, changed: int, now_ns: HostNs) -> None:
        """So many pixels were reported as painted, of which so many differed."""
        if reported > OVER_FACTOR * changed and len(self._over) < COMPARED_MAX:
            self._over.append((now_ns, reported, changed))

    def untyped(self) -> None:
        """A character was not typed: the machine's keyboard has no key for it."""
        self._untyped += 1

    def lacks_layout(self, waited_ns: HostNs) -> None:
        """The machine has not told its keyboard's layout for so long."""
        self._waited_ns = waited_ns

    def second(self, pixels: int) -> Iterator[Found]:
        """What is to be told of a screen of so many pixels; called once a second."""
        yield from self._many_modes()
        yield from self._over_reported(pixels)
        yield from self._lacks_keys()
        yield from self._answers_nothing()
        # Whoever answers nothing at all does not tell its layout either.
        if self._waited_ns and not self._asked():
            yield Found("no layout", None, {"waited_ms": _ms(self._waited_ns)})
            self._waited_ns = 0

    def _many_modes(self) -> Iterator[Found]:
        modes = self._modes
        if self.many_modes and not self._told_modes:
            self._told_modes = True
            yield Found("too many modes", modes[0], {"modes": MODES_MAX, "within_ms": _ms(modes[-1] - modes[0])})

    # Some cards always do it, at every caret: that is worth one incident, not one a second. It is told again when the
    # source has been exact for a second, and errs anew.
    def _over_reported(self, pixels: int) -> Iterator[Found]:
        over, self._over = self._over, []
        reported, changed = sum(one[1] for one in over), sum(one[2] for one in over)
        if reported < OVER_SCREENS * max(1, pixels):
            self._told_over = self._told_over and bool(over)
            return
        if not self._told_over:
            evidence = {"screens_reported": round(reported / pixels, 1), "screens_changed": round(changed / pixels, 3)}
            yield Found("over-reported", over[0][0], evidence)
        self._told_over = True

    # As many as there are in a long text are one incident. Which they were may be part of a password.
    def _lacks_keys(self) -> Iterator[Found]:
        untyped, self._untyped = self._untyped, 0
        if untyped and not self._told_untyped:
            yield Found("no key", None, {"characters": untyped})
        self._told_untyped = untyped > 0

    @property
    def silent_s(self) -> int:
        """For how many seconds the source has answered nothing; 0 if that is not for long."""
        return self._unanswered_s if self._unanswered_s >= SILENT_S else 0

    def _answers_nothing(self) -> Iterator[Found]:
        before, self._unanswered = self._unanswered, self._asked()
        self._unanswered_s = self._unanswered_s + 1 if before and before == self._unanswered else 0
        if self._unanswered_s == SILENT_S:
            self._waited_ns = 0
            yield Found("no answer", None, {"for_s": SILENT_S})


class ShownModes:
    """The modes of a screen that one reader is shown."""

    __slots__ = ("_facts", "_mode", "_since_ns")

    def __init__(self, facts: ScreenFacts) -> None:
        self._facts = facts
        self._mode = 0
        self._since_ns: HostNs = 0
        """When it took the first picture of that mode."""

    @property
    def due_ns(self) -> HostNs:
        """When it can be shown the newest one; 0: at once."""
        another = self._mode != self._facts.modes
        return self._since_ns + MODES_SHOWN_NS if another and self._facts.many_modes else 0

    def taken(self, now_ns: HostNs) -> None:
        """It is shown the newest one now."""
        if self._mode != self._facts.modes:
            self._mode, self._since_ns = self._facts.modes, now_ns


def _ms(ns: HostNs) -> float:
    return round(ns / NS_PER_MS, 1)


def withheld(who: str, since_ns: HostNs, now_ns: HostNs, size: int) -> Found | None:
    """A reader has had a picture of so many bytes since then: whether that is too long."""
    if now_ns - since_ns <= HELD_NS:
        return None
    evidence: Evidence = {
        "by": who,
        "held_ms": round((now_ns - since_ns) / NS_PER_MS),
        "mib": round(size / (1 << 20), 1),
    }
    return Found("held", since_ns, evidence)
