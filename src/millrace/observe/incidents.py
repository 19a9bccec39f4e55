"""Incidents: everything that was audible or was refused, with its stage, its cause and the evidence.

A ring of the latest incidents, and totals by guest, stage and cause. The effects of an incident of the whole daemon (a
stalled machine makes every stream late) are recorded in the guest where they were audible, with the same stage and
cause, so that a tenant sees the reason and nothing of the others. Time is an argument.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from millrace.symptoms import CAUSES, Evidence
from millrace.text import printable
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

INCIDENTS_MAX = 1000
"""The daemon's own, and as many of all guests. A guest's are displaced by others only if it has the most."""
INCIDENTS_PER_KIND_MAX = 100
"""Per guest and kind, so that a flood of one kind does not displace the guest's others, nor requests of strangers the
daemon's own."""
MERGE_NS = NS_PER_S
LASTING = frozenset({("cycle", "cut short"), ("requests", "cut short")})
"""Lasting conditions: they are reported repeatedly while they last, with pauses."""
MERGE_LASTING_NS = 60 * NS_PER_S
WHO = ("who", "for", "by")
"""Evidence that names somebody."""
COUNTERS = ("underruns",)
"""Evidence that counts on; of incidents that are counted as one, the latest is shown."""
NAMED_MAX = 10
"""Incidents of one kind in one guest that go on at the same time and name somebody. What others do is one more."""
OTHERS = "others"


class IncidentView(msgspec.Struct, frozen=True):
    """The public form of an incident. `at` and `last` are in seconds since 1970.

    If it happened several times, `varied` names the evidence that was not the same each time: what is shown is that of
    the first time. Counters (`underruns`) are those of the last.
    """

    id: str
    at: float
    host_ns: int
    guest: str
    subject: str
    stage: str
    cause: str
    text: str
    evidence: Evidence
    count: int
    last: float
    varied: tuple[str, ...] = ()


@dataclass(eq=False)
class Incident:
    """An incident. `at_ns` is host time, `wall_ns` the same on the wall clock; `subject` is an object's key, or empty.

    It happened `count` times, first at `at_ns` and last at `last_ns`.
    """

    number: int
    at_ns: HostNs
    wall_ns: int
    guest: str
    subject: str
    stage: str
    cause: str
    evidence: Evidence
    whose: str = ""
    """Whom its evidence names, if anybody."""
    count: int = 1
    varied: tuple[str, ...] = ()
    """Names of evidence that was another one in a repetition."""
    last_ns: HostNs = 0
    told_ns: HostNs = 0
    """When it was last reported, which may be later than it happened."""

    def view(self) -> IncidentView:
        """The public form."""
        return IncidentView(
            id=f"incident/{self.number}", at=self.wall_ns / NS_PER_S, host_ns=self.at_ns, guest=self.guest,
            subject=self.subject, stage=self.stage, cause=self.cause, text=CAUSES[self.stage, self.cause],
            evidence=self.evidence, count=self.count,
            last=(self.wall_ns + self.last_ns - self.at_ns) / NS_PER_S, varied=self.varied,
        )  # fmt: skip

    def take(self, shown: Evidence) -> None:
        """It has happened again, with this evidence."""
        self.count += 1
        latest = {name: shown[name] for name in COUNTERS if name in shown}
        before = self.evidence = {**self.evidence, **latest}
        self.varied = tuple(
            name for name, value in before.items() if name in self.varied or shown.get(name, value) != value
        )


def _printable(evidence: Evidence) -> Evidence:
    """`evidence` made printable: much of it comes from outside, and it goes to logs, terminals and web pages."""
    return {printable(key): printable(value) if isinstance(value, str) else value for key, value in evidence.items()}


_NONE: OrderedDict[int, Incident] = OrderedDict()
Changed = Callable[[str, Incident], None]
"""Called with new, change or remove when an incident is new, happens again, or is discarded."""


# When an incident ends: it has no end of its own, only a last time. A symptom that repeats within `MERGE_NS` of the
# last one is the same incident and counts; after a pause of that length it is another. Conditions that come in bursts
# while they last (`LASTING`) are given a minute. Totals count every symptom, merged or not, and are never reset, as a
# counter of Prometheus must not be; they go with their guest.
#
# Whoever is named by the evidence is accused of all that is counted, so each has an incident of its own. Somebody with
# many addresses would displace all others of the kind, so beyond `NAMED_MAX` at a time they are `OTHERS`, for as long
# as there are such.
#
# `_latest` finds the incident to merge with, `_of_kind` and `_of_guest` the one to drop, which is the one whose last
# report is longest ago: an incident that goes on is kept, and shown among the latest. When the guests together have too
# many, the guest with the most loses its oldest, so each is sure of an equal share. The indexes must agree, and
# `_forget` is the only place that removes an incident.
class Incidents:
    """The ring of incidents."""

    def __init__(self, take_id: Callable[[], int], wall_ns: Callable[[], int], changed: Changed) -> None:
        self._take_id, self._wall_ns, self._changed = take_id, wall_ns, changed
        self._ring: OrderedDict[int, Incident] = OrderedDict()
        self._of_guest: dict[str, OrderedDict[int, Incident]] = {"": OrderedDict()}
        self._of_kind: dict[tuple[str, str, str], OrderedDict[int, Incident]] = {}
        self._latest: dict[tuple[str, str, str, str, str], Incident] = {}
        self._totals: Counter[tuple[str, str, str]] = Counter()

    def __iter__(self) -> Iterator[Incident]:
        """In the order in which they last happened."""
        return iter(sorted(self._ring.values(), key=lambda incident: incident.last_ns))

    def __len__(self) -> int:
        return len(self._ring)

    def totals(self) -> dict[tuple[str, str, str], int]:
        """Number of incidents since the daemon started or the guest was made, by (guest, stage, cause)."""
        return dict(self._totals)

    def record(
        self, stage: str, cause: str, now_ns: HostNs, guest: str = "", subject: str = "",
        evidence: Evidence | None = None, at_ns: HostNs | None = None,
    ) -> Incident:  # fmt: skip
        """Record an incident. A repetition within a second (a minute if lasting) is merged into the earlier one."""
        assert (stage, cause) in CAUSES, (stage, cause)
        subject = printable(subject)
        at = now_ns if at_ns is None else at_ns
        self._totals[guest, stage, cause] += 1
        within_ns = MERGE_LASTING_NS if (stage, cause) in LASTING else MERGE_NS
        shown = _printable(evidence or {})
        key = (stage, cause, guest, subject)
        whose = " ".join(str(shown[name]) for name in WHO if name in shown)
        earlier = self._going_on(*key, whose, at - within_ns)
        if earlier is None and whose and self._is_full(*key, at - within_ns):
            whose, shown = OTHERS, {name: OTHERS if name in WHO else value for name, value in shown.items()}
            earlier = self._going_on(*key, OTHERS, at - within_ns)
        if earlier is not None:
            earlier.take(shown)
            earlier.last_ns = max(at, earlier.last_ns)
            earlier.told_ns = now_ns
            self._ring.move_to_end(earlier.number)
            self._of_guest[guest].move_to_end(earlier.number)
            self._of_kind[guest, stage, cause].move_to_end(earlier.number)
            self._changed("change", earlier)
            return earlier
        wall = self._wall_ns() - (now_ns - at)
        made = Incident(
            self._take_id(), at, wall, guest, subject, stage, cause, shown, whose, last_ns=at, told_ns=now_ns
        )
        own = self._of_kind.setdefault((guest, stage, cause), OrderedDict())
        self._of_guest.setdefault(guest, OrderedDict())[made.number] = made
        self._ring[made.number] = own[made.number] = self._latest[*key, whose] = made
        self._changed("new", made)
        if len(own) > INCIDENTS_PER_KIND_MAX:
            self._forget(next(iter(own.values())))
        self._bound(guest)
        return made

    def _going_on(
        self, stage: str, cause: str, guest: str, subject: str, whose: str, since_ns: HostNs
    ) -> Incident | None:
        """The incident that a repetition belongs to."""
        found = self._latest.get((stage, cause, guest, subject, whose))
        return found if found is not None and found.last_ns >= since_ns else None

    def _is_full(self, stage: str, cause: str, guest: str, subject: str, since_ns: HostNs) -> bool:
        """Whether those who are named are enough, or others are counted together already."""
        latest = list(islice(reversed(self._of_kind.get((guest, stage, cause), _NONE).values()), NAMED_MAX))
        many = len(latest) == NAMED_MAX and all(one.last_ns >= since_ns for one in latest)
        return many or self._going_on(stage, cause, guest, subject, OTHERS, since_ns) is not None

    def _bound(self, guest: str) -> None:
        """Drop the oldest if there are too many, of the daemon itself or of the guest with the most."""
        own = self._of_guest[""]
        if not guest and len(own) > INCIDENTS_MAX:
            self._forget(next(iter(own.values())))
        elif guest and len(self._ring) - len(own) > INCIDENTS_MAX:
            most = max((of for name, of in self._of_guest.items() if name), key=len)
            self._forget(next(iter(most.values())))

    def _forget(self, old: Incident) -> None:
        del self._ring[old.number], self._of_guest[old.guest][old.number]
        if old.guest and not self._of_guest[old.guest]:
            del self._of_guest[old.guest]
        kind = (old.guest, old.stage, old.cause)
        del self._of_kind[kind][old.number]
        if not self._of_kind[kind]:
            del self._of_kind[kind]
        key = (old.stage, old.cause, old.guest, old.subject, old.whose)
        if self._latest[key] is old:
            del self._latest[key]
        self._changed("remove", old)

    def forget(self, guest: str) -> None:
        """Forget a guest's incidents and totals: a later guest of the same name is a different one."""
        for old in list(self._of_guest.get(guest, {}).values()):
            self._forget(old)
        for key in [key for key in self._totals if key[0] == guest]:
            del self._totals[key]

    # A cause may be dated up to 50 ms after its effect, because the moment at which it began is an estimate, between
    # two observations. Only the recent ones of the kinds in question are looked at: this is asked for every symptom
    # that a listener reports, and the ring may be full.
    def near(
        self, stages: frozenset[str], at_ns: HostNs, before_ns: HostNs, guest: str = "", subject: str = ""
    ) -> Incident | None:
        """The latest incident of these stages shortly before `at_ns`, of the daemon or about a guest's `subject`."""
        kinds = [kind for kind in CAUSES if kind[0] in stages]
        found = [self._near("", kind, at_ns, before_ns, "") for kind in kinds]
        if subject:
            found += [self._near(guest, kind, at_ns, before_ns, subject) for kind in kinds]
        return max(filter(None, found), key=lambda incident: incident.told_ns, default=None)

    def _near(
        self, guest: str, kind: tuple[str, str], at_ns: HostNs, before_ns: HostNs, subject: str
    ) -> Incident | None:
        for incident in reversed(self._of_kind.get((guest, *kind), _NONE).values()):
            if incident.told_ns < at_ns - before_ns:
                break
            # A later report may be about an earlier time.
            during = incident.last_ns >= at_ns - before_ns and incident.at_ns <= at_ns + 50 * NS_PER_MS
            if during and subject in ("", incident.subject):
                return incident
        return None
